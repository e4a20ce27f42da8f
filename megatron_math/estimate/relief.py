"""What would lower a rank's memory, and by how much: for a run that does not fit.

Each change is estimated alone, with everything else as the road has it; the terms are those of
`memory`. Whether it costs time, processes or another result stands beside it.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from megatron_math.base.road import Road
from megatron_math.estimate.layout import Layout
from megatron_math.estimate.memory import rank_memory
from megatron_math.estimate.run import read_road
from megatron_math.estimate.search import RECOMPUTE
from megatron_math.model.config import ModelConfig
from megatron_math.model.lora_config import LoraConfig
from megatron_math.train.guard_config import OUT_OF_MEMORY_FILE

GIB = 1024**3
LORA_RANK = 16
LEAST_SHARE = 0.005
"""Of the tensors: what saves less is no advice."""


@dataclass(frozen=True)
class Relief:
    """One change of a road, and what the fullest rank would hold then."""

    change: str
    price: str
    saved_bytes: int
    total_bytes: int


def reliefs(model: ModelConfig, layout: Layout) -> list[Relief]:
    """Changes that can be made to `layout`, those that save most first."""
    now, _ = rank_memory(model, layout)
    found = []
    for change, price, other in _candidates(layout):
        if other.fault(model) is not None:
            continue
        then, _ = rank_memory(model, other)
        if now.total - then.total > LEAST_SHARE * now.allocated:
            found.append(Relief(change, price, now.total - then.total, then.total))
    return sorted(found, key=lambda one: -one.saved_bytes)


def _candidates(layout: Layout) -> Iterator[tuple[str, str, Layout]]:
    micro = layout.micro_batch
    for smaller in sorted({1, micro // 2} - {0, micro}):
        yield (
            f"train.micro_batch_size={smaller}", "more, smaller passes; the same result",
            replace(layout, micro_batch=smaller),
        )  # fmt: skip
    known = layout.recompute in RECOMPUTE
    for mode in RECOMPUTE[RECOMPUTE.index(layout.recompute) + 1 :] if known else ():
        yield (
            f"parallel.recompute={mode}", "computes again in the backward pass; the same result",
            replace(layout, recompute=mode),
        )  # fmt: skip
    for name in ("tensor", "pipeline", "context"):
        ways = 2 * getattr(layout, name)
        other = replace(layout, **{name: ways})
        needed = other.tensor * other.pipeline * other.context
        gpus = layout.gpus if layout.gpus % needed == 0 else layout.gpus * 2
        other = replace(other, gpus=gpus, sequence=layout.sequence or other.tensor > 1)
        change = f"parallel.{name}={ways}"
        if name == "tensor" and not layout.sequence:
            change += " parallel.sequence=true"
        yield change, _processes(gpus, layout), other
    doubled = replace(layout, gpus=2 * layout.gpus)
    yield (
        f"parallel.data={doubled.data}", _processes(doubled.gpus, layout) + ", state cut in more",
        doubled,
    )  # fmt: skip
    if layout.lora is None:
        lora = LoraConfig.model_validate({"rank": LORA_RANK, "alpha": 2 * LORA_RANK})
        change = f"train.lora.rank={lora.rank} train.lora.alpha={lora.alpha:g}"
        yield change, "trains adapters: another result", replace(layout, lora=lora)


def _processes(gpus: int, layout: Layout) -> str:
    return f"on {gpus} processes for {layout.gpus}" if gpus != layout.gpus else "the same processes"


def advice(road: Road, gpus: int | None = None) -> str:
    """What a rank of this road holds by the estimate, and what would lower it, as lines."""
    run = read_road(road, gpus)
    memory, _ = rank_memory(run.model, run.layout)
    kinds = sorted(asdict(memory).items(), key=lambda item: -item[1])
    terms = ", ".join(f"{kind} {count / GIB:,.3f}" for kind, count in kinds if count)
    lines = [
        f"by the estimate the fullest rank holds {memory.total / GIB:,.3f} GiB: {terms}",
        "each of these alone would lower that, the most first:",
    ]
    lines += [
        f"  {one.change:<44} saves {one.saved_bytes / GIB:8,.3f} GiB, leaves "
        f"{one.total_bytes / GIB:8,.3f}  ({one.price})"
        for one in reliefs(run.model, run.layout)
    ]
    return "\n".join(lines)


def advice_after(road: Road, folder: Path, since: float) -> str | None:
    """Advice where a rank of the stage in `folder` has run out of memory since then; or None."""
    try:
        told = json.loads((folder / OUT_OF_MEMORY_FILE).read_text(encoding="utf-8"))
        if told["time"] < since:
            return None
        return f"rank {told['rank']} ran out of memory ({told['error']})\n" + advice(
            road, told["world"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
