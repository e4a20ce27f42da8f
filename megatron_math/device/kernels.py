"""Optional kernels of other packages: which are used, and why the others are not.

One that can be imported is used only where it computes what torch computes on this device.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from megatron_math.base.log import log
from megatron_math.device.open import current_torch_device, device_kind


@dataclass(frozen=True)
class Kernel:
    """`reason` says why it is used, or why not."""

    name: str
    used: bool
    reason: str


def optional_kernels(spec: Literal["torch", "te"]) -> list[Kernel]:
    """All optional kernels under that layer spec."""
    return [choose_adam(), norm_kernel(spec), flash_attention(spec)]


def choose_adam() -> Kernel:
    """Let core's optimizer have Transformer Engine's or Apex's Adam, unless it is wrong here.

    Core takes the one or the other when it can be imported, and torch's otherwise; after this,
    only where it moves weights as torch's does. To be called before an optimizer is built.
    """
    from megatron.core import optimizer as core

    name = "fused Adam"
    if core.USING_PYTORCH_OPTIMIZER:
        return Kernel(name, False, "neither Transformer Engine nor Apex has one here; torch's")
    package = core.Adam.__module__.split(".")[0]
    fault = "there is no GPU" if device_kind() == "cpu" else _adam_fault(core.Adam)
    if fault is None:
        return Kernel(name, True, f"that of {package}; three steps equal torch's")
    core.Adam, core.USING_PYTORCH_OPTIMIZER = torch.optim.AdamW, True
    log.warning("fused Adam of %s is not used: %s", package, fault)
    return Kernel(name, False, f"that of {package} is there, but {fault}; torch's")


def _adam_fault(adam: Any) -> str | None:
    """How `adam` differs from torch's AdamW in three steps; None where it does not."""
    generator = torch.Generator().manual_seed(1)
    device = current_torch_device()
    start, *gradients = torch.randn(4, 4099, generator=generator).to(device)
    ends = []
    for kind in (adam, torch.optim.AdamW):
        weight = torch.nn.Parameter(start.clone())
        try:
            optimizer = kind([weight], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
            for gradient in gradients:
                weight.grad = gradient.clone()
                optimizer.step()
        except Exception as error:  # noqa: BLE001 - a kernel that fails in any way is not used
            return f"it raises {type(error).__name__}: {error}".splitlines()[0]
        ends.append(weight.detach())
    difference = float((ends[0] - ends[1]).abs().max())
    if difference <= 1e-6:
        return None
    return f"after three steps its weights differ from torch's by {difference:.1e}"


def norm_kernel(spec: Literal["torch", "te"]) -> Kernel:
    """Apex's norm has no place: the torch spec has torch's own fused one, te its own."""
    if spec == "te":
        return Kernel("fused norm", True, "Transformer Engine's, with its layers")
    return Kernel(
        "fused norm", False, "layer spec torch has torch's rms_norm; Apex's is not called"
    )


def flash_attention(spec: Literal["torch", "te"]) -> Kernel:
    """The package flash-attn serves Transformer Engine; torch has a flash kernel of its own."""
    name = "flash-attn"
    if spec == "torch":
        return Kernel(name, False, "layer spec torch calls torch's own attention kernels")
    try:
        from flash_attn import flash_attn_func
    except ImportError:
        return Kernel(name, False, "not installed; Transformer Engine takes cuDNN's")
    fault = _attention_fault(flash_attn_func)
    if fault is None:
        return Kernel(name, True, "Transformer Engine may choose it; equals torch's attention")
    return Kernel(name, False, f"{fault}; export NVTE_FLASH_ATTN=0 so that nobody calls it")


def _attention_fault(flash: Any) -> str | None:
    """How causal attention in bf16 differs from torch's in fp32; None where it does not."""
    generator = torch.Generator().manual_seed(1)
    shape = (3, 1, 128, 4, 64)  # query, key and value of [batch, sequence, heads, head size]
    device = current_torch_device()
    query, key, value = torch.randn(shape, generator=generator).to(device, torch.bfloat16)
    try:
        found = flash(query, key, value, causal=True).float()
    except Exception as error:  # noqa: BLE001 - a kernel that fails in any way is not used
        return f"it raises {type(error).__name__}: {error}".splitlines()[0]
    query, key, value = (part.float().transpose(1, 2) for part in (query, key, value))
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    difference = float((found - wanted.transpose(1, 2)).abs().max())
    return None if difference < 3e-2 else f"it differs from torch's attention by {difference:.1e}"
