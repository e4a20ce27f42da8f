"""Facts as sentences: the headline and the names of things."""

from pathlib import Path
from typing import Any

STAGE_NAMES = {
    "00_base": "start model",
    "10_synthesize": "problems written",
    "20_curate": "records curated",
    "30_index": "text to tokens",
    "40_blend": "mix planned",
    "50_train": "training",
    "60_export": "export",
    "70_evaluate": "scoring",
}
SPENT_NAMES = {
    "steps": "steps that count",
    "repeated": "steps that a restart made again",
    "starting": "from a launch's begin to its first step",
    "down": "between launches",
    "other": "validation, checkpoints and the rest",
}
VERDICTS = {
    "up": "A clear gain",
    "down": "A clear loss",
    "unclear": "No difference that this many problems can show",
}


def headline(facts: dict[str, Any]) -> dict[str, Any]:
    """What the page says first: the kind of news, and the part of the facts it is about.

    Kinds: `score` (the first benchmark's), `loss` (no scores, but validation losses), `data`
    (nothing trained).
    """
    if facts["scores"]:
        benchmark = facts["scores"][0]
        row = benchmark["rows"][0]
        verdict = VERDICTS[row["gain"]["verdict"]] if row["gain"] else None
        return {"kind": "score", "name": benchmark["benchmark"], "row": row, "verdict": verdict}
    training = facts["training"]
    if training and training["curves"] and training["curves"][0]["validation"]:
        return {"kind": "loss", "curve": training["curves"][0]}
    return {"kind": "data"}


def stage_name(stage: str) -> str:
    return STAGE_NAMES.get(stage, stage)


def spent_name(part: str) -> str:
    return SPENT_NAMES.get(part, part)


def group_name(name: str | None) -> str:
    """`level=1, operands_seen=false` -> `level 1, operands seen: no`."""
    if name is None:
        return "all problems"
    parts = []
    for part in name.split(", "):
        key, separator, value = part.partition("=")
        key = key.replace("_", " ")
        said = {"true": ": yes", "false": ": no"}.get(value, f" {value}")
        parts.append(key + (said if separator else ""))
    return ", ".join(parts)


def base_name(base: dict[str, Any] | None) -> str:
    """Where the first weights came from, such as `preset tiny`."""
    for kind in ("hf", "preset", "run"):
        if base and base.get(kind):
            told = str(base[kind])
            return f"{kind} {told if kind == 'run' else Path(told).name}"
    return "missing"


KIND_NAMES = {
    "learned": "learned: wrong before, right after",
    "lost": "lost: right before, wrong after",
    "right by some": "right by some models",
    "wrong": "wrong by all",
    "right": "right by all",
    "disputed": "disputed: math-verify disagrees",
    "cut off": "cut off at the longest answer",
    "no answer": "nothing to read as an answer",
}


def kind_name(kind: str, num_models: int) -> str:
    """A kind of row in words; of one model nobody is `all`."""
    told = KIND_NAMES[kind]
    return told if num_models > 1 else told.removesuffix(" by all")
