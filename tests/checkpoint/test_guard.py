"""Hostile files inside real checkpoints: every door refuses them, and nothing of them runs."""

import dataclasses
import io
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hostile_pickles
import pytest
import torch
from hostile_pickles import archive
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, write_json
from megatron_math.checkpoint.folders import open_checkpoint, seal
from megatron_math.checkpoint.guard import check_archive, check_extra_state
from megatron_math.checkpoint.pickles import UnsafePickleError, load_metadata
from megatron_math.checkpoint.state import checkpoint_dtype, load_weights
from megatron_math.convert.folder import convert_folder
from megatron_math.convert.import_hf import fresh_weights
from megatron_math.inspect.checkpoint import inspect_checkpoint
from megatron_math.model.config import ModelConfig
from megatron_math.model.presets import load_preset
from megatron_math.model.whole import open_model

SIZES = {
    "vocab_size": 64, "num_layers": 2, "hidden_size": 32, "num_attention_heads": 2,
    "num_query_groups": 2, "ffn_hidden_size": 64, "head_dim": 16,
}  # fmt: skip
WAYS = ("os.system", "names out of the memo", "a dotted name", "copyreg._reconstructor")
REFUSED = "is refused, and nothing of it was run"


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return load_preset("tiny", SIZES)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory, config: ModelConfig) -> Path:
    save = tmp_path_factory.mktemp("honest")
    fresh_weights(config, save, seed=1)
    return save


@pytest.fixture
def save(tmp_path: Path, honest: Path) -> Path:
    """A copy to do harm to."""
    return Path(shutil.copytree(honest, tmp_path / "save"))


def plant_list(folder: Path, contents: bytes) -> None:
    (folder / ".metadata").write_bytes(contents)


def plant_common(folder: Path, contents: bytes) -> None:
    (folder / "common.pt").write_bytes(archive(contents))


def plant_object(folder: Path, contents: bytes) -> None:
    """In the place of the first object in a .distcp file, where the list of tensors points."""
    metadata = load_metadata((folder / ".metadata").read_bytes(), "it")
    index = next(
        index
        for index in metadata.storage_data
        if isinstance(metadata.state_dict_metadata[index.fqn], BytesStorageMetadata)
    )
    place = metadata.storage_data[index]
    file = folder / place.relative_path
    offset, planted = file.stat().st_size, archive(contents)
    with file.open("ab") as end:
        end.write(planted)
    there = dataclasses.replace(place, offset=offset, length=len(planted))
    metadata.storage_data[index] = there
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


PLANTS: dict[str, Callable[[Path, bytes], None]] = {
    ".metadata": plant_list, "common.pt": plant_common, "an object": plant_object,
}  # fmt: skip


def load(folder: Path, config: ModelConfig) -> None:
    with open_model(config, torch.float32, seed=2, fresh=True) as model:
        load_weights([model], folder)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("plant", sorted(PLANTS))
def test_a_hostile_checkpoint_is_refused(
    plant: str, way: str, save: Path, config: ModelConfig, tmp_path: Path
) -> None:
    canary, folder = tmp_path / "canary", save / "release"
    contents = hostile_pickles.live(canary)[way]
    PLANTS[plant](folder, contents)
    seal(folder, None)  # by who made it: digests prove nothing against them
    assert open_checkpoint(save).folder == folder
    with pytest.raises(UnsafePickleError, match=REFUSED):
        load(folder, config)
    with pytest.raises(UnsafePickleError, match=REFUSED):
        convert_folder(save, tmp_path / "hf")
    if plant == ".metadata":
        with pytest.raises(UnsafePickleError, match=REFUSED):
            checkpoint_dtype(folder)
        facts = inspect_checkpoint(save)
        assert facts["tensors"] is None
        assert REFUSED in facts["faults"][0]
    assert not canary.exists()


