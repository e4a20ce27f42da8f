"""What was asked of the blend and what it gave. Reads 40_blend/plan.json."""

from fractions import Fraction
from pathlib import Path
from typing import Any

from megatron_math.base.config import parse_section
from megatron_math.base.files import read_json
from megatron_math.dataset.plan import PlanFile


def read_blend(folder: Path) -> list[dict[str, Any]]:
    """One entry a stage of the plan, with one row a source. Shares are of tokens, not padding."""
    path = folder / "plan.json"
    plan = parse_section(PlanFile, read_json(path), str(path))
    stages = []
    for stage in plan.stages:
        sources = []
        for source in stage.sources:
            index = plan.indexes[source.name]
            sources.append(
                {
                    "source": source.name,
                    "groups": source.groups,
                    "pack": source.pack,
                    "loss": source.loss,
                    "share_asked": None if source.share is None else float(Fraction(source.share)),
                    "share_realised": source.tokens / stage.tokens,
                    "tokens": source.tokens,
                    "samples": source.samples,
                    "tokens_available": index.training_tokens,
                    "epochs": source.tokens / index.training_tokens,
                    "padding_share": 1 - source.tokens / (source.samples * stage.sequence_length)
                    if source.samples
                    else None,
                }
            )
        stages.append(
            {
                "stage": stage.name,
                "sequence_length": stage.sequence_length,
                "samples": stage.num_samples,
                "tokens": stage.tokens,
                "sources": sources,
            }
        )
    return stages
