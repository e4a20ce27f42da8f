"""Planted faults: each is refused in words, and nothing half-written is left."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.checkpoint.folders import seal
from megatron_math.convert import export_hf, import_hf, tensors
from megatron_math.convert.config import ConvertConfig
from megatron_math.convert.folder import convert_folder
from megatron_math.convert.receipt import compare_logits


def change_tensors(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)


def drop(name):
    return lambda held: {k: v for k, v in held.items() if k != name}


GATE = "model.layers.1.mlp.gate_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(GATE), f"missing: {GATE}"),
        (
            lambda held: held | {"model.layers.0.self_attn.q_norm.weight": torch.ones(16)},
            "not used by LlamaForCausalLM: model.layers.0.self_attn.q_norm.weight",
        ),
        (lambda held: held | {GATE: held[GATE].T.contiguous()}, r"gate_proj.weight is \[64, 96\]"),
        (lambda held: held | {GATE: held[GATE].half()}, "tensors of F16, F32"),
    ],
)
def test_wrong_tensors_are_refused_by_name(change, message, hf_folder, tmp_path):
    source = hf_folder("llama2")
    change_tensors(source, change)
    with pytest.raises(UserError, match=message):
        convert_folder(source, tmp_path / "core")
    assert not (tmp_path / "core").exists()


def test_derived_rotary_tensors_of_old_folders_are_accepted(hf_folder, tmp_path):
    source = hf_folder("llama2")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(source, lambda held: held | {name: torch.ones(8)})
    convert_folder(source, tmp_path / "core")
    convert_folder(tmp_path / "core", tmp_path / "back")
    assert name not in load_file(tmp_path / "back" / "model.safetensors")


def test_another_architecture_is_refused_with_both_names(hf_folder, tmp_path):
    source = hf_folder("llama2")
    config = read_json(source / "config.json")
    (source / "config.json").write_text(json.dumps(config | {"architectures": ["PhiForCausalLM"]}))
    with pytest.raises(UserError, match=r"PhiForCausalLM is not supported.*LlamaForCausalLM"):
        convert_folder(source, tmp_path / "core")
    # A Qwen2 configuration over Llama's tensors: biases are missing.
    qwen2 = config | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    (source / "config.json").write_text(json.dumps(qwen2))
    with pytest.raises(UserError, match=r"Qwen2ForCausalLM; missing: .*q_proj.bias"):
        convert_folder(source, tmp_path / "core")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]


def swapped_query_and_key(row, config, parts):
    if row.kind == "qkv_weight":
        parts = [parts[1], parts[0], parts[2]]
    return tensors.join(row, config, parts)


@pytest.mark.parametrize("asked", ["fp32", "weights"])
def test_swapped_query_and_key_fail_the_receipt(asked, hf_folder, tmp_path, monkeypatch):
    # Multi-head attention: query and key have one shape, so only the logits can tell.
    source = hf_folder("llama2", dtype="bfloat16")
    monkeypatch.setattr("megatron_math.convert.core_model.join", swapped_query_and_key)
    with pytest.raises(UserError, match="logits differ from transformers' by"):
        convert_folder(source, tmp_path / "core", settings=ConvertConfig(receipt_dtype=asked))
    assert not (tmp_path / "core").exists()


def test_queries_of_two_groups_exchanged_fail_the_receipt(hf_folder, tmp_path, monkeypatch):
    # The classic slip: query, key and value one after another instead of group by group.
    def not_interleaved(row, config, parts):
        return torch.cat(parts) if row.kind == "qkv_weight" else tensors.join(row, config, parts)

    source = hf_folder("llama3")
    monkeypatch.setattr("megatron_math.convert.core_model.join", not_interleaved)
    with pytest.raises(UserError, match="logits differ"):
        convert_folder(source, tmp_path / "core")


def test_up_before_gate_in_one_expert_fails_the_receipt(hf_folder, tmp_path, monkeypatch):
    def exchanged(row, config, parts):
        if "layers.1.mlp.experts.local_experts.2.linear_fc1" in row.core:
            parts = parts[::-1]
        return tensors.join(row, config, parts)

    source = hf_folder("mixtral")
    monkeypatch.setattr("megatron_math.convert.core_model.join", exchanged)
    with pytest.raises(UserError, match="logits differ"):
        convert_folder(source, tmp_path / "core")


def test_a_faulty_export_leaves_the_old_folder_alone(hf_folder, tmp_path, monkeypatch):
    convert_folder(hf_folder("llama2"), tmp_path / "core")
    target = tmp_path / "back"
    target.mkdir()

    def up_before_gate(row, config, parameter):
        parts = tensors.split(row, config, parameter)
        return parts[::-1] if row.kind == "gate_up" else parts

    monkeypatch.setattr(export_hf, "split", up_before_gate)
    with pytest.raises(UserError, match="the export of .* is refused"):
        convert_folder(tmp_path / "core", target)
    assert list(target.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "core", "hf"]


def test_a_crash_inside_the_save_leaves_nothing(hf_folder, tmp_path, monkeypatch):
    def crash(models, folder):
        (folder / "__0_0.distcp").write_bytes(b"half")
        raise KeyboardInterrupt

    source = hf_folder("llama2")
    monkeypatch.setattr(import_hf, "save_weights", crash)
    with pytest.raises(KeyboardInterrupt):
        convert_folder(source, tmp_path / "core")
    assert not (tmp_path / "core").exists()


def test_what_killed_conversions_left_is_swept(hf_folder, tmp_path):
    source = hf_folder("llama2")
    for leftover in (tmp_path / "core" / ".release.tmp.1", tmp_path / ".back.tmp.1"):
        leftover.mkdir(parents=True)
        (leftover / "half").write_text("")
    settings = ConvertConfig()
    import_hf.import_hf(source, tmp_path / "core", settings=settings)
    convert_folder(tmp_path / "core", tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "core", "hf"]
    assert not (tmp_path / "core" / ".release.tmp.1").exists()


def test_a_checkpoint_of_another_model_is_refused(hf_folder, tmp_path):
    convert_folder(hf_folder("llama2"), tmp_path / "core")
    release = tmp_path / "core" / "release"
    model = read_json(release / "model.json")
    wrong = json.dumps(model | {"ffn_hidden_size": 128})
    (release / "model.json").write_text(wrong)
    seal(release, None)
    with pytest.raises(UserError, match=r"does not fit this model: .*linear_fc1"):
        convert_folder(tmp_path / "core", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_not_a_number_is_a_difference():
    tokens_BS = torch.zeros(1, 2, dtype=torch.int64)
    logits = torch.ones(1, 2, 3)
    assert compare_logits(logits, logits, tokens_BS, torch.float32)["verdict"] == "equal"
    broken = logits.clone()
    broken[0, 0, 0] = float("nan")
    for ours, reference in ((broken, logits), (logits, broken), (broken, broken)):
        assert compare_logits(ours, reference, tokens_BS, torch.float32)["verdict"] == "different"
    off = logits + 2e-4
    assert compare_logits(off, logits, tokens_BS, torch.float32)["verdict"] == "different"


@pytest.mark.parametrize(
    ("source", "message"),
    [("absent", "is not a folder"), ("empty", "holds neither of config.json")],
)
def test_sources_of_no_kind(source, message, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        convert_folder(tmp_path / source, tmp_path / "out")


def test_pickled_weights_and_missing_shards_are_named(hf_folder, tmp_path):
    source = hf_folder("llama2", max_shard_size="150KB")
    lost = sorted(source.glob("*.safetensors"))[0]
    lost.unlink()
    with pytest.raises(UserError, match=f"names {lost.name}, which is not there"):
        convert_folder(source, tmp_path / "core")
    for path in source.glob("model*"):
        path.unlink()
    (source / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="it holds pytorch_model.bin only"):
        convert_folder(source, tmp_path / "core")


def test_a_target_with_something_in_it_is_refused(hf_folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="is not empty"):
        convert_folder(hf_folder("llama2"), tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def test_a_rank_of_many_may_not_convert(hf_folder, tmp_path, monkeypatch):
    source = hf_folder("llama2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="this is rank 1 of 4"):
        convert_folder(source, tmp_path / "core")
    assert not (tmp_path / "core").exists()


def test_transformers_first_used_after_the_cpu_patches_still_makes_whole_models(hf_folder):
    # Without a GPU, a model made under torch.device("meta") after patching once had rotary
    # frequencies of random memory. The order of imports matters, hence a process of its own.
    source = hf_folder("llama2")
    script = (
        "import sys, torch\n"
        "from megatron_math.device.open import device_kind\n"
        "if device_kind() == 'cpu':\n"
        "    from megatron_math.device.on_cpu import patch_cpu; patch_cpu()\n"
        "from transformers import AutoModelForCausalLM\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "frequencies = model.model.rotary_emb.inv_freq\n"
        "expected = 10000.0 ** (-torch.arange(0, 16, 2) / 16)\n"
        "assert torch.allclose(frequencies, expected), frequencies\n"
    )
    command = [sys.executable, "-c", script, str(source)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
