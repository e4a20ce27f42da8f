"""A run folder as the stages leave it, small and made up, but consistent: shares sum to one,
accuracies are their counts, intervals are Wilson's."""

import json
import math
import random
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict

from megatron_math.base.config import Section
from megatron_math.base.files import read_json, write_json
from megatron_math.base.road import Road
from megatron_math.base.stage import Stage, StageInput
from megatron_math.model.presets import load_preset

BATCH_SAMPLES, SEQUENCE_TOKENS = 16, 256
ITERATIONS = 620
BEGUN = 1_795_000_000.0
SHARES = {"general": (4, 10), "webmath": (18, 100), "problems": (42, 100)}
AVAILABLE_TOKENS = {"general": 3_011_204, "webmath": 812_337, "problems": 640_118}
# Loss = floor + drop * exp(-rate * tokens share), plus noise.
LOSSES = {"general": (4.1, 0.4, 3), "webmath": (3.2, 2.6, 6), "problems": (0.92, 4.7, 9)}
SECONDS = {
    "00_base": 9.4, "10_synthesize": 21.7, "20_curate": 6.2, "30_index": 11.8, "40_blend": 0.9,
    "50_train": 241.3, "60_export": 12.5, "70_evaluate": 96.4,
}  # fmt: skip


class AnySection(Section):
    """Stands for the sections of rooms that these tests do not import."""

    model_config = ConfigDict(extra="allow")


def write_road(folder: Path, **changes: Any) -> Road:
    """A road file and its loaded road; a change of None takes a section away."""
    sections: dict[str, Any] = {
        "name": "study/cpt",
        "seed": 1234,
        "base": {"preset": "tiny"},
        "synthesize": {"problems": 20000},
        "curate": {"dedup": "exact"},
        "index": {"tokenizer": "base"},
        "blend": {"sequence_length": SEQUENCE_TOKENS},
        "train": {"lr": 1e-3, "global_batch_size": BATCH_SAMPLES},
        "evaluate": {"benchmarks": ["heldout-problems", "gsm8k"]},
    } | changes
    path = folder / "road.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in sections.items() if v is not None}))
    return Road.load(path, [], folder / "runs")


def write_run(road: Road) -> None:
    """Every stage that the road asks for, finished."""
    writers = {
        "00_base": ("base", _base),
        "10_synthesize": ("synthesize", _synthesize),
        "20_curate": ("curate", _curate),
        "30_index": ("index", _index),
        "40_blend": ("blend", _blend),
        "50_train": ("train", _train),
        "60_export": ("train", _export),
        "70_evaluate": ("evaluate", _evaluate),
    }
    before: dict[str, StageInput | Path] = {}
    for name, (section, write) in writers.items():
        if road.has(section):
            write_stage(road, name, section, write, before)
            before = {name: road.done(name)}


def write_stage(road: Road, name: str, section: str, write: Any, inputs: Any) -> None:
    config: dict[str, Section] = {section: road.section(section, AnySection)}
    if name == "70_evaluate":
        chosen = road.raw[section]["benchmarks"]
        config |= {f"benchmark {benchmark}": AnySection() for benchmark in chosen}
    stage = Stage(road.folder(name), config=config, inputs=inputs, seed=road.seed)
    stage.begin()
    stats = write(stage.folder) or {}
    stage.finish(stats=stats, outputs=[])
    manifest = read_json(stage.folder / "manifest.json")
    write_json(stage.folder / "manifest.json", manifest | {"seconds": SECONDS[name]})


def _base(folder: Path) -> None:
    write_json(folder / "model.json", load_preset("tiny").model_dump(mode="json"))


def _synthesize(folder: Path) -> dict[str, Any]:
    write_lines(folder / "drops" / "problems.jsonl", [{"reason": "duplicate text"}])
    return {
        "problems": 20000,
        "mean_words": 31.47,
        "by_level": {"1": 12000, "2": 5000, "3": 3000},
        "by_family": {"arithmetic": 20000},
        "heldout": {"problems": 1500, "mean_words": 30.1, "by_level": dict.fromkeys("123", 500)},
        "dropped": 87,
        "draws_rejected": {"held-out operands": 1322, "duplicate text": 87},
        "written": {"texts_in_training": 0, "operands_seen": 750, "operands_unseen": 750},
    }