def test_torch_alone_does_run_it(save: Path, tmp_path: Path) -> None:
    """The control, in a process without the guard."""
    folders = [tmp_path / "0", tmp_path / "1"]
    for plant, folder in zip(("an object", ".metadata"), folders, strict=True):
        shutil.copytree(save / "release", folder)
        PLANTS[plant](folder, hostile_pickles.live(folder / "canary")["os.system"])
    script = (
        "import contextlib, sys, torch.distributed.checkpoint as c\n"
        "from torch.distributed.checkpoint.metadata import BytesStorageMetadata as B\n"
        "for folder in sys.argv[1:]:\n"
        "  with contextlib.suppress(Exception):\n"
        "    found = c.FileSystemReader(folder).read_metadata().state_dict_metadata\n"
        "    state = {name: None for name, kind in found.items() if isinstance(kind, B)}\n"
        "    c.load(state, checkpoint_id=folder, no_dist=True)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, folders)]
    subprocess.run(command, capture_output=True, check=False, timeout=120)
    for folder in folders:
        assert (folder / "canary").is_dir()


def test_an_honest_one_loads(save: Path, config: ModelConfig) -> None:
    load(open_checkpoint(save).folder, config)


def test_another_kind_of_checkpoint_is_refused(save: Path, config: ModelConfig) -> None:
    path = save / "release" / "metadata.json"
    write_json(path, read_json(path) | {"sharded_backend": "zarr"})
    with pytest.raises(UserError, match="sharded_backend 'zarr'; only torch_dist is read"):
        load(save / "release", config)


def test_archives_that_are_none() -> None:
    old = io.BytesIO()
    torch.save([1], old, _use_new_zipfile_serialization=False)
    program = archive(pickle.dumps([1], 2), "constants.pkl")
    for data, why in (
        (b"", "no archive"),
        (old.getvalue(), "no archive"),
        (b"PK\3\4" + bytes(100), "a broken archive"),
        (archive(pickle.dumps([1], 2))[:-30], "a broken archive"),
        (program, "a TorchScript program"),
    ):
        with pytest.raises(UnsafePickleError, match=why):
            check_archive(data, "it.pt")


def test_archives_of_tensors_and_plain_values_pass() -> None:
    kinds = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)
    values = {
        "tensors": [torch.zeros(2, 3, dtype=kind) for kind in kinds] + [torch.arange(6)[::2]],
        "scale": {"step": torch.tensor(1.0), "betas": (0.9, 0.95), "name": None},
        "fp8": torch.zeros(4, dtype=torch.float8_e4m3fn),
        "size": torch.zeros(2).size(),
    }
    file = io.BytesIO()
    torch.save(values, file)
    check_archive(file.getvalue(), "it.pt")


def extra_state(value: object) -> torch.Tensor:
    """As Transformer Engine keeps it: a pickle in a tensor of bytes."""
    return torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)


def test_what_transformer_engine_remembers_passes() -> None:
    remembered = {"scale_fwd": torch.ones(3), "amax_history_fwd": torch.zeros(16, 3),
                  "extra_fp8_variables": {"num_gemms": 1, "fp8_max": (448.0, 57344.0)}}  # fmt: skip
    check_extra_state("it", extra_state(remembered))
    check_extra_state("it", torch.empty(0, dtype=torch.uint8))
    check_extra_state("it", None)


@pytest.mark.parametrize("way", WAYS)
def test_code_in_what_transformer_engine_remembers_is_refused(way: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    hostile = hostile_pickles.live(canary)[way]
    in_tensor = pickle.dumps(hostile_pickles.Calls(torch.storage._load_from_bytes, hostile))
    for data in (hostile, in_tensor):
        with pytest.raises(UnsafePickleError, match=REFUSED):
            check_extra_state("it", torch.frombuffer(bytearray(data), dtype=torch.uint8))
    in_archive = io.BytesIO(archive(hostile))
    with pytest.raises(UnsafePickleError, match=REFUSED):
        check_extra_state("it", in_archive)
    assert not canary.exists()
