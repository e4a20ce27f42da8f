"""The evaluate room: who is asked, what is asked, and the scores of all, side by side.

Reads: the `evaluate` section, 00_base, 60_export (or 50_train's newest checkpoint), benchmark rows.
Writes 70_evaluate/: answers.jsonl; programs.jsonl; <who>/<exam>/{protocol.json,
predictions.jsonl, scores.json}; <who>/summary.json where a protocol makes one number;
<who>/missing.json with a reason where there is no model; retention.json where it is asked;
stats.json.
"""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from megatron_math.base.config import Section
from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, sha256_file, sha256_json, write_json
from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.base.signals import remember_stops
from megatron_math.base.stage import Stage, StageInput
from megatron_math.benchmarks.protocol import Protocol, load_protocol, summarize
from megatron_math.engine.kept import KeptEngine
from megatron_math.evaluate.ask import Reply, ask
from megatron_math.evaluate.candidate import Candidate, OpenEngine, find, open_kept
from megatron_math.evaluate.config import EvaluateConfig
from megatron_math.evaluate.exam import Exam, exams_of
from megatron_math.evaluate.grade import DISPUTED, PROTOCOL, judge, score, write_disputed
from megatron_math.evaluate.predictions import write_predictions
from megatron_math.evaluate.programs import Programs
from megatron_math.evaluate.retention import FILE as RETENTION
from megatron_math.evaluate.retention import check_sets, measure_retention
from megatron_math.evaluate.tool import ask_with_tool

STAGE = "70_evaluate"
PREDICTIONS = "predictions.jsonl"
SCORES, SUMMARY = "scores.json", "summary.json"
Replies = list[list[Reply]]


def run(road: Road, *, open_engine: OpenEngine | None = None) -> Stage:
    """Score the road's models; nothing is done when the stage is up to date.

    open_engine: makes the engine for a model folder; without it the section says how. Raises
    UserError when a model or a benchmark's rows are missing, StoppedOnRequest after a signal or
    when a budget is spent: the same command goes on.
    """
    config = road.section("evaluate", EvaluateConfig)
    protocol = None if config.protocol is None else load_protocol(config.protocol)
    exams = exams_of(road, config, protocol)
    names = [exam.name for exam in exams]
    if len(set(names)) != len(names):
        raise UserError(f"evaluate.benchmarks: two benchmarks have one name: {', '.join(names)}")
    if config.retention is not None:
        check_sets(config.retention, names)
    candidates = [find(road, config, who) for who in config.whos()]
    stage = _stage(road, config, protocol, exams, candidates)
    if stage.is_done():
        return stage
    stage.begin()
    (stage.folder / RETENTION).unlink(missing_ok=True)
    _remove_others(stage.folder, [c.who for c in candidates], names)
    with remember_stops("evaluate") as stopping:
        room = _Room(stage.folder, config, protocol, open_engine, stopping)
        stats = {candidate.who: room.examine(candidate, exams) for candidate in candidates}
    _show(stats, names)
    outputs = [stage.folder / c.who for c in candidates]
    if config.retention is not None:
        outputs.append(_look_for_losses(road, config, candidates))
    stage.finish(stats=stats, outputs=outputs)
    return stage


def _stage(
    road: Road,
    config: EvaluateConfig,
    protocol: Protocol | None,
    exams: list[Exam],
    candidates: list[Candidate],
) -> Stage:
    inputs: dict[str, StageInput | Path] = {
        f"benchmark {exam.name}": exam.benchmark.rows_path for exam in exams
    }
    inputs |= {c.who: c.made_by for c in candidates if c.made_by is not None}
    for c in candidates:
        if c.named is not None and c.named.server is None:  # a folder of its own
            inputs["model"] = StageInput(Path(c.who), c.fingerprint)
    if config.reward is not None:
        inputs["reward"] = config.reward
    if config.retention is not None:
        inputs |= {f"text {name}": text.path for name, text in config.retention.texts.items()}
    sections: dict[str, Section] = {"evaluate": config}
    if protocol is not None:
        sections["protocol"] = protocol
    sections |= {f"benchmark {exam.name}": exam.benchmark.config for exam in exams}
    return Stage(road.folder(STAGE), config=sections, inputs=inputs, seed=road.seed)


def _look_for_losses(road: Road, config: EvaluateConfig, candidates: list[Candidate]) -> Path:
    """retention.json of the road's models, the earlier one first; by whatever engine they were
    asked, their texts are read from Hugging Face folders."""
    from megatron_math.engine.losses import TextLosses

    asked = config.retention
    assert asked is not None
    folders = {"before": road.folder("00_base") / "hf", "after": road.folder("60_export") / "hf"}
    models = {}
    for who, folder in folders.items():
        made_by = next((c.made_by for c in candidates if c.who == who), None)
        if made_by is not None and folder.is_dir():
            models[who] = made_by.fingerprint, folder
        elif made_by is not None:
            log.warning("retention: %s is not there, so %s has no losses of texts", folder, who)
    return measure_retention(
        asked,
        road.folder(STAGE),
        models,
        lambda path: TextLosses(path, dtype=config.dtype, max_tokens=asked.max_tokens),
    )


def _remove_others(folder: Path, whos: list[str], names: list[str]) -> None:
    """Take away what an earlier configuration left here: it must not be read as a result."""
    for who in ("before", "after", "other"):
        if who not in whos:
            shutil.rmtree(folder / who, ignore_errors=True)
        for name in ("missing.json", SUMMARY):
            (folder / who / name).unlink(missing_ok=True)
        for path in (folder / who).glob("*"):
            if path.name not in names:
                shutil.rmtree(path)


