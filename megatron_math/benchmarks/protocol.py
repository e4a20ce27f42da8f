"""The evaluation protocols of published papers: which sets, how asked, how one number is made.

A protocol is a YAML file in `protocols/`. `asks` says what to ask; `summarize` makes the paper's
number from the scores, the rule in words beside it, and never from fewer sets than the paper's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from megatron_math.base.config import Section, load_yaml, parse_section
from megatron_math.base.errors import UserError
from megatron_math.benchmarks.config import BenchmarkConfig, Way
from megatron_math.benchmarks.load import load_config

FOLDER = Path(__file__).parent / "protocols"


class AskedSet(Section):
    """One set, and with how many worked examples it is asked."""

    benchmark: str
    """Its name, or the path of its YAML file."""
    shots: Annotated[list[int], Field(min_length=1)]
    way: Way = "plain"

    @property
    def name(self) -> str:
        return Path(self.benchmark).stem


class Protocol(Section):
    """How a paper scored its models. Keys left out are those of each benchmark."""

    name: str
    version: int
    says: str
    """The rule in words; it stands beside every number that the protocol gives."""
    asked: Annotated[list[AskedSet], Field(min_length=1)]
    take: Literal["highest", "only"]
    """Of a set asked in several ways: the highest score; only: sets are asked in one way."""
    mean_of: Annotated[list[str], Field(min_length=1)]
    """The sets whose plain mean is the paper's number."""
    prompt: str | None = None
    example: str | None = None
    tool: str | None = None
    stop: list[str] | None = None
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    grading: Literal["ours", "jiuzhang3"] = "ours"
    """Rules by which answers are compared (docs/answers.md)."""
    unknown: str | None = None
    """What the paper does not say."""

    @model_validator(mode="after")
    def _whole(self) -> "Protocol":
        names = [asked.name for asked in self.asked]
        if len(set(names)) != len(names):
            raise ValueError("a set is asked twice; give it one entry with several shots")
        if missing := [name for name in self.mean_of if name not in names]:
            raise ValueError(f"mean_of names {', '.join(missing)}, which is not asked")
        if self.take == "only" and any(len(asked.shots) > 1 for asked in self.asked):
            raise ValueError("take: only wants one number of shots a set; or take the highest")
        return self

    def config_of(self, benchmark: str) -> BenchmarkConfig:
        """The benchmark's configuration with what this protocol asks otherwise."""
        given = {
            name: getattr(self, name)
            for name in ("prompt", "example", "tool", "stop", "max_new_tokens")
            if getattr(self, name) is not None
        }
        config = load_config(benchmark).model_dump() | given | {"examples_of": None}
        rules = config["answer_rules"]
        if self.grading == "jiuzhang3" and "last number" in rules:
            config["answer_rules"] = ["minerva", *(rule for rule in rules if rule != "minerva")]
        return BenchmarkConfig.model_validate(config)

    def asks(self) -> list[tuple[str, int, Way]]:
        """Every (benchmark, worked examples, way) that is to be scored."""
        return [(one.name, shots, one.way) for one in self.asked for shots in one.shots]


@dataclass(frozen=True)
class Summary:
    """A protocol's number. mean: None while a set of it has no score; `missing` names those."""

    protocol: str
    says: str
    taken: dict[str, float]
    of: dict[str, dict[int, float]]
    mean: float | None
    missing: list[str]

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def protocol_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_protocol(name: str) -> Protocol:
    """A protocol by name, or by the path of a YAML file. UserError where there is none."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UserError(
            f"there is no protocol '{name}'; known are {', '.join(protocol_names())}, "
            f"or give the path of a YAML file"
        )
    return parse_section(
        Protocol, load_yaml(path.read_text(encoding="utf-8"), str(path)), path.name
    )


def summarize(protocol: Protocol, scores: Mapping[tuple[str, int], float]) -> Summary:
    """The protocol's number from accuracies by (benchmark, worked examples)."""
    of: dict[str, dict[int, float]] = {}
    missing: list[str] = []
    for asked in protocol.asked:
        found = {n: scores[asked.name, n] for n in asked.shots if (asked.name, n) in scores}
        if len(found) < len(asked.shots):
            missing += _not_asked(asked, found)
        else:
            of[asked.name] = found
    taken = {name: max(found.values()) for name, found in of.items()}
    wanted: Sequence[str] = protocol.mean_of
    is_whole = all(name in taken for name in wanted)
    mean = sum(taken[name] for name in wanted) / len(wanted) if is_whole else None
    return Summary(protocol.name, protocol.says, taken, of, mean, missing)


def _not_asked(asked: AskedSet, found: Mapping[int, float]) -> list[str]:
    return [f"{asked.name} with {n} examples" for n in asked.shots if n not in found]
