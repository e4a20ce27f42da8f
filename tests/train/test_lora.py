"""LoRA: every layout computes the same, the base stays, the optimizer holds adapters only, and
resuming changes nothing. Controls drop one reduction of a gradient and must be caught."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from loaded import loaded
from safetensors.torch import load_file
from test_interchange import load_with_plain_core
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_state
from train_roads import metrics

from megatron_math.base.config import parse_section
from megatron_math.base.errors import StoppedOnRequest, UserError
from megatron_math.base.files import read_json
from megatron_math.base.road import Road
from megatron_math.checkpoint.folders import open_checkpoint
from megatron_math.convert.run import run_export
from megatron_math.model.config import ModelConfig
from megatron_math.model.lora_config import LoraConfig, checkpoint_lora
from megatron_math.train.run import run

TOLERANCE = 1e-5
LORA = [
    "train.lora={rank: 4, alpha: 16}", "train.micro_batch_size=4", "train.validation_samples=0",
]  # fmt: skip
WHOLE = "train.micro_batch_size=8"
"""One micro-batch a step, which has its all-reduces; two in the other layouts."""
LAYOUTS = {
    "tensor 2": ["parallel.tensor=2", WHOLE],
    "tensor 2, sequence parallel": ["parallel.tensor=2", "parallel.sequence=true"],
    "pipeline 2": ["parallel.pipeline=2"],
    "context 2": ["parallel.context=2", WHOLE],
    "data 2": ["parallel.data=2"],
}
HALF = [*LAYOUTS["tensor 2"], "precision.dtype=bf16"]
DROPPED = {
    "tensor 2": (
        "import megatron_math.model.lora as ours\n"
        "patch(ours, 'copy_to_tensor_model_parallel_region', lambda first, *_, **__: first)\n"
    ),
    "tensor 2, sequence parallel": (
        "import sys, megatron.core.distributed.finalize_model_grads\n"
        "core = sys.modules['megatron.core.distributed.finalize_model_grads']\n"
        "name = '_allreduce_non_tensor_model_parallel_grads'\n"
        "patch(core, name, lambda first, *_, **__: first)\n"
    ),
}
"""Of A in a column-parallel map, where the group sees its outputs; of replicated factors, where
each rank sees a part of the tokens."""
STOP = 11


@pytest.fixture(scope="module")
def lora_road(prepared: Path, tmp_path_factory: pytest.TempPathFactory):
    """lora_road(*overrides, trained=...) -> a road of its own, ready to train with adapters."""

    def copy(*overrides: str, trained: Road | None = None) -> Road:
        runs = tmp_path_factory.mktemp("lora")
        source = prepared / "runs" if trained is None else trained.runs
        shutil.copytree(source, runs, symlinks=True, dirs_exist_ok=True)
        return Road.load(prepared / "road.yaml", [*LORA, *overrides], runs)

    return copy


@pytest.fixture(scope="module")
def one_process(lora_road) -> Road:
    road = lora_road("train.validation_samples=8", "train.validation_interval=1000")
    run(road)
    return road


@pytest.fixture(scope="module")
def stopped(lora_road) -> Road:
    road = lora_road(f"train.stop_after={STOP}")
    with pytest.raises(StoppedOnRequest):
        run(road)
    return road


@pytest.fixture(scope="module")
def two_processes(lora_road, stopped: Road, tmp_path_factory) -> dict[str, Road]:
    """One start of two processes trains them all, one after another."""
    roads = {name: lora_road(*overrides) for name, overrides in LAYOUTS.items()}
    for name in DROPPED:
        roads[f"{name}, dropped"] = lora_road(*LAYOUTS[name], "train.stop_after=4")
    roads["bf16"] = lora_road(*HALF)
    roads["resumed"] = lora_road(*LAYOUTS["tensor 2, sequence parallel"], trained=stopped)
    jobs = [
        [str(road.yaml_path), road.overrides, str(road.runs)]
        + [DROPPED[layout] for layout in DROPPED if name == f"{layout}, dropped"]
        for name, road in roads.items()
    ]
    path = tmp_path_factory.mktemp("jobs") / "jobs.json"
    path.write_text(json.dumps(jobs))
    script = Path(__file__).with_name("train_several.py")
    assert loaded().start_processes([sys.executable, str(script), str(path)], 2) == 0
    return roads


def largest_difference(one: Road, other: Road, *, num_steps: int = 22) -> float:
    """Largest relative difference of loss and gradient norm over the first steps, or all."""
    pairs = list(zip(metrics(one)[:num_steps], metrics(other), strict=True))
    assert len(pairs) == num_steps
    names = ("lm loss", "grad-norm")
    worst = max(abs(a[name] - b[name]) / abs(a[name]) for a, b in pairs for name in names)
    print(f"largest relative difference: {worst:.2e}")
    return worst


def newest(road: Road) -> Path:
    return open_checkpoint(road.folder("50_train") / "checkpoints").folder


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, whole, by its name; read with torch alone."""
    entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    state = {
        name: torch.zeros(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    load_state(state, storage_reader=FileSystemReader(folder), no_dist=True)
    return state


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_computes_the_same(layout: str, one_process: Road, two_processes) -> None:
    assert largest_difference(one_process, two_processes[layout]) < TOLERANCE


@pytest.mark.parametrize("layout", DROPPED)
def test_a_dropped_reduction_is_caught(layout: str, one_process: Road, two_processes) -> None:
    road = two_processes[f"{layout}, dropped"]
    assert largest_difference(one_process, road, num_steps=4) > 100 * TOLERANCE


def test_half_precision_stays_close(one_process: Road, two_processes) -> None:
    for mine, yours in zip(metrics(one_process), metrics(two_processes["bf16"]), strict=True):
        assert mine["lm loss"] == pytest.approx(yours["lm loss"], rel=2e-2)


def test_it_learns(one_process: Road) -> None:
    rows = metrics(one_process)
    assert rows[-1]["lm loss"] < 0.96 * rows[0]["lm loss"]
    first, last = (metrics(one_process, "validation.jsonl")[at]["loss"] for at in (0, -1))
    for source in ("general", "problems"):
        assert last[source] < first[source]


@pytest.mark.parametrize("layout", ["one process", *LAYOUTS])
def test_the_base_stays_and_only_adapters_have_state(
    layout: str, one_process: Road, two_processes
) -> None:
    road = one_process if layout == "one process" else two_processes[layout]
    before = tensors_in(open_checkpoint(road.folder("00_base") / "checkpoint").folder)
    after = tensors_in(newest(road))
    for name, value in before.items():
        assert torch.equal(value, after.pop(name)), name
    adapters = {name for name in after if not name.startswith("optimizer.")}
    assert all(name.endswith(("lora_A", "lora_B")) for name in adapters)
    reference = tensors_in(newest(one_process))
    for name in adapters:
        assert after[name].abs().max() > 0
        torch.testing.assert_close(after[name], reference[name], rtol=1e-3, atol=1e-5)
    # Every number that is trained has two moments and an fp32 copy, and nothing else has any.
    model = ModelConfig.model_validate_json((newest(road) / "model.json").read_text())
    lora = checkpoint_lora(newest(road))
    assert lora is not None
    trained = sum(after[name].numel() for name in adapters)
    assert trained == lora.num_parameters(model) < 0.2 * model.num_parameters()
    for kind in ("exp_avg", "exp_avg_sq", "param"):
        prefix = f"optimizer.state.{kind}."
        held = [after[name].numel() for name in after if name.startswith(prefix)]
        assert sum(held) == trained, kind


def test_resuming_changes_nothing(one_process: Road, stopped: Road, lora_road) -> None:
    """Full recomputation in the second half: a frozen embedding must not end the gradients."""
    road = lora_road("parallel.recompute=full", trained=stopped)
    run(road)
    assert largest_difference(one_process, road) == 0
    mine, yours = (tensors_in(newest(one)) for one in (one_process, road))
    assert mine.keys() == yours.keys()
    for name, value in mine.items():
        assert torch.equal(value, yours[name]), name


def test_resuming_in_another_layout(one_process: Road, two_processes) -> None:
    assert largest_difference(one_process, two_processes["resumed"]) < TOLERANCE


def test_plain_core_reads_the_base_from_it(one_process: Road, tmp_path: Path) -> None:
    hf = one_process.folder("00_base") / "hf"
    assert load_with_plain_core(hf, tmp_path, newest(one_process)) == [(0.0, True)]


def test_the_road_exports_model_and_adapter(one_process: Road) -> None:
    """What evaluation and other roads read, 60_export/hf, is the merged model."""
    folder = run_export(one_process).folder
    receipt = read_json(folder / "receipt.json")
    assert receipt["verdict"] == "equal"
    assert receipt["lora"]["rank"] == 4
    settings = read_json(folder / "adapter" / "adapter_config.json")
    assert Path(settings["base_model_name_or_path"]).samefile(one_process.folder("00_base") / "hf")
    name = "model.layers.3.mlp.down_proj"
    factors = load_file(folder / "adapter" / "adapter_model.safetensors")
    down, up = (factors[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "AB")
    weights = load_file(folder / "hf" / "model.safetensors")
    base = load_file(one_process.folder("00_base") / "hf" / "model.safetensors")
    update = weights[f"{name}.weight"] - base[f"{name}.weight"]
    torch.testing.assert_close(update, 4.0 * up @ down, rtol=1e-4, atol=1e-6)


def test_another_rank_is_another_run(stopped: Road, lora_road) -> None:
    road = lora_road("train.lora.rank=2", trained=stopped)
    with pytest.raises(UserError, match="other settings"):
        run(road)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"alpha": 16}, "rank: this key is required"),
        ({"rank": 0, "alpha": 16}, "rank"),
        ({"rank": 4, "alpha": 16, "targets": []}, "targets"),
        ({"rank": 4, "alpha": 16, "targets": ["qkv", "qkv"]}, "named twice"),
        ({"rank": 4, "alpha": 16, "targets": ["q"]}, "targets"),
        ({"rank": 4, "alpha": 16, "dropout": 0.1}, "unknown key 'dropout'"),
    ],
)
def test_settings_that_cannot_be(given: dict, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        parse_section(LoraConfig, given, "train.lora")


def test_a_rank_that_a_matrix_cannot_have(lora_road) -> None:
    with pytest.raises(UserError, match=r"rank 65 is more than .* qkv .*\(64\)"):
        run(lora_road("train.lora.rank=65"))


def test_the_order_of_targets_is_no_other_run() -> None:
    one, other = (
        LoraConfig(rank=4, alpha=8, targets=targets) for targets in (("fc2", "qkv"), ("qkv", "fc2"))
    )
    assert one.identity() == other.identity()
