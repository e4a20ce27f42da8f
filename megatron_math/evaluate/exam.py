"""An exam: the rows of a benchmark, asked in one way; how the tokens of an answer are chosen."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.benchmarks.config import LIKELIHOOD_WAYS, TOOL_WAYS, Way
from megatron_math.benchmarks.load import Benchmark, Row, has_rows, load_benchmark, load_config
from megatron_math.benchmarks.protocol import Protocol
from megatron_math.engine.interface import Message, Request
from megatron_math.evaluate.config import ChosenBenchmark, EvaluateConfig, Pick, ToolConfig

OUTPUT = "```output"  # a model goes on behind it; what it would make up itself is not taken
SEED_STEP = 1_000_003  # between rows: far more than samples of one row


@dataclass(frozen=True)
class Question:
    """A row of a benchmark and the prompt that is sent for it; `number` counts rows from 0."""

    number: int
    row: Row
    prompt: str


@dataclass(frozen=True)
class Exam:
    """name: of its folder and its scores. seed: of the first row's first sample."""

    name: str
    benchmark: Benchmark
    shots: int
    way: Way
    limit: int | None
    max_new_tokens: int
    dtype: str
    temperature: float
    top_p: float
    samples: int
    pick: Pick
    seed: int
    failed_rows: int
    tool: ToolConfig
    asked_by: Protocol | None = None

    @property
    def is_scored_by_likelihood(self) -> bool:
        return self.way in LIKELIHOOD_WAYS

    @property
    def uses_tool(self) -> bool:
        return self.way in TOOL_WAYS

    @property
    def is_chat(self) -> bool:
        return self.way in ("chat", "tool chat")

    @property
    def grading(self) -> str:
        return self.asked_by.grading if self.asked_by is not None else "ours"

    def questions(self) -> list[Question]:
        rows = self.benchmark.rows[: self.limit]
        return [
            Question(number, row, self.benchmark.prompt(row, self.shots, self.way))
            for number, row in enumerate(rows)
        ]

    def request(
        self, question: Question, said: tuple[Message, ...] = (), *, text: str = "", sample: int = 0
    ) -> Request:
        """What is sent: the question, and what was said or written since.

        Of a tool's answers one sample at a time, else all of them.
        """
        prompt: str | tuple[Message, ...] = question.prompt + text
        if self.is_chat:
            prompt = (Message("user", question.prompt), *said)
        stop = tuple(self.benchmark.config.stop)
        if self.uses_tool and OUTPUT not in stop:
            stop = (*stop, OUTPUT)
        seed = (self.seed + SEED_STEP * question.number + sample) % (1 << 31)
        return Request(
            prompt,
            self.max_new_tokens,
            stop,
            n=1 if self.uses_tool else self.samples,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=seed if self.temperature else None,
            logprobs=self.samples > 1 and self.pick == "likelihood",
        )

    def decoding(self) -> str:
        """Such as 'greedy', or 'temperature 0.7, top_p 0.95, seed 1234'."""
        if not self.temperature:
            return "greedy"
        return f"temperature {self.temperature:g}, top_p {self.top_p:g}, seed {self.seed}"

    def protocol(self, model: str) -> dict[str, Any]:
        """Everything that decides the outputs; `model` is the fingerprint of who is asked."""
        config, paper = self.benchmark.config, self.asked_by
        return {
            "benchmark": config.name,
            "version": config.version,
            "rows": len(self.benchmark.rows),
            "rows_sha256": self.benchmark.rows_sha256,
            "limit": self.limit,
            "shots": self.shots,
            "way": self.way,
            "decoding": self.decoding(),
            "samples": self.samples,
            "pick": self.pick if self.samples > 1 else None,
            "tool": self.tool.identity() if self.uses_tool else None,
            "dtype": self.dtype,
            "max_new_tokens": self.max_new_tokens,
            "stop": list(config.stop),
            "answer_rules": list(config.answer_rules),
            "grading": self.grading,
            "asked_by": paper and {key: getattr(paper, key) for key in ("name", "version", "says")},
            "model": model,
        }


