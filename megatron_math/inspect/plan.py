"""What a blend plan holds: stages, sources, indexes, and whether these are still the same."""

from pathlib import Path
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from megatron_math.dataset.plan import Plan, PlanStage, load_plan


def inspect_plan(folder: Path) -> dict[str, Any]:
    """Facts about the plan in `folder`, as JSON types.

    Raises UserError when there is none, or when an index changed since it was made.
    """
    plan = load_plan(folder)
    content = plan.content
    return {
        "folder": str(folder),
        "seed": content.seed,
        "validation": content.validation,
        "tokenizer": plan.tokenizer,
        "continues": _continues(plan),
        "stages": [_stage(plan, number, stage) for number, stage in enumerate(plan.stages)],
        "indexes": {
            name: {"prefix": str(plan.prefix(name).resolve())}
            | {key: getattr(index, key) for key in (
                "tokens", "documents", "empty_documents", "training_documents",
                "validation_documents", "validation_tokens",
            )}
            for name, index in content.indexes.items()
        },
    }  # fmt: skip


def _continues(plan: Plan) -> dict[str, Any] | None:
    """The run that this plan goes on from: where it stood, by source the epochs done."""
    if plan.history is None:
        return None
    history = plan.history
    epochs = {
        name: standing.tokens / plan.content.indexes[name].training_tokens
        for name, standing in history.sources.items()
        if name in plan.content.indexes
    }
    left_out = [name for name in history.sources if name not in epochs]
    facts = history.model_dump(include={"checkpoint", "iteration", "consumed_samples"})
    return facts | {"epochs_done": epochs, "left_out": left_out}


def _stage(plan: Plan, number: int, stage: PlanStage) -> dict[str, Any]:
    first = plan.order(number)[:32].tolist()
    return {
        "stage": stage.name,
        "sequence_length": stage.sequence_length,
        "samples": stage.num_samples,
        "tokens": stage.tokens,
        "first_samples": [stage.sources[source].name for source in first],
        "sources": [
            {
                "source": source.name,
                "groups": source.groups,
                "share": source.share,
                "share_realised": source.tokens / stage.tokens,
                "tokens": source.tokens,
                "samples": source.samples,
                "epochs": source.tokens / plan.content.indexes[source.name].training_tokens,
                "pack": source.pack,
                "attend": source.attend,
                "loss": source.loss,
            }
            for source in stage.sources
        ],
    }


def render_plan(facts: dict[str, Any]) -> Group:
    """The facts for a rich console."""
    parts: list[Any] = [f"[bold]{escape(facts['folder'])}[/], seed {facts['seed']}"]
    if told := facts["continues"]:
        epochs = (f"{name} at epoch {done:.3f}" for name, done in told["epochs_done"].items())
        idle = f"; not used any more: {', '.join(told['left_out'])}" if told["left_out"] else ""
        parts.append(
            escape(
                f"continues {told['checkpoint']} after {told['consumed_samples']:,} samples: "
                f"{', '.join(epochs)}{idle}"
            )
        )
    for stage in facts["stages"]:
        table = Table(
            title=f"{stage['stage']}: {stage['tokens']:,} tokens in {stage['samples']:,} samples "
            f"of {stage['sequence_length']:,}",
            title_justify="left",
        )
        table.add_column("source")
        for name in ("share", "realised", "tokens", "samples", "epochs", "pack", "attend", "loss"):
            table.add_column(name, justify="right")
        for row in stage["sources"]:
            loss = row["loss"] if isinstance(row["loss"], str) else ", ".join(row["loss"])
            table.add_row(
                escape("/".join([*row["groups"], row["source"]])),
                row["share"] or "-",
                f"{row['share_realised']:.2%}",
                f"{row['tokens']:,}",
                f"{row['samples']:,}",
                f"{row['epochs']:.2f}",
                row["pack"],
                row["attend"],
                loss,
            )
        parts += [table, escape("first samples: " + " ".join(stage["first_samples"]))]
    for name, index in facts["indexes"].items():
        parts.append(
            escape(
                f"{name}: {index['tokens']:,} tokens, {index['documents']:,} documents, "
                f"{index['validation_documents']:,} held out, unchanged since the plan was made "
                f"({index['prefix']})"
            )
        )
    return Group(*parts)
