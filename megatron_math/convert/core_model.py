"""A whole Megatron-Core model in one process: built, filled from Hugging Face tensors, read."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from megatron_math.base.errors import UserError
from megatron_math.checkpoint.guard import read_metadata
from megatron_math.convert.hf_folder import DTYPE_NAMES, HfFolder
from megatron_math.convert.names import Row, canonical_name
from megatron_math.convert.tensors import join
from megatron_math.device.grid import Grid
from megatron_math.device.open import open_device
from megatron_math.device.start import launched_ranks
from megatron_math.model.build import build_model
from megatron_math.model.config import ModelConfig
from megatron_math.model.gpt import GPT
from megatron_math.model.lora import is_adapter
from megatron_math.model.lora_config import LoraConfig


@contextlib.contextmanager
def open_model(
    config: ModelConfig,
    dtype: torch.dtype,
    *,
    seed: int,
    fresh: bool,
    lora: LoraConfig | None = None,
) -> Iterator[GPT]:
    """The model in a process group of one, closed at the end.

    fresh: draw weights from the seed; else the parameters hold nothing yet and the caller fills
    every one. The spec is `torch` everywhere: what is converted must not depend on the machine.
    """
    rank, world, _ = launched_ranks() or (0, 1, 0)
    if world > 1:
        raise UserError(
            f"a conversion is the work of one process, and this is rank {rank} of {world}; "
            "start it without torchrun and with one task"
        )
    grid = Grid.model_validate({})
    with open_device(grid, seed):
        models = build_model(
            config,
            grid=grid,
            dtype=dtype,
            spec="torch",
            sequence_length=config.max_sequence_length,
            lora=lora,
            perform_initialization=fresh,
        )
        yield models[0].eval()


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


def checkpoint_dtype(folder: Path) -> torch.dtype:
    """The dtype of the weights in a torch_dist checkpoint.

    Raises UserError when the folder holds no such weights.
    """
    name = "embedding.word_embeddings.weight"
    try:
        entry = read_metadata(folder).state_dict_metadata.get(name)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - a pickle: torch raises many kinds
        raise UserError(f"{folder} is not a torch_dist checkpoint: {error}") from error
    if not isinstance(entry, TensorStorageMetadata):
        raise UserError(f"{folder} holds no {name}; is it a checkpoint of a GPT model?")
    dtype = entry.properties.dtype
    if dtype not in DTYPE_NAMES:
        raise UserError(f"{folder} holds weights of {dtype}; supported: fp32, bf16, fp16")
    return dtype


@torch.no_grad()
def core_logits(model: GPT, tokens_BS: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Logits [B, S, vocab_size] on the CPU in fp32; each row is one document."""
    device = next(model.parameters()).device
    batch, length = tokens_BS.shape
    position_ids_BS = torch.arange(length, device=device).expand(batch, length)
    document_ids_BS = torch.zeros(batch, length, dtype=torch.int32)
    logits_BSV = model(tokens_BS.to(device), position_ids_BS, document_ids_BS)
    return logits_BSV[..., :vocab_size].float().cpu()
