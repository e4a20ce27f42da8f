"""A whole Megatron-Core model in one process: filled from Hugging Face tensors, read."""

import torch

from megatron_math.convert.hf_folder import HfFolder
from megatron_math.convert.names import Row, canonical_name
from megatron_math.convert.tensors import join
from megatron_math.model.config import ModelConfig
from megatron_math.model.gpt import GPT
from megatron_math.model.lora import is_adapter


def parameters_by_name(model: GPT, table: list[Row]) -> dict[str, torch.nn.Parameter]:
    """Parameters under their canonical names, without adapters; they are exactly the table's."""
    config = model.model_config
    parameters = {
        canonical_name(name, config): parameter
        for name, parameter in model.named_parameters()
        if not is_adapter(name)
    }
    different = set(parameters) ^ {row.core for row in table}
    assert not different, f"the table of names does not fit the model: {sorted(different)}"
    return parameters


@torch.no_grad()
def fill_from_hf(model: GPT, hf: HfFolder, table: list[Row]) -> None:
    """Copy every tensor of the folder into the model, padding rows zero."""
    parameters = parameters_by_name(model, table)
    for row in table:
        value = join(row, hf.config, [hf.read(name) for name in row.hf])
        parameter = parameters[row.core]
        assert parameter.shape == value.shape, (row.core, parameter.shape, value.shape)
        parameter.copy_(value)


@torch.no_grad()
def zero_padding(model: GPT, config: ModelConfig, table: list[Row]) -> None:
    """Padding rows of the vocabulary to zero, as an import leaves them."""
    parameters = parameters_by_name(model, table)
    for row in table:
        if row.kind == "vocabulary":
            parameters[row.core][config.vocab_size :] = 0


@torch.no_grad()
def core_logits(model: GPT, tokens_BS: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Logits [B, S, vocab_size] on the CPU in fp32; each row is one document."""
    device = next(model.parameters()).device
    batch, length = tokens_BS.shape
    position_ids_BS = torch.arange(length, device=device).expand(batch, length)
    document_ids_BS = torch.zeros(batch, length, dtype=torch.int32)
    logits_BSV = model(tokens_BS.to(device), position_ids_BS, document_ids_BS)
    return logits_BSV[..., :vocab_size].float().cpu()