def _curate(folder: Path) -> dict[str, Any]:
    def source(read: int, reasons: dict[str, int]) -> dict[str, Any]:
        dropped = sum(n for reason, n in reasons.items() if not reason.startswith("benchmark"))
        return {"read": read, "kept": read - dropped, "dropped": dropped, "reasons": reasons}

    write_lines(folder / "drops" / "general.jsonl", [{"reason": "duplicate"}])
    sources = {
        "general": source(8412, {"duplicate": 391}),
        "webmath": source(2109, {"benchmark gsm8k": 4, "contaminated": 4, "duplicate": 58}),
        "problems": source(20000, {}),
    }
    totals = {k: sum(s[k] for s in sources.values()) for k in ("read", "kept", "dropped")}
    looked = {
        "benchmark": "gsm8k", "rule": "ngram10", "rows": 1297, "rows not looked for": 22,
        "rows found": 3, "dropped": 4, "hits allowed": 11,
    }  # fmt: skip
    return totals | {"sources": sources, "benchmarks": [looked], "benchmarks without rows": []}


def _index(folder: Path) -> None:
    for name, tokens in AVAILABLE_TOKENS.items():
        counts = {"documents": tokens // 97, "tokens": tokens, "text_bytes": round(tokens * 3.21)}
        write_json(folder / f"{name}_text_document.json", counts)


def _blend(folder: Path) -> dict[str, Any]:
    samples = ITERATIONS * BATCH_SAMPLES
    rows: list[dict[str, Any]] = []
    for name, (part, whole) in SHARES.items():
        used = round(samples * part / whole)
        tokens = round(used * SEQUENCE_TOKENS * (0.968 if name == "problems" else 1))
        available = round(0.95 * AVAILABLE_TOKENS[name])
        rows.append(
            {
                "source": name,
                "groups": [] if name == "general" else ["math"],
                "share_asked": part / whole,
                "tokens_used": tokens,
                "tokens_available": available,
                "epochs": tokens / available,
                "epochs_before": 0.0,
                "most_repeated": math.ceil(tokens / available),
                "samples": used,
                "padding_share": 1 - tokens / (used * SEQUENCE_TOKENS),
            }
        )
    total = sum(row["tokens_used"] for row in rows)
    shares = {"general": 0.4, "webmath": 0.6, "problems": 0.0}
    stage = {
        "stage": "cpt",
        "sequence_length": SEQUENCE_TOKENS,
        "samples": samples,
        "tokens": total,
        "sources": [row | {"share_realised": row["tokens_used"] / total} for row in rows],
        "redistributed": [{"from_token": 2_410_771, "ended": ["problems"], "shares": shares}],
    }
    return {"stages": [stage]}


def _train(folder: Path) -> dict[str, Any]:
    draw = random.Random(20261121)
    batch_tokens = BATCH_SAMPLES * SEQUENCE_TOKENS
    rows, validation = [], []

    def loss(name: str, iteration: int) -> float:
        floor, drop, rate = LOSSES[name]
        return floor + drop * math.exp(-rate * iteration / ITERATIONS)

    for iteration in range(ITERATIONS + 1):
        if iteration % 62 == 0:
            held_out = {name: loss(name, iteration) + 0.04 for name in LOSSES}
            tokens = dict.fromkeys(LOSSES, 8192)
            at = {"iteration": iteration, "consumed_samples": iteration * BATCH_SAMPLES}
            validation.append(at | {"loss": held_out, "tokens": tokens})
        if iteration:
            losses = {n: loss(n, iteration) + draw.gauss(0, 0.12) for n in LOSSES}
            milliseconds = draw.gauss(385, 12) + (140 if 300 < iteration < 330 else 0)
            rows.append(
                {
                    "iteration": iteration,
                    "stage": "cpt",
                    "consumed_samples": iteration * BATCH_SAMPLES,
                    "consumed_tokens": iteration * (batch_tokens - 55),
                    "lm loss": sum(losses[n] * p / w for n, (p, w) in SHARES.items()),
                    **{f"loss/{name}": value for name, value in losses.items()},
                    "grad-norm": 0.6 + 2.4 * math.exp(-iteration / 60) + draw.random() / 5,
                    "learning-rate": 1e-3
                    * min(1, iteration / 30)
                    * (0.55 + 0.45 * math.cos(math.pi * iteration / ITERATIONS)),
                    "elapsed_ms": round(milliseconds, 3),
                    "time": BEGUN + 4 + 0.4 * iteration + (90 if iteration > 200 else 0),
                    "tokens_per_second": round(batch_tokens / milliseconds * 1e3, 1),
                    "tflops": 0.06,
                    "mfu": 0.412,
                    "mfu_peak": "bf16",
                    "peak_reserved_bytes": (60 + iteration % 2) << 30,
                }
            )
    write_lines(folder / "metrics.jsonl", rows)
    write_lines(folder / "validation.jsonl", validation)
    write_lines(folder / "launches.jsonl", _launches())
    return {"iterations": ITERATIONS}


def _launches() -> list[dict[str, Any]]:
    """Killed behind step 250; the second one goes on from step 200."""
    stages = [{"stage": "cpt", "first": 0, "end": ITERATIONS}]
    before = {"iteration": 250, "time": BEGUN + 104, "steps": 50, "seconds": 19.3125}
    told = [
        (0, "begin", 0, {"world": 16, "host": "n1", "slurm_job": "4711"}),
        (0, "loaded", 3, {"iteration": 0, "from": "base", "stages": stages, "before": None}),
        (0, "step", 4.4, {"iteration": 1, "seconds": 0.39}),
        (1, "begin", 164, {"world": 16, "host": "n2", "slurm_job": "4712"}),
        (1, "loaded", 170, {"iteration": 200, "from": "iter_0000200", "stages": stages,
                            "before": before}),
        (1, "step", 174.4, {"iteration": 201, "seconds": 0.385}),
        (1, "end", 342.25, {"iteration": ITERATIONS, "cause": "done"}),
    ]  # fmt: skip
    return [
        {"event": event, "time": BEGUN + after, "launch": number} | facts
        for number, event, after, facts in told
    ]


def _export(folder: Path) -> None:
    write_json(
        folder / "receipt.json",
        {
            "verdict": "equal", "largest_logit_difference": 6.67572021484375e-06,
            "tolerance": 1e-4, "largest_logit": 14.21875, "computed_in": "fp32",
            "weights": "fp32", "same_top_token_share": 1.0, "transformers": "5.23.0",
        },
    )  # fmt: skip


def score(correct: int, n: int) -> dict[str, Any]:
    """A score with Wilson's interval."""
    z, share = 1.959963984540054, correct / n
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    middle, scale = share + z * z / (2 * n), 1 + z * z / n
    interval = [max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)]
    return {"n": n, "correct": correct, "accuracy": share, "interval95": interval}


