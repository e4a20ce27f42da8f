"""The stages 00_base and 60_export of a road: layout, up to date without torch, refusals."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from loaded import loaded
from safetensors.torch import load_file
from tiny_models import make_hf_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.base.road import Road
from megatron_math.base.stage import Stage
from megatron_math.checkpoint.folders import open_checkpoint, publish, temporary_folder
from megatron_math.convert.run import run_base, run_export
from megatron_math.model.presets import load_preset
from megatron_math.tokenizer import load_tokenizer

TINY = {"num_layers": 2, "vocab_size": 1500, "hidden_size": 64, "ffn_hidden_size": 96}


def road_with(tmp_path: Path, name: str, *overrides: str, **sections) -> Road:
    path = tmp_path / (name.replace("/", "_") + ".yaml")
    path.write_text(yaml.safe_dump({"name": name, "seed": 5, **sections}))
    return Road.load(path, overrides, tmp_path / "runs")


def tensors_of(checkpoint: Path, target: Path) -> dict[str, torch.Tensor]:
    from megatron_math.convert.folder import convert_folder

    convert_folder(checkpoint, target)
    return load_file(target / "model.safetensors")


def pretend_training(road: Road, iteration: int, source: Path | None = None) -> None:
    """50_train with one checkpoint that holds the base's weights."""
    stage = Stage(road.folder("50_train"), config={}, seed=road.seed)
    stage.begin()
    release = source or road.folder("00_base") / "checkpoint" / "release"
    save = road.folder("50_train") / "checkpoints"
    temporary = temporary_folder(save, iteration)
    for path in release.iterdir():
        if path.is_file() and path.name != "complete.json":
            shutil.copy(path, temporary / path.name)
    publish(temporary, save, iteration)
    stage.finish(stats={}, outputs=[])


def add_tokenizer(road: Road, tokenizer: Path) -> None:
    folder = road.folder("30_index") / "tokenizer"
    folder.mkdir(parents=True)
    load_tokenizer(tokenizer).save(folder)


def test_a_fresh_base_follows_from_preset_overrides_and_seed(tmp_path):
    one = road_with(tmp_path, "one", base={"preset": "tiny"}, model=TINY)
    same = road_with(tmp_path, "same", base={"preset": "tiny"}, model=TINY)
    other = road_with(tmp_path, "other", "seed=6", base={"preset": "tiny"}, model=TINY)
    found = {}
    for road in (one, same, other):
        stage = run_base(road)
        assert stage.is_done()
        found[road.name] = tensors_of(stage.folder / "checkpoint", tmp_path / ("hf_" + road.name))
    folder = one.folder("00_base")
    expected = load_preset("tiny", TINY)
    assert read_json(folder / "model.json") == expected.model_dump(mode="json")
    tracker = folder / "checkpoint" / "latest_checkpointed_iteration.txt"
    assert tracker.read_text() == "release\n"
    assert sum(t.numel() for t in found["one"].values()) == expected.num_parameters()
    embedding = "model.embed_tokens.weight"
    assert found["one"][embedding].dtype == torch.float32
    assert found["one"][embedding].std().item() == pytest.approx(expected.init_std, rel=0.05)
    for name, tensor in found["one"].items():
        assert torch.equal(tensor, found["same"][name]), name
    assert not torch.equal(found["one"][embedding], found["other"][embedding])


