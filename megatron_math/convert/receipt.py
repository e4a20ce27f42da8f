"""The receipt of a conversion: the same tokens through Megatron-Core and through transformers.

Writes nothing; the callers keep the receipt as receipt.json.

Shapes: B rows, S tokens, V vocabulary.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch

from megatron_math.base.errors import UserError
from megatron_math.convert.hf_folder import DTYPE_NAMES
from megatron_math.model.config import ModelConfig

FORMAT, VERSION = "megatron-math receipt", 1

NUM_ROWS, NUM_TOKENS = 2, 64

FP32_TOLERANCE = 1e-4
"""Largest absolute difference of any two logits, computed in fp32 from the same weights."""

RELATIVE_TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.015}
"""For logits computed in a shorter type: a share of the largest reference logit. Measured with two
layers (2026-11-21): 0.028 and 0.004 where biases are rounded once more than in transformers, 0
elsewhere, and 0.75 with query and key of one layer exchanged."""


def receipt_tokens(config: ModelConfig) -> torch.Tensor:
    """The fixed batch of token ids [B, S], int64: the same for every model of that vocabulary."""
    generator = torch.Generator().manual_seed(20261121)
    length = min(NUM_TOKENS, config.max_sequence_length)
    return torch.randint(config.vocab_size, (NUM_ROWS, length), generator=generator)


def receipt_dtype(dtype: torch.dtype, asked: str, config: ModelConfig) -> torch.dtype:
    """The type to compute logits in; UserError when this machine has no room for fp32.

    Nor is a model with experts compared in a shorter type: rounding turns choices of a router over,
    and logits of equal weights differed by 1.5 of 5.1 (two layers, bf16 and fp16, 2026-11-22).
    """
    if dtype == torch.float32:
        return dtype
    has_experts = config.num_experts is not None
    if asked == "weights":
        if has_experts:
            raise UserError(
                f"convert.receipt_dtype weights was asked of a model with experts in "
                f"{DTYPE_NAMES[dtype]}, where rounding decides which expert works on a token; "
                "compare in fp32"
            )
        return dtype
    needed_bytes = int(4.4 * config.num_parameters())  # one model at a time, and activations
    available_bytes = _available_bytes()
    if available_bytes is not None and needed_bytes > available_bytes:
        other = f", or set convert.receipt_dtype to weights (computed in {DTYPE_NAMES[dtype]})"
        raise UserError(
            f"comparing logits in fp32 needs about {needed_bytes / 1e9:.0f} GB of memory and "
            f"{available_bytes / 1e9:.0f} GB are available; take a larger machine"
            + ("" if has_experts else other)
        )
    return torch.float32


def _available_bytes() -> int | None:
    """What the kernel says can still be used; None where it does not say."""
    path = Path("/proc/meminfo")
    if not path.is_file():
        return None
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


@torch.no_grad()
def transformers_logits(
    folder: Path, tokens_BS: torch.Tensor, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Logits [B, S, V] of the folder's model as transformers computes them, fp32 on the CPU.

    device: where ours were computed, so that both meet the same matrix kernels.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    logits_BSV = model.to(device).eval()(tokens_BS.to(device), use_cache=False).logits
    return logits_BSV.float().cpu()


def compare_logits(
    ours_BSV: torch.Tensor,
    reference_BSV: torch.Tensor,
    tokens_BS: torch.Tensor,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """The receipt, verdict `equal` or `different`. NaN on either side is a difference."""
    import transformers

    assert ours_BSV.shape == reference_BSV.shape, (ours_BSV.shape, reference_BSV.shape)
    largest_logit = reference_BSV.abs().max().item()
    difference = (ours_BSV - reference_BSV).abs().max().item()
    if dtype == torch.float32:
        tolerance = FP32_TOLERANCE
    else:
        tolerance = RELATIVE_TOLERANCE[dtype] * largest_logit
    finite = bool(torch.isfinite(ours_BSV).all() and torch.isfinite(reference_BSV).all())
    same_top = (ours_BSV.argmax(-1) == reference_BSV.argmax(-1)).float().mean().item()
    return {
        "format": FORMAT,
        "version": VERSION,
        "verdict": "equal" if finite and difference <= tolerance else "different",
        "largest_logit_difference": difference if finite else None,
        "tolerance": tolerance,
        "computed_in": DTYPE_NAMES[dtype],
        "largest_logit": largest_logit if finite else None,
        "same_top_token_share": same_top,
        "tokens": list(tokens_BS.shape),
        "tokens_sha256": hashlib.sha256(tokens_BS.numpy().tobytes()).hexdigest(),
        "transformers": transformers.__version__,
    }


def refuse_difference(receipt: dict[str, Any], what: str) -> None:
    """UserError unless the receipt says `equal`."""
    if receipt["verdict"] != "equal":
        raise UserError(
            f"{what} is refused: its logits differ from transformers' by "
            f"{receipt['largest_logit_difference']}, {receipt['tolerance']:.1e} is allowed "
            f"({receipt['computed_in']}, largest logit {receipt['largest_logit']}); "
            "the weights or a setting of config.json are not what the architecture says"
        )
