"""Hugging Face -> Megatron-Core -> Hugging Face: the same tensors, logits and files."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import FAMILIES
from transformers import AutoModelForCausalLM

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.convert.config import ConvertConfig
from megatron_math.convert.folder import convert_folder
from megatron_math.convert.receipt import FP32_TOLERANCE
from megatron_math.tokenizer import load_tokenizer


def tensors_in(folder):
    found = {}
    for path in folder.glob("*.safetensors"):
        found.update(load_file(path))
    return found


def assert_same_tensors(one, two):
    first, second = tensors_in(one), tensors_in(two)
    assert set(first) == set(second)
    for name in first:
        assert first[name].dtype == second[name].dtype, name
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_gives_identical_tensors_and_equal_logits(family, hf_folder, tmp_path):
    source = hf_folder(family)
    there = convert_folder(source, tmp_path / "core")
    back = convert_folder(tmp_path / "core", tmp_path / "back")
    assert_same_tensors(source, tmp_path / "back")
    for receipt in (there, back):
        assert receipt["verdict"] == "equal"
        assert receipt["largest_logit_difference"] <= FP32_TOLERANCE == receipt["tolerance"]
        assert 1 < receipt["largest_logit"] < 100  # differences are not small for lack of signal
    assert read_json(tmp_path / "core" / "receipt.json") == there
    assert read_json(tmp_path / "back" / "receipt.json") == back
    assert read_json(tmp_path / "back" / "config.json") == read_json(source / "config.json")
    tokens_BS = torch.arange(40).reshape(2, 20) * 7 % 300
    logits = [
        AutoModelForCausalLM.from_pretrained(folder).eval()(tokens_BS).logits
        for folder in (source, tmp_path / "back")
    ]
    assert torch.equal(*logits)


@pytest.mark.parametrize(("dtype", "share"), [("bfloat16", 0.1), ("float16", 0.015)])
def test_short_types_keep_their_type_and_have_a_tolerance_of_their_own(
    dtype, share, hf_folder, tmp_path
):
    source = hf_folder("qwen2", dtype=dtype)
    exact = convert_folder(source, tmp_path / "core")
    assert exact["computed_in"] == "float32"
    assert exact["largest_logit_difference"] <= FP32_TOLERANCE
    settings = ConvertConfig(receipt_dtype="weights")
    rough = convert_folder(tmp_path / "core", tmp_path / "back", settings=settings)
    assert rough["computed_in"] == rough["weights"] == dtype
    assert rough["tolerance"] == pytest.approx(share * rough["largest_logit"])
    assert_same_tensors(source, tmp_path / "back")


def test_experts_are_compared_in_fp32_only(hf_folder, tmp_path):
    source = hf_folder("mixtral", dtype="bfloat16")
    settings = ConvertConfig(receipt_dtype="weights")
    with pytest.raises(UserError, match="rounding decides which expert works on a token"):
        convert_folder(source, tmp_path / "core", settings=settings)
    convert_folder(source, tmp_path / "core")
    convert_folder(tmp_path / "core", tmp_path / "back")
    assert_same_tensors(source, tmp_path / "back")


def test_shards_in_and_out_with_an_index(hf_folder, tmp_path):
    source = hf_folder("llama3", max_shard_size="150KB")
    assert len(list(source.glob("*.safetensors"))) > 1
    convert_folder(source, tmp_path / "core")
    settings = ConvertConfig(max_shard_bytes=100_000)
    convert_folder(tmp_path / "core", tmp_path / "back", settings=settings)
    index = read_json(tmp_path / "back" / "model.safetensors.index.json")
    files = set(index["weight_map"].values())
    assert files == {path.name for path in (tmp_path / "back").glob("*.safetensors")}
    assert len(files) > 1
    tensors = tensors_in(source).values()
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in tensors)
    assert_same_tensors(source, tmp_path / "back")


def test_tokenizer_and_generation_settings_are_kept(hf_folder, tmp_path, tokenizer_files):
    source = hf_folder("llama2", vocab_size=1500)
    origin = tokenizer_files["HuggingFaceTokenizer"].parent
    for path in origin.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    (source / "chat_template.jinja").write_text("{{ messages }}")
    generation = {"eos_token_id": [2, 17], "temperature": 0.6, "do_sample": True}
    (source / "generation_config.json").write_text(json.dumps(generation))
    convert_folder(source, tmp_path / "core")
    convert_folder(tmp_path / "core", tmp_path / "back")
    back = tmp_path / "back"
    assert read_json(back / "generation_config.json") == generation
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (back / name).read_bytes() == (source / name).read_bytes()
    assert load_tokenizer(back).fingerprint == load_tokenizer(source).fingerprint


def test_special_tokens_named_by_config_json_alone_survive(hf_folder, tmp_path, tokenizer_files):
    source = hf_folder("llama2", vocab_size=1500, bos_token_id=0, eos_token_id=1)
    plain = tokenizer_files["HuggingFaceTokenizer"].read_bytes()
    (source / "tokenizer.json").write_bytes(plain)
    convert_folder(source, tmp_path / "core")
    kept = load_tokenizer(tmp_path / "core" / "release" / "tokenizer")
    assert (kept.eod_id, kept.bos_id) == (1, 0)
    assert kept.fingerprint == load_tokenizer(source).fingerprint


def test_a_tied_layer_that_was_saved_again_is_accepted_if_equal(hf_folder, tmp_path):
    from safetensors.torch import save_file

    source = hf_folder("qwen2-tied")
    tensors = tensors_in(source)
    again = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors | {"lm_head.weight": again}, source / "model.safetensors")
    convert_folder(source, tmp_path / "core")
    again[0, 0] += 1
    save_file(tensors | {"lm_head.weight": again}, source / "model.safetensors")
    with pytest.raises(UserError, match="lm_head.weight differs"):
        convert_folder(source, tmp_path / "core2")