def exam_of(benchmark: str, shots: int) -> str:
    """The name of one of several exams of a benchmark."""
    return f"{benchmark}-{shots}shot"


def exams_of(road: Road, config: EvaluateConfig, protocol: Protocol | None) -> list[Exam]:
    """Everything that one model is asked, in order. UserError for what cannot be asked."""
    if protocol is None:
        return [_exam(road, config, choice) for choice in config.choices()]
    return list(_asked_by(road, config, protocol))


def _exam(road: Road, config: EvaluateConfig, choice: ChosenBenchmark) -> Exam:
    benchmark = _benchmark(road, config, choice)
    way = choice.way or "plain"
    return Exam(
        name=benchmark.name,
        benchmark=benchmark,
        shots=choice.shots or 0,
        way=way,
        max_new_tokens=choice.max_new_tokens or benchmark.config.max_new_tokens,
        temperature=0.0 if way in LIKELIHOOD_WAYS else config.temperature,
        top_p=config.top_p,
        **_given(road, config, choice, way),
    )


def _asked_by(road: Road, config: EvaluateConfig, protocol: Protocol) -> Iterator[Exam]:
    """The protocol's sets: those that are chosen, or those whose rows are at hand."""
    chosen = {Path(choice.name).stem: choice for choice in config.choices()}
    known = {asked.name: asked for asked in protocol.asked}
    if unknown := sorted(chosen.keys() - known.keys()):
        raise UserError(
            f"evaluate.benchmarks: {', '.join(unknown)} is not asked by the protocol "
            f"{protocol.name}; it asks {', '.join(known)}"
        )
    wanted = [name for name in known if name in chosen or not chosen]
    found = [name for name in wanted if chosen or has_rows(known[name].benchmark, config.data)]
    if missing := [name for name in wanted if name not in found]:
        log.warning(
            "the protocol %s also asks %s, whose rows are not at hand; its mean is not given "
            "without those that it is made of", protocol.name, ", ".join(missing),
        )  # fmt: skip
    if not found:
        raise UserError(
            f"evaluate.protocol: no rows of {protocol.name}'s sets ({', '.join(known)}) are at "
            f"hand; set evaluate.data, or list benchmarks with their rows"
        )
    for name in found:
        asked = known[name]
        choice = chosen.get(name) or ChosenBenchmark(name=asked.benchmark)
        benchmark = _benchmark(road, config, choice, protocol)
        if benchmark.name != name:
            raise UserError(
                f"the protocol {protocol.name} asks {asked.benchmark}, which calls itself "
                f"{benchmark.name}; give the file its benchmark's name"
            )
        for shots in asked.shots:
            yield Exam(
                name=name if len(asked.shots) == 1 else exam_of(name, shots),
                benchmark=benchmark,
                shots=shots,
                way=asked.way,
                max_new_tokens=benchmark.config.max_new_tokens,
                temperature=protocol.temperature,
                top_p=protocol.top_p,
                asked_by=protocol,
                **_given(road, config, choice, asked.way),
            )


def _given(road: Road, config: EvaluateConfig, choice: ChosenBenchmark, way: Way) -> dict[str, Any]:
    return {
        "limit": choice.limit,
        "dtype": config.dtype,
        "samples": 1 if way in LIKELIHOOD_WAYS else config.samples,
        "pick": config.pick,
        "seed": road.seed,
        "failed_rows": config.failed_rows,
        "tool": config.tool,
    }


def _benchmark(
    road: Road, config: EvaluateConfig, choice: ChosenBenchmark, protocol: Protocol | None = None
) -> Benchmark:
    rows = choice.rows
    if choice.stage is not None:
        rows = road.done(choice.stage).path / load_config(choice.name).rows
    changed = None if protocol is None else protocol.config_of(choice.name)
    benchmark = load_benchmark(choice.name, rows, config.data, changed)
    if benchmark.config.reference is None:
        raise UserError(
            f"evaluate.benchmarks: {benchmark.name} has statements without answers, to be looked "
            f"for in training text; leave it out here"
        )
    return benchmark