def test_up_to_date_is_answered_without_torch_and_a_change_is_noticed(tmp_path, tokenizer_files):
    road = road_with(tmp_path, "road", base={"preset": "tiny"}, model=TINY)
    run_base(road)
    add_tokenizer(road, tokenizer_files["HuggingFaceTokenizer"])
    pretend_training(road, 5)
    run_export(road)
    before = (road.folder("60_export") / "hf" / "model.safetensors").stat().st_mtime_ns
    script = (
        "import sys\n"
        "from megatron_math.base.road import Road\n"
        "from megatron_math.convert.run import run_base, run_export\n"
        "road = Road.load(sys.argv[1], (), sys.argv[2])\n"
        "assert run_base(road).was_done and run_export(road).was_done\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    command = [sys.executable, "-c", script, str(road.yaml_path), str(road.root.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (road.folder("60_export") / "hf" / "model.safetensors").stat().st_mtime_ns == before
    wider = road_with(tmp_path, "road", base={"preset": "tiny"}, model=TINY | {"init_std": 0.1})
    stage = run_base(wider)
    assert not stage.was_done
    assert read_json(wider.folder("00_base") / "model.json")["init_std"] == 0.1


def test_a_base_from_a_hugging_face_folder(hf_folder, tmp_path, tokenizer_files):
    source = hf_folder("qwen2", vocab_size=1500)
    for path in tokenizer_files["HuggingFaceTokenizer"].parent.iterdir():
        shutil.copy(path, source / path.name)
    agreeing = {"family": "qwen2", "num_layers": 2, "vocab_padding_multiple": 64}
    road = road_with(tmp_path, "road", base={"hf": str(source)}, model=agreeing)
    folder = run_base(road).folder
    assert read_json(folder / "receipt.json")["verdict"] == "equal"
    assert (folder / "hf").resolve() == source.resolve()
    assert load_tokenizer(folder / "tokenizer").fingerprint == load_tokenizer(source).fingerprint
    model = read_json(folder / "model.json")
    assert (model["family"], model["qkv_bias"], model["vocab_padding_multiple"]) == (
        "qwen2",
        True,
        64,
    )
    # The same weights at another place are the same base; other weights are not.
    moved = tmp_path / "moved"
    shutil.copytree(source, moved)
    again = road_with(tmp_path, "road", base={"hf": str(moved)}, model=agreeing)
    assert run_base(again).was_done
    make_hf_folder(moved, "qwen2", vocab_size=1500, num_hidden_layers=3)
    changed = road_with(tmp_path, "road", base={"hf": str(moved)})
    assert not run_base(changed).was_done


def test_a_base_from_another_roads_export(tmp_path, tokenizer_files):
    first = road_with(tmp_path, "study/base", base={"preset": "tiny"}, model=TINY)
    run_base(first)
    second = road_with(tmp_path, "study/cpt", base={"run": "../base"})
    with pytest.raises(UserError, match="60_export is needed and is not finished"):
        run_base(second)
    add_tokenizer(first, tokenizer_files["HuggingFaceTokenizer"])
    pretend_training(first, 5)
    run_export(first)
    folder = run_base(second).folder
    link = os.readlink(folder / "hf")
    assert not os.path.isabs(link)  # the folder of runs may move as a whole
    assert (folder / "hf" / "config.json").is_file()
    exported = load_file(first.folder("60_export") / "hf" / "model.safetensors")
    imported = tensors_of(folder / "checkpoint", tmp_path / "again")
    assert all(torch.equal(imported[name], tensor) for name, tensor in exported.items())
    assert run_base(second).was_done


@pytest.mark.parametrize("kind", ["SentencePieceTokenizer", "HuggingFaceTokenizer"])
def test_an_export_is_a_folder_that_transformers_uses(kind, tmp_path, tokenizer_files):
    tokenizer = load_tokenizer(tokenizer_files[kind])
    sizes = TINY | {"vocab_size": tokenizer.size}
    road = road_with(tmp_path, "road", base={"preset": "tiny"}, model=sizes)
    run_base(road)
    add_tokenizer(road, tokenizer_files[kind])
    pretend_training(road, 5)
    folder = run_export(road).folder
    receipt = read_json(folder / "receipt.json")
    assert receipt["verdict"] == "equal"
    assert receipt["largest_logit_difference"] <= 1e-4
    text = "What is 12 + 7? The answer is 19."
    loaded = AutoTokenizer.from_pretrained(folder / "hf")
    assert loaded.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    model = AutoModelForCausalLM.from_pretrained(folder / "hf")
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eod_id
    assert model.config.vocab_size == tokenizer.size
    assert model.state_dict()["lm_head.weight"].shape[0] == tokenizer.size
    assert load_tokenizer(folder / "hf").fingerprint == tokenizer.fingerprint


def test_the_export_takes_the_newest_checkpoint_or_the_one_asked_for(tmp_path, tokenizer_files):
    road = road_with(tmp_path, "road", base={"preset": "tiny"}, model=TINY)
    run_base(road)
    pretend_training(road, 5)
    with pytest.raises(UserError, match="no tokenizer to export"):
        run_export(road)
    add_tokenizer(road, tokenizer_files["HuggingFaceTokenizer"])
    other = road_with(tmp_path, "other", "seed=9", base={"preset": "tiny"}, model=TINY)
    run_base(other)
    pretend_training(road, 10, other.folder("00_base") / "checkpoint" / "release")
    newest = run_export(road)
    assert read_json(newest.folder / "stats.json")["iteration"] == 10
    embedding = "model.embed_tokens.weight"
    tenth = load_file(newest.folder / "hf" / "model.safetensors")[embedding]
    asked = road_with(
        tmp_path, "road", base={"preset": "tiny"}, model=TINY, convert={"iteration": 5}
    )
    fifth = load_file(run_export(asked).folder / "hf" / "model.safetensors")[embedding]
    assert not torch.equal(fifth, tenth)
    missing = road_with(tmp_path, "road", base={"preset": "tiny"}, convert={"iteration": 7})
    with pytest.raises(UserError, match="among 5, 10"):
        run_export(missing)


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path, tokenizer_files):
    road = road_with(tmp_path, "road", base={"preset": "tiny"}, model=TINY | {"vocab_size": 200})
    run_base(road)
    add_tokenizer(road, tokenizer_files["HuggingFaceTokenizer"])
    pretend_training(road, 5)
    with pytest.raises(UserError, match=r"tokenizer has 1\d+ ids .* vocabulary of 200"):
        run_export(road)
    assert not (road.folder("60_export") / "hf").exists()


