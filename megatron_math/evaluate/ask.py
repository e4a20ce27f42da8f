"""Ask one model all rows of one benchmark; what is on disk already is not asked again."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_math.base.files import read_json, write_json
from megatron_math.base.log import log
from megatron_math.benchmarks.load import Benchmark, Row
from megatron_math.engine.interface import Engine
from megatron_math.evaluate.grade import PROTOCOL, judge
from megatron_math.evaluate.predictions import append_predictions, keep_whole_blocks

PREDICTIONS = "predictions.jsonl"
# A kill costs at most a block. Prompts of about equal length are put together within a block, so it
# is more than one batch; two, since 512 rows of a slow model are minutes of work.
BLOCK_BATCHES = 2


@dataclass(frozen=True)
class Question:
    """A row of a benchmark and the prompt that is sent for it."""

    row: Row
    prompt: str


@dataclass(frozen=True)
class Exam:
    """A benchmark as it is asked here: which rows, with how many examples, how long an answer."""

    benchmark: Benchmark
    shots: int
    limit: int | None
    max_new_tokens: int
    dtype: str

    def questions(self) -> list[Question]:
        rows = self.benchmark.rows[: self.limit]
        return [Question(row, self.benchmark.prompt(row, self.shots)) for row in rows]

    def protocol(self, model: str) -> dict[str, Any]:
        """Everything that decides the outputs; `model` is the fingerprint of who is asked."""
        config = self.benchmark.config
        return {
            "benchmark": config.name,
            "version": config.version,
            "rows": len(self.benchmark.rows),
            "rows_sha256": self.benchmark.rows_sha256,
            "limit": self.limit,
            "shots": self.shots,
            "decoding": "greedy",
            "dtype": self.dtype,
            "max_new_tokens": self.max_new_tokens,
            "stop": list(config.stop),
            "answer_rules": list(config.answer_rules),
            "model": model,
        }


def ask(
    exam: Exam,
    folder: Path,
    *,
    model: str,
    engine: Callable[[], Engine],
    batch_size: int,
    graders: int = 1,
) -> Path:
    """Write `folder`/predictions.jsonl, all rows in order; returns its path.

    engine: called only when a row is missing. Predictions of another protocol, model or benchmark
    are thrown away.
    """
    protocol, path = exam.protocol(model), folder / PREDICTIONS
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / PROTOCOL
    if not known.is_file() or read_json(known) != protocol:
        path.unlink(missing_ok=True)
        write_json(known, protocol)
    questions = exam.questions()
    block_rows = BLOCK_BATCHES * batch_size
    expected = [(question.row.id, question.prompt) for question in questions]
    done = keep_whole_blocks(path, expected, block_rows)
    if done:
        log.info("%s: %d of %d rows were asked before", folder, done, len(questions))
    started = time.perf_counter()
    for start in range(done, len(questions), block_rows):
        block = questions[start : start + block_rows]
        append_predictions(path, _predict(exam, block, engine(), graders))
        asked = start + len(block)
        rate = (asked - done) / (time.perf_counter() - started)
        log.info("%s: %d of %d rows, %.1f rows/s", folder, asked, len(questions), rate)
    return path


def _predict(
    exam: Exam, block: list[Question], engine: Engine, graders: int
) -> list[dict[str, Any]]:
    config = exam.benchmark.config
    generations = engine.generate(
        [question.prompt for question in block], exam.max_new_tokens, config.stop
    )
    judged = judge(
        config,
        [generation.text for generation in generations],
        [question.row.reference for question in block],
        graders,
    )
    return [
        {
            "id": question.row.id,
            "benchmark": config.name,
            "prompt": question.prompt,
            "reference": question.row.reference,
            "output": generation.text,
            "finish": generation.finish,
            "extracted": extracted,
            "correct": correct,
            "meta": question.row.groups,
        }
        for question, generation, (extracted, correct) in zip(
            block, generations, judged, strict=True
        )
    ]
