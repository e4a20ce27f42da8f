"""A LoRA checkpoint leaves as a merged model and as PEFT's adapter; both compute what it does."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, write_json
from megatron_math.checkpoint.folders import open_checkpoint, publish, seal, temporary_folder
from megatron_math.checkpoint.state import checkpoint_dtype, load_weights, save_weights
from megatron_math.convert.core_model import core_logits
from megatron_math.convert.folder import convert_folder
from megatron_math.model.config import ModelConfig
from megatron_math.model.lora import is_adapter
from megatron_math.model.lora_config import LORA_FILE, LoraConfig
from megatron_math.model.whole import open_model

TOKENS_BS = torch.arange(80).reshape(2, 40) * 7 % 300
LORA = LoraConfig(rank=4, alpha=6)


@pytest.fixture
def lora_checkpoint(tmp_path: Path) -> Callable[..., torch.Tensor]:
    """lora_checkpoint(hf folder) -> the model's logits; its checkpoint is in tmp_path / "core"."""

    def make(hf: Path, lora: LoraConfig = LORA) -> torch.Tensor:
        save = tmp_path / "core"
        convert_folder(hf, save)
        base = open_checkpoint(save)
        config = ModelConfig.model_validate(base.read("model.json"))
        folder = temporary_folder(save, 7)
        dtype = checkpoint_dtype(base.folder)
        with open_model(config, dtype, seed=0, fresh=False, lora=lora) as model:
            load_weights([model], base.folder, part=lambda name: not is_adapter(name))
            generator = torch.Generator().manual_seed(3)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if is_adapter(name):
                        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
            logits_BSV = core_logits(model, TOKENS_BS, config.vocab_size)
            save_weights([model], folder)
        write_json(folder / "model.json", config.model_dump(mode="json"))
        write_json(folder / LORA_FILE, lora.model_dump(mode="json"))
        publish(folder, save, 7)
        return logits_BSV

    return make


def hf_logits(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    """Logits of a Hugging Face folder, with the adapter as PEFT computes it: beside the weights,
    from what stands in its two files alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if adapter is not None:
        settings = read_json(adapter / "adapter_config.json")
        scale = settings["lora_alpha"] / settings["r"]
        tensors = load_file(adapter / "adapter_model.safetensors")
        for name in [name for name in tensors if name.endswith(".lora_A.weight")]:
            module = model.get_submodule(
                name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            )
            down, up = tensors.pop(name), tensors.pop(name.replace("lora_A", "lora_B"))
            module.register_forward_hook(
                lambda _, given, output, down=down, up=up: output + scale * given[0] @ down.T @ up.T
            )
        assert not tensors
    with torch.no_grad():
        return model(TOKENS_BS).logits


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest one, as a share of the largest logit."""
    return ((one - other).abs().max() / one.abs().max()).item()


@pytest.mark.parametrize("family", ["llama3-tied", "mistral-window", "qwen2"])
def test_both_exports_compute_what_the_checkpoint_does(
    family: str, hf_folder, lora_checkpoint, tmp_path: Path
) -> None:
    hf = hf_folder(family)
    ours = lora_checkpoint(hf)
    assert difference(ours, hf_logits(hf)) > 0.1  # the adapters do something

    receipt = convert_folder(tmp_path / "core", tmp_path / "merged")
    assert receipt["verdict"] == "equal"
    assert receipt["largest_merge_difference"] < 1e-4
    assert difference(ours, hf_logits(tmp_path / "merged")) < 1e-5

    adapter = tmp_path / "adapter"
    convert_folder(tmp_path / "core", adapter, adapter=True)
    assert difference(ours, hf_logits(hf, adapter)) < 1e-5

    # The control: key's and value's rows exchanged, which no shape can tell.
    tensors = load_file(adapter / "adapter_model.safetensors")
    names = [n for n in tensors if n.endswith("k_proj.lora_B.weight")]
    for key in names:
        value = key.replace("k_proj", "v_proj")
        tensors[key], tensors[value] = tensors[value].clone(), tensors[key].clone()
    save_file(tensors, adapter / "adapter_model.safetensors")
    assert difference(ours, hf_logits(hf, adapter)) > 1e-3


def test_names_and_settings_are_those_of_peft(hf_folder, lora_checkpoint, tmp_path: Path) -> None:
    lora_checkpoint(hf_folder("llama3"), LoraConfig(rank=2, alpha=3, targets=("proj", "fc1")))
    receipt = convert_folder(tmp_path / "core", tmp_path / "adapter", adapter=True)
    settings = read_json(tmp_path / "adapter" / "adapter_config.json")
    assert settings["peft_type"] == "LORA"
    assert settings["target_modules"] == ["gate_proj", "o_proj", "up_proj"]
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (2, 3.0, 0.0)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.{}_proj.lora_{}.weight"
    assert torch.equal(tensors[name.format("gate", "A")], tensors[name.format("up", "A")])
    assert tensors[name.format("up", "B")].shape == (96, 2)
    assert len(tensors) == receipt["tensors"] == 2 * 3 * 2


def test_a_merge_in_a_short_type_says_what_it_lost(
    hf_folder, lora_checkpoint, tmp_path: Path
) -> None:
    lora_checkpoint(hf_folder("llama3", dtype="bfloat16"))
    receipt = convert_folder(tmp_path / "core", tmp_path / "merged")
    assert (receipt["verdict"], receipt["weights"]) == ("equal", "bfloat16")
    assert 1e-4 < receipt["largest_merge_difference"] < 0.1 * receipt["largest_logit"]


def test_adapters_that_are_not_there(hf_folder, tmp_path: Path) -> None:
    hf = hf_folder("llama3")
    with pytest.raises(UserError, match="is a Hugging Face folder"):
        convert_folder(hf, tmp_path / "adapter", adapter=True)
    convert_folder(hf, tmp_path / "core")
    with pytest.raises(UserError, match="has no adapters"):
        convert_folder(tmp_path / "core", tmp_path / "adapter", adapter=True)
    assert not (tmp_path / "adapter").exists()


def test_a_checkpoint_that_hides_its_adapters_is_refused(
    hf_folder, lora_checkpoint, tmp_path: Path
) -> None:
    """Without lora.json it would pass for the base model: its tensors say that it is not."""
    lora_checkpoint(hf_folder("llama3"))
    folder = tmp_path / "core" / "iter_0000007"
    (folder / LORA_FILE).unlink()
    seal(folder, 7)
    with pytest.raises(UserError, match="another architecture"):
        convert_folder(tmp_path / "core", tmp_path / "merged")