class _Room:
    """What all candidates have in common."""

    def __init__(
        self,
        folder: Path,
        config: EvaluateConfig,
        protocol: Protocol | None,
        open_engine: OpenEngine | None,
        stopping: Callable[[], bool],
    ) -> None:
        self.folder = folder
        self.config = config
        self.protocol = protocol
        self.open_engine = open_engine
        self.stopping = stopping

    def examine(self, candidate: Candidate, exams: list[Exam]) -> dict[str, Any]:
        """Ask one candidate everything; its line of stats.json."""
        own = self.folder / candidate.who
        if candidate.missing is not None:
            write_json(own / "missing.json", {"missing": candidate.missing})
            return {"missing": candidate.missing}
        stats: dict[str, Any] = {}
        with ExitStack() as stack:
            engine = stack.enter_context(
                open_kept(
                    candidate, self.config, self.folder,
                    open_engine=self.open_engine, stopping=self.stopping,
                )
            )  # fmt: skip
            for exam in exams:
                scores = self._take(exam, own / exam.name, candidate.fingerprint, engine)
                kept = ("n", "correct", "accuracy", "interval95", "truncated")
                stats[exam.name] = {key: scores[key] for key in kept}
        if self.protocol is not None:
            stats[SUMMARY.removesuffix(".json")] = self._summarize(own, exams, stats)
        return stats

    def _take(self, exam: Exam, folder: Path, model: str, engine: KeptEngine) -> dict[str, Any]:
        """The scores of one exam; those that are there are taken where they belong to it."""
        protocol, path = exam.protocol(model), folder / PREDICTIONS
        disputed = folder / DISPUTED
        if not self.config.second_opinion:
            disputed.unlink(missing_ok=True)
        found = _known(folder, protocol)
        if found is not None and disputed.is_file() == self.config.second_opinion:
            return found
        path.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / PROTOCOL, protocol)
        rows = _rows(exam, self._replies(exam, engine, protocol))
        if exam.pick == "reward" and exam.samples > 1:
            self._reward(exam, rows)
        judge(rows, exam.benchmark.config, protocol, self.config.graders)
        write_predictions(path, rows)
        if self.config.second_opinion:
            write_disputed(path, rows, protocol, self.config.graders)
        scores = score(path, rows, exam.benchmark.config)
        write_json(folder / SCORES, scores)
        return scores

    def _replies(self, exam: Exam, engine: KeptEngine, protocol: dict[str, Any]) -> Replies:
        if not exam.uses_tool:
            return ask(exam, engine)
        with Programs(self.folder, exam.tool) as programs:
            return ask_with_tool(exam, engine, programs, sha256_json(protocol))

    def _reward(self, exam: Exam, rows: list[dict[str, Any]]) -> None:
        from megatron_math.engine.reward import RewardModel

        assert self.config.reward is not None
        pairs = [(row["prompt"], s["output"]) for row in rows for s in row["samples"]]
        rewards = iter(RewardModel(self.config.reward).scores(pairs, chat=exam.is_chat))
        for row in rows:
            for sample in row["samples"]:
                sample["reward"] = next(rewards)

    def _summarize(self, own: Path, exams: list[Exam], stats: dict[str, Any]) -> dict[str, Any]:
        assert self.protocol is not None
        scores = {(exam.benchmark.name, exam.shots): stats[exam.name]["accuracy"] for exam in exams}
        summary = summarize(self.protocol, scores).to_json()
        summary["limits"] = {exam.name: exam.limit for exam in exams if exam.limit is not None}
        write_json(own / SUMMARY, summary)
        return summary


def _known(folder: Path, protocol: dict[str, Any]) -> dict[str, Any] | None:
    """The scores in `folder` if they are of these very predictions, made under this protocol."""
    files = [folder / name for name in (PROTOCOL, PREDICTIONS, SCORES)]
    if not all(file.is_file() for file in files) or read_json(files[0]) != protocol:
        return None
    scores: dict[str, Any] = read_json(files[2])
    return scores if scores["predictions_sha256"] == sha256_file(files[1]) else None


def _rows(exam: Exam, replies: Replies) -> list[dict[str, Any]]:
    """Predictions that nobody has judged yet, with the keys in their order on disk."""
    rows = []
    for question, samples in zip(exam.questions(), replies, strict=True):
        said = [
            {"output": reply.output, "finish": reply.finish, "extracted": None, "correct": False}
            | reply.facts
            for reply in samples
        ]
        rows.append(
            {
                "id": question.row.id,
                "benchmark": exam.benchmark.config.name,
                "prompt": question.prompt,
                "reference": question.row.reference,
                **{key: said[0][key] for key in ("output", "finish", "extracted", "correct")},
                "meta": question.row.groups,
                **(samples[0].facts if len(said) == 1 else {"picked": 0, "samples": said}),
            }
        )
    return rows


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
    for who, scores in stats.items():
        if summary := scores.get("summary"):
            mean = summary["mean"]
            log.info(
                "%s, %s: %s (%s)", summary["protocol"], who,
                "no mean, for want of " + ", ".join(summary["missing"])
                if mean is None
                else f"{100 * mean:.1f}",
                summary["says"],
            )  # fmt: skip