def protocol(rows: int) -> dict[str, Any]:
    return {
        "rows": rows, "limit": None, "shots": 0, "decoding": "greedy", "dtype": "fp32",
        "max_new_tokens": 96, "stop": ["\nQuestion:"], "answer_rules": ["stated"], "model": "",
    }  # fmt: skip


def _evaluate(folder: Path) -> None:
    counts = {
        "before": {"1": (9, 3), "2": (2, 1), "3": (0, 0)},
        "after": {"1": (163, 84), "2": (47, 29), "3": (12, 9)},
    }
    for who, levels in counts.items():
        groups = {f"level={level}": score(sum(c), 500) for level, c in levels.items()}
        for seen, name in enumerate(("false", "true")):
            found = sum(count[1 - seen] for count in levels.values())
            groups[f"operands_seen={name}"] = score(found, 750)
        for level, (seen, unseen) in levels.items():
            groups[f"level={level}, operands_seen=false"] = score(unseen, 250)
            groups[f"level={level}, operands_seen=true"] = score(seen, 250)
        correct = sum(sum(c) for c in levels.values())
        for number in range(10):
            groups[f"family=family {number}"] = score(correct // 10, 150)
        head = {"benchmark": "heldout-problems", "version": 1, "protocol": protocol(1500)}
        tail: dict[str, Any] = (
            {"truncated": 31, "no_answer": 1207} if who == "before" else {"truncated": 4}
        )
        tail |= {"grader": "boxed, stated, last number; math-verify 0.8.0"}
        if who == "after":
            tail["likelihood"] = {"sum": score(344, 1500), "of a byte": score(351, 1500)}
        total = score(correct, 1500)
        place = folder / who / "heldout-problems"
        write_json(place / "scores.json", head | total | {"groups": groups} | tail)
        write_lines(place / "predictions.jsonl", _predictions(who))
    head = {"benchmark": "gsm8k", "version": 1, "protocol": protocol(1319)}
    tail = {"truncated": 202, "no_answer": 4, "grader": "stated; math-verify 0.8.0"} | _more()
    summary = {
        "protocol": "a paper", "says": "The higher of zero- and few-shot.", "missing": [],
        "of": {"gsm8k": {"0": 0.019, "8": 0.0123}}, "taken": {"gsm8k": 0.019}, "mean": 0.0171,
        "limits": {"gsm8k": 1319},
    }  # fmt: skip
    write_json(folder / "after" / "summary.json", summary)
    write_json(
        folder / "after" / "gsm8k" / "scores.json", head | score(25, 1319) | {"groups": {}} | tail
    )

    write_json(folder / "retention.json", _retention())


def _more() -> dict[str, Any]:
    """Four answers to each problem with programs, and options by likelihood: made up together."""

    def found(value: float) -> dict[str, Any]:
        return {"value": value, "bootstrap95": [value - 0.0071, value + 0.0083]}

    return {
        "samples": {
            "n": 4,
            "mean": found(0.0187),
            "pass": {"1": found(0.0187), "2": found(0.0311), "4": found(0.0502)},
            "majority": {"1": found(0.0187), "2": found(0.0199), "4": found(0.0241)},
        },
        "tool": {
            "runs": {"done": 2103, "error": 407}, "last_run": {"done": 1100, "none": 219},
            "out_of_rounds": 17, "programs": {"0": 219, "1": 1083, "2": 16},
        },
        "likelihood": {"sum": score(77, 254), "of a byte": score(81, 254)},
    }  # fmt: skip


def _retention() -> dict[str, Any]:
    """One text that was forgotten, one that no document could be read of; a set asked of one."""
    change = {"mean": 0.213, "interval95": [0.171, 0.255], "worse": 377, "verdict": "forgotten"}
    loss = {"before": 3.412, "after": 3.625}
    told = {"text": "wikitext", "documents": 402, "read": 401, "loss": loss, "change": change}
    empty = {"text": "empty", "documents": 2, "read": 0, "change": None}
    return {
        "format": "megatron-math retention", "version": 1, "max_tokens": 512,
        "texts": [told, empty | {"loss": dict.fromkeys(loss)}],
        "sets": [
            {"benchmark": "heldout-problems", "problems": {"before": 2, "after": 2},
             "right": {"before": 0, "after": 1}, "lost": 0, "learned": 1},
            {"benchmark": "gsm8k", "problems": {"after": 1319}, "right": {"after": 25},
             "lost": None, "learned": None},
        ],
    }  # fmt: skip


def _predictions(who: str) -> list[dict[str, Any]]:
    asked = "Question: Mia has 7 pears and finds 8 more. How many pears has she?\nSolution:"
    said = {
        "before": (" the number of the value is the type of the list.", None, False),
        "after": (" 7 + 8 = 15. The answer is 15.", "15", True),
    }
    hard = "Question: A train takes 3 hours for 210 km. How far does it get in 5 hours?\nSolution:"
    rows: list[dict[str, Any]] = []
    for name, prompt, reference, (output, extracted, correct) in (
        ("h-1", asked, "15", said[who]),
        ("h-2", hard, "350", (" 210 / 3 = 60. 60 * 5 = 300. The answer is 300.", "300", False)),
    ):
        rows.append(
            {
                "id": name, "benchmark": "heldout-problems", "prompt": prompt,
                "reference": reference, "output": output, "finish": "stop",
                "extracted": extracted, "correct": correct, "meta": {},
            }
        )  # fmt: skip
    return rows


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
