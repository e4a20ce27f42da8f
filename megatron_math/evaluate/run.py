"""The evaluate room: who is asked, what is asked, and the scores of both, side by side.

Reads: the `evaluate` section, 00_base/hf, 60_export/hf, benchmark rows. Writes 70_evaluate/:
<who>/<benchmark>/{protocol.json, predictions.jsonl, scores.json}; <who>/missing.json with a reason
where there is no model; stats.json.
"""

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_math.base.config import Section
from megatron_math.base.errors import UserError
from megatron_math.base.files import write_json
from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.base.stage import Stage, StageInput
from megatron_math.benchmarks.load import load_benchmark, load_config
from megatron_math.engine.interface import Engine
from megatron_math.evaluate.ask import Exam, ask
from megatron_math.evaluate.config import ChosenBenchmark, EvaluateConfig
from megatron_math.evaluate.grade import score
from megatron_math.evaluate.predictions import read_predictions

STAGE = "70_evaluate"
OpenEngine = Callable[[Path], Engine]


@dataclass(frozen=True)
class Candidate:
    """Who is asked: a Hugging Face folder made by a stage, or the reason why there is none."""

    who: str
    made_by: StageInput | None
    missing: str | None = None

    @property
    def folder(self) -> Path:
        assert self.made_by is not None
        return self.made_by.path / "hf"


def run(road: Road, *, open_engine: OpenEngine | None = None) -> Stage:
    """Score the road's models; nothing is done when the stage is up to date.

    open_engine: makes the engine for a model folder; without it the folder is loaded here.
    Raises UserError when the export or a benchmark's rows are missing.
    """
    config = road.section("evaluate", EvaluateConfig)
    exams = [_exam(road, config, choice) for choice in config.choices()]
    names = [exam.benchmark.name for exam in exams]
    if len(set(names)) != len(names):
        raise UserError(f"evaluate.benchmarks: two benchmarks have one name: {', '.join(names)}")
    candidates = [_find(road, who) for who in config.who]
    inputs: dict[str, StageInput | Path] = {
        f"benchmark {exam.benchmark.name}": exam.benchmark.rows_path for exam in exams
    }
    inputs |= {c.who: c.made_by for c in candidates if c.made_by is not None}
    sections: dict[str, Section] = {"evaluate": config}
    sections |= {f"benchmark {exam.benchmark.name}": exam.benchmark.config for exam in exams}
    stage = Stage(road.folder(STAGE), config=sections, inputs=inputs, seed=road.seed)
    if stage.is_done():
        return stage
    stage.begin()
    _remove_others(stage.folder, [c.who for c in candidates], names)
    open_engine = open_engine or functools.partial(_open_folder, config)
    stats = {c.who: _examine(c, exams, stage.folder, config, open_engine) for c in candidates}
    _show(stats, names)
    stage.finish(stats=stats, outputs=[stage.folder / c.who for c in candidates])
    return stage


def _exam(road: Road, config: EvaluateConfig, choice: ChosenBenchmark) -> Exam:
    rows = choice.rows
    if choice.stage is not None:
        rows = road.done(choice.stage).path / load_config(choice.name).rows
    benchmark = load_benchmark(choice.name, rows, config.data)
    if benchmark.config.reference is None:
        raise UserError(
            f"evaluate.benchmarks: {benchmark.name} has statements without answers, to be looked "
            f"for in training text; leave it out here"
        )
    return Exam(
        benchmark,
        shots=choice.shots or 0,
        limit=choice.limit,
        max_new_tokens=choice.max_new_tokens or benchmark.config.max_new_tokens,
        dtype=config.dtype,
    )


def _find(road: Road, who: str) -> Candidate:
    if who == "after":
        return Candidate(who, road.done("60_export"))
    if not road.has("base"):
        return Candidate(who, None, "this road has no base")
    base = road.done("00_base")
    if not (base.path / "hf").is_dir():
        return Candidate(who, None, "the base is fresh weights, which have learned nothing yet")
    return Candidate(who, base)


def _open_folder(config: EvaluateConfig, folder: Path) -> Engine:
    from megatron_math.engine.hf import HuggingFaceEngine

    return HuggingFaceEngine(folder, batch_size=config.batch_size, dtype=config.dtype)


def _remove_others(folder: Path, whos: list[str], names: list[str]) -> None:
    """Take away what an earlier configuration left here: it must not be read as a result."""
    for who in ("before", "after"):
        if who not in whos:
            shutil.rmtree(folder / who, ignore_errors=True)
        (folder / who / "missing.json").unlink(missing_ok=True)
        for path in (folder / who).glob("*"):
            if path.name not in names:
                shutil.rmtree(path)


def _examine(
    candidate: Candidate,
    exams: list[Exam],
    folder: Path,
    config: EvaluateConfig,
    open_engine: OpenEngine,
) -> dict[str, Any]:
    """Ask one candidate everything; its line of stats.json."""
    if candidate.made_by is None:
        write_json(folder / candidate.who / "missing.json", {"missing": candidate.missing})
        return {"missing": candidate.missing}
    engine = functools.cache(lambda: open_engine(candidate.folder))
    stats = {}
    for exam in exams:
        path = ask(
            exam,
            folder / candidate.who / exam.benchmark.name,
            model=candidate.made_by.fingerprint,
            engine=engine,
            batch_size=config.batch_size,
            graders=config.graders,
        )
        scores = score(path, read_predictions(path), exam.benchmark.config)
        write_json(path.with_name("scores.json"), scores)
        kept = ("n", "correct", "accuracy", "interval95", "truncated")
        stats[exam.benchmark.name] = {key: scores[key] for key in kept}
    return stats


def _show(stats: dict[str, dict[str, Any]], names: list[str]) -> None:
    for name in names:
        for who, scores in stats.items():
            if "missing" in scores:
                log.info("%s, %s: missing (%s)", name, who, scores["missing"])
                continue
            found = scores[name]
            low, high = (100 * bound for bound in found["interval95"])
            log.info(
                *("%s, %s: %.1f %% (%.1f to %.1f) of %d right, %d cut off", name, who),
                *(100 * found["accuracy"], low, high, found["n"], found["truncated"]),
            )
