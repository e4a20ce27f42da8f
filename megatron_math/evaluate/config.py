"""What the `evaluate` section of a road holds."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from megatron_math.base.config import LOCATION, Section
from megatron_math.benchmarks.config import TOOL_WAYS, Way
from megatron_math.engine.config import EngineConfig
from megatron_math.evaluate.retention_config import RetentionConfig

Who = Literal["before", "after", "other"]
Pick = Literal["majority", "first", "likelihood", "reward"]
HOW = ("shots", "max_new_tokens", "way")


class ChosenBenchmark(Section):
    """A benchmark to score, with what differs from its own YAML."""

    name: str
    """A benchmark that comes with the program, or the path of a YAML file."""
    rows: Annotated[Path | None, LOCATION] = None
    """The file of its rows, where it is not below `data` (known to the stage by content)."""
    stage: str | None = None
    """A stage of this road that wrote the rows, such as 10_synthesize; instead of `rows`."""
    shots: Annotated[int | None, Field(ge=0)] = None
    """Solved examples before the question."""
    limit: Annotated[int | None, Field(ge=1)] = None
    """Ask the first `limit` rows only; the scores say so."""
    max_new_tokens: Annotated[int | None, Field(ge=1)] = None
    """Tokens an answer may have."""
    way: Way | None = None
    """plain: a text is continued (the default); chat: the user's turn; tool, tool chat: the same
    with programs that are run; letters, options: the likelihood of each letter, or option."""

    @model_validator(mode="after")
    def _one_place(self) -> "ChosenBenchmark":
        if self.rows is not None and self.stage is not None:
            raise ValueError("give the rows by 'rows' or by 'stage', not both")
        return self

    def identity(self) -> dict[str, Any]:
        return _without(super().identity(), way=None)


class ToolConfig(Section):
    """Programs that a model writes into its answer are run, and their output is put behind them."""

    rounds: Annotated[int, Field(ge=1)] = 4
    """Programs of one answer at most."""
    wall_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Of one program."""
    characters: Annotated[int, Field(ge=1)] = 400
    """Of its output that the model is shown."""
    workers: Annotated[int, Field(ge=1), LOCATION] = 2
    """Programs that run at a time."""
    unprotected: Annotated[str, LOCATION] = ""
    """Words of docs/sandbox.md, for machines that cannot isolate a process."""


class EvaluateConfig(Section):
    """Which models are asked what."""

    protocol: str | None = None
    """How a paper asked: mathgpt8b, jiuzhang3, jiuzhang3_base, jiuzhang3_tool, or a YAML file."""
    benchmarks: list[str | ChosenBenchmark] = []
    """Names, or mappings with name, rows, shots, limit, max_new_tokens, way. With a protocol: those
    of its sets that are asked; left out: all whose rows are at hand."""
    data: Annotated[Path | None, LOCATION] = None
    """Folder below which the benchmarks' rows are."""
    engine: Literal["hf", "megatron", "vllm"] | EngineConfig = "hf"
    """By what the road's models are asked. Or who is asked instead: server, or hf, megatron, vllm
    with a folder."""
    who: Annotated[list[Who] | None, Field(min_length=1)] = None
    """before: 00_base; after: 60_export, or for megatron 50_train (both, by default); other: the
    model that `engine` names. after with a server: it serves this road's export."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of weights and arithmetic; in bf16 an answer may depend on who shares the batch."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0: the likeliest token each time. Log-probabilities are divided by it before one is drawn."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Answers to each question."""
    pick: Pick = "majority"
    """The one of several answers that counts: of the largest class of equal answers; the first; the
    likeliest a token; the one that `reward` prefers."""
    reward: Annotated[Path | None, LOCATION] = None
    """Folder of a model with one score a text (transformers' sequence classification)."""
    tool: ToolConfig = ToolConfig()
    """For the ways tool and tool chat."""
    second_opinion: bool = False
    """Ask math-verify too; where it differs stands in disputed.jsonl. It changes no score."""
    failed_rows: Annotated[int, Field(ge=0)] = 0
    """Rows of a benchmark that may have no answer (a server refuses) and then count as wrong."""
    batch_size: Annotated[int, Field(ge=1), LOCATION] = 128
    """Prompts that are continued together."""
    graders: Annotated[int, Field(ge=1), LOCATION] = 1
    """Processes that judge answers which need algebra."""
    retention: RetentionConfig | None = None
    """What is looked at to see what was forgotten."""

    @field_validator("benchmarks")
    @classmethod
    def _once_each(cls, benchmarks: list[str | ChosenBenchmark]) -> list[str | ChosenBenchmark]:
        names = [b if isinstance(b, str) else b.name for b in benchmarks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is chosen twice; choose each benchmark once")
        return benchmarks

    @model_validator(mode="after")
    def _fits(self) -> "EvaluateConfig":
        if self.protocol is None and not self.benchmarks:
            raise ValueError("give at least 1 item of 'benchmarks', or a 'protocol'")
        if self.protocol is not None:
            own = [key for b in self.choices() for key in HOW if getattr(b, key) is not None]
            own += [key for key in ("temperature", "top_p") if key in self.model_fields_set]
            if own:
                raise ValueError(f"the protocol says {', '.join(own)}; leave it out")
        elif self.samples > 1 and not self.temperature:
            raise ValueError("samples of greedy answers are all alike; give a temperature")
        if (self.pick == "reward") != (self.reward is not None):
            raise ValueError("'pick: reward' and the folder 'reward' go together")
        if isinstance(self.engine, EngineConfig) and len(self.whos()) > 1:
            raise ValueError("'engine' names one model; say which with 'who'")
        if isinstance(self.engine, EngineConfig) != ("other" in self.whos()) and not (
            isinstance(self.engine, EngineConfig) and self.engine.server is not None
        ):
            raise ValueError("'who: [other]' and a model that 'engine' names go together")
        return self

    def whos(self) -> list[Who]:
        if self.who is not None:
            return self.who
        return ["other"] if isinstance(self.engine, EngineConfig) else ["before", "after"]

    def choices(self) -> list[ChosenBenchmark]:
        return [ChosenBenchmark(name=b) if isinstance(b, str) else b for b in self.benchmarks]

    def identity(self) -> dict[str, Any]:
        """Keys that say nothing leave no trace, so that older results stay up to date."""
        found = super().identity()
        if all(choice.way not in TOOL_WAYS for choice in self.choices()) and not self.protocol:
            del found["tool"]
        if self.samples == 1:
            del found["pick"]
        return _without(
            found | {"who": list(self.whos())},
            protocol=None, engine="hf", temperature=0.0, top_p=1.0, samples=1, failed_rows=0,
            second_opinion=False,
            retention=None,
        )  # fmt: skip


def _without(values: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in values.items()
        if name not in defaults or value != defaults[name]
    }
