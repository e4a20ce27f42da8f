"""What `estimate` expects of the recipes for a cluster, as the tables in their READMEs.

python tests/examples/recipes.py writes the tables anew, after a recipe or the estimator changed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_math.base.road import Road
from megatron_math.estimate.hardware import load_gpu
from megatron_math.estimate.memory import check_fit
from megatron_math.estimate.run import estimate, read_road

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BEGIN, END = "<!-- expected: begin -->\n", "<!-- expected: end -->\n"


@dataclass(frozen=True)
class Row:
    """One size of cluster: GPUs, their kind, and the files that are laid over the recipe."""

    gpus: int
    gpu: str = "h100"
    layout: str | None = None


RECIPES: dict[str, list[Row]] = {
    "30_cpt_1b": [Row(1), Row(8), Row(64), Row(512)],
    "40_mathgpt_8b": [Row(1, "b200", "one_gpu"), Row(8), Row(64), Row(512)],
    "50_jiuzhang3_8b": [Row(1, "b200", "one_gpu"), Row(8), Row(64), Row(512)],
}
TOKENS = {"50_jiuzhang3_8b": "5390M"}
"""Of sources that are read for an epoch: 4.6B and about 0.79B as published, without padding."""


def load(recipe: str, row: Row) -> Road:
    files = [str(EXAMPLES / recipe / "layouts" / f"{row.layout}.yaml")] if row.layout else []
    return Road.load(EXAMPLES / recipe / "train.yaml", files)


def table(recipe: str) -> str:
    """The expectations of one recipe. UserError where one does not fit into its GPU."""
    lines = [
        "| GPUs | tensor x data | recompute | GiB a GPU | tokens/s a GPU | whole run | GPU-hours |"
        " checkpoint |\n|---|---|---|---|---|---|---|---|\n"
    ]
    for row in RECIPES[recipe]:
        gpu = load_gpu(row.gpu)
        found = estimate(read_road(load(recipe, row), row.gpus, None, TOKENS.get(recipe, "")), gpu)
        check_fit(found.memory, found.stage, gpu)
        layout, rate = found.run.layout, found.speed.tokens_per_second_per_gpu
        assert found.days is not None
        cells = (
            f"{row.gpus} {gpu.name}", f"{layout.tensor} x {layout.data}", layout.recompute,
            f"{found.memory.total / 2**30:.0f} of {gpu.memory_bytes / 2**30:.0f}", f"{rate:,.0f}",
            f"{found.days:,.1f} days" if found.days >= 1 else f"{24 * found.days:,.1f} hours",
            f"{found.gpu_hours:,.0f}",
            f"{found.checkpoint_bytes / 1e9:.0f} GB, {found.checkpoint_seconds:.0f} s",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |\n")
    return "".join(lines)


def tables() -> Iterator[tuple[Path, str, str]]:
    """Of each recipe: its README, its text as it is, and as it should be."""
    for recipe in RECIPES:
        path = EXAMPLES / recipe / "README.md"
        text = path.read_text(encoding="utf-8")
        body = f"{BEGIN}{table(recipe)}{END}"
        yield path, text, re.sub(f"{BEGIN}.*{END}", lambda _, body=body: body, text, flags=re.S)


if __name__ == "__main__":
    for path, _, wanted in tables():
        path.write_text(wanted, encoding="utf-8")