@pytest.mark.parametrize(
    ("base", "model", "message"),
    [
        ({}, {}, "exactly one of hf"),
        ({"preset": "tiny", "hf": "x"}, {}, "found hf and preset"),
        ({"preset": "tinny"}, {}, "did you mean 'tiny'"),
        ({"preset": "tiny"}, {"preset": "small-15m"}, "base.preset is tiny and model.preset is"),
        ({"preset": "tiny"}, {"num_query_groups": 3}, "num_query_groups 3"),
        ({"hf": "FOLDER"}, {"num_layers": 9}, "model.num_layers is 9, the folder has 2"),
        ({"hf": "FOLDER"}, {"family": "mistral"}, "model.family is mistral, the folder has llama"),
        ({"hf": "FOLDER"}, {"preset": "llama3-8b"}, "preset llama3-8b has hidden_size 4096, the"),
        ({"hf": "EMPTY"}, {}, "has no config.json"),
    ],
)
def test_bad_sections_are_refused_before_anything_is_written(
    base, model, message, hf_folder, tmp_path
):
    places = {"FOLDER": str(hf_folder("llama2")), "EMPTY": str(tmp_path)}
    base = {key: places.get(value, value) for key, value in base.items()}
    road = road_with(tmp_path, "road", base=base, model=model)
    with pytest.raises(UserError, match=message):
        run_base(road)
    assert not road.root.exists()


TWO_PROCESSES = """
import json, sys
from pathlib import Path
import torch
from megatron_math.base.files import read_json
from megatron_math.checkpoint.folders import publish
from megatron_math.checkpoint.state import load_weights, save_weights
from megatron_math.device.grid import Grid
from megatron_math.device.open import open_device
from megatron_math.model.build import build_model
from megatron_math.model.config import ModelConfig

release, temporary, save = map(Path, sys.argv[1:])
config = ModelConfig.model_validate(read_json(release / "model.json"))
grid = Grid.model_validate({"tensor": 2})
with open_device(grid, 1) as device:
    models = build_model(config, grid=grid, dtype=torch.float32, sequence_length=64)
    load_weights(models, release)
    with torch.no_grad():
        for parameter in models[0].parameters():
            parameter.mul_(2)
    save_weights(models, temporary)
    if device.rank == 0:
        (temporary / "model.json").write_text((release / "model.json").read_text())
        publish(temporary, save, 7)
    device.barrier()
"""


def test_a_checkpoint_of_two_tensor_parallel_processes_is_exported_whole(hf_folder, tmp_path):
    from megatron_math.convert.folder import convert_folder

    source = hf_folder("llama3")
    convert_folder(source, tmp_path / "core")
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    release = tmp_path / "core" / "release"
    save = tmp_path / "trained"
    temporary = temporary_folder(save, 7)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, str(script), str(release), str(temporary), str(save)]
    assert loaded().start_processes(arguments, 2, environment) == 0
    assert open_checkpoint(save).iteration == 7
    doubled = tensors_of(save, tmp_path / "back")
    for name, tensor in load_file(source / "model.safetensors").items():
        assert torch.equal(doubled[name], 2 * tensor), name


def test_the_tool_speaks_megatron_lms_flags(hf_folder, tmp_path, repository, capsys):
    path = repository / "tools" / "convert_checkpoint.py"
    spec = importlib.util.spec_from_file_location("convert_checkpoint", path)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    source, core = str(hf_folder("llama2")), str(tmp_path / "core")
    assert tool.main(["--loader", "core", "--load", source, "--save", core]) == 2
    assert "is a folder of kind hf" in capsys.readouterr().err
    assert tool.main(["--loader", "hf", "--saver", "hf", "--load", source, "--save", core]) == 2
    assert not (tmp_path / "core").exists()
    flags = ["--model-type", "GPT", "--loader", "hf", "--saver", "core"]
    assert tool.main([*flags, "--load", source, "--save", core]) == 0
    assert read_json(tmp_path / "core" / "receipt.json")["verdict"] == "equal"
    back = ["--loader", "core", "--load", core, "--save", str(tmp_path / "back")]
    assert tool.main(back) == 0
    assert (tmp_path / "back" / "model.safetensors").is_file()
