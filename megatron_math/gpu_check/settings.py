"""What is run: models, shapes and limits on a GPU, and in miniature where there is none."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

RECIPES = ("delayed", "tensorwise", "blockwise")
GIGA = 1e9


@dataclass(frozen=True)
class Setup:
    """A model, its precision and its batch; everything that a child process needs to build it."""

    preset: str
    overrides: Mapping[str, Any]
    """Fields of ModelConfig in place of the preset's."""
    sequence_length: int
    micro_batch: int = 1
    micro_batches: int = 1
    """Forward and backward passes in one optimizer step."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    spec: Literal["auto", "torch", "te"] = "torch"
    fp8: Mapping[str, Any] | None = None
    """The section `precision.fp8` of a road."""
    half_state: bool = False
    """Gradients and moments in bf16, master weights as what bf16 lacks: 10 bytes a parameter, 18
    otherwise."""
    recompute: Literal["none", "full"] = "none"
    num_documents: int = 1
    """In each row, of uneven lengths."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Goal:
    """Tokens/s of one GPU to be reached, what is aimed at, and the best that was published."""

    name: str
    reach: float | None
    """None: none was set."""
    aim: float | None
    published: str


@dataclass(frozen=True)
class SpeedCase:
    """One model at one precision. Rungs are tried from the first on until one fits."""

    setup: Setup
    all_layers: int
    rungs: tuple[tuple[int, Literal["none", "full"]], ...]
    """(layers, recomputation)"""
    goal: Goal
    precision: Literal["bf16", "fp8"]
    pairs: int = 6
    """Steps with checks on and off, alternated."""
    seconds: float = 25.0
    """After these no further pair begins; two are measured in any case."""


@dataclass(frozen=True)
class Settings:
    """Everything that differs between a GPU and the miniature."""

    small: Setup
    """Of the parity checks."""
    steps: int
    """Optimizer steps in which losses are compared."""
    attention_length: int
    speed: Mapping[str, SpeedCase]
    limits: Mapping[str, float]
    """Seconds of each part at most."""
    is_miniature: bool = field(default=False)


PARTS = (
    "machine", "units", "speed-8b-bf16", "speed-8b-fp8", "reference", "model", "te", "fp8",
    "speed-1b-bf16", "speed-1b-fp8",
)  # fmt: skip
"""In the order of their running."""

GOALS = {
    "speed-8b-fp8": Goal("G1", 12_500, 15_500, "14,451 per GPU on 8 x H100 with checks off"),
    "speed-8b-bf16": Goal("G2", 8_500, 10_500, "6,667 per GPU on 8 x H100 of 500 W"),
    "speed-1b-bf16": Goal("G3", 45_000, 60_000, "42,000 per GPU on 8 x H100"),
    "speed-1b-fp8": Goal("1B in FP8", None, None, "32,010 per GPU at sequence 8,192"),
}
"""Of docs in this repository: issue text and published tables; of one H200 or H100."""
MEMORY_GOAL = (130 * GIGA, 110 * GIGA)
"""G9, peak of speed-8b-fp8 in bytes: below the first, aim below the second."""
GAP_GOAL = (0.005, 0.001)
"""G7, relative gap of the loss in FP8 to that in bf16: below the first, aim below the second."""
CHECKS_GOAL = (0.03, 0.01)
"""G5, share of a step that safety checks take: below the first, aim below the second."""

_EIGHT = (
    (32, "none"), (32, "full"), (28, "none"), (24, "none"), (20, "none"), (16, "none"),
    (8, "none"), (4, "none"), (2, "none"),
)  # fmt: skip
_ONE = ((16, "none"), (16, "full"), (8, "none"), (4, "none"))


def on_gpu() -> Settings:
    """Full sizes; eight minutes on a GPU of the H100 class."""
    small = Setup(
        preset="tiny",
        overrides={
            "hidden_size": 256, "ffn_hidden_size": 512, "num_layers": 3, "vocab_size": 1000,
        },
        sequence_length=256, micro_batch=2, micro_batches=2, num_documents=5,
    )  # fmt: skip
    eight = Setup("llama3-8b", {}, 8192, micro_batches=4, dtype="bf16", spec="auto")
    one = Setup("llama3.2-1b", {}, 4096, micro_batch=4, micro_batches=4, dtype="bf16", spec="auto")
    limits = {"machine": 60, "units": 60, "reference": 60, "model": 60, "te": 75, "fp8": 100}
    return Settings(
        small=small,
        steps=20,
        attention_length=512,
        speed=_speed_cases(eight, one, (_EIGHT, 32), (_ONE, 16)),
        limits=limits | {"speed-8b-bf16": 110, "speed-8b-fp8": 110, "speed-1b-bf16": 60,
                         "speed-1b-fp8": 60},
    )  # fmt: skip


def in_miniature() -> Settings:
    """The same parts and the same code in shapes that two CPU cores do in a minute."""
    small = Setup(
        preset="tiny", overrides={"num_layers": 2, "vocab_size": 500},
        sequence_length=64, micro_batch=2, micro_batches=2, num_documents=3,
    )  # fmt: skip
    eight = Setup("tiny", {"num_layers": 3}, 128, micro_batches=2, dtype="bf16", spec="auto")
    one = Setup("tiny", {"num_layers": 2}, 64, 2, micro_batches=2, dtype="bf16", spec="auto")
    cases = _speed_cases(eight, one, (((3, "none"), (2, "none")), 3), (((2, "none"),), 2))
    return Settings(
        small=small,
        steps=6,
        attention_length=96,
        speed={name: replace(case, pairs=3, seconds=5) for name, case in cases.items()},
        limits=dict.fromkeys(PARTS, 60.0),
        is_miniature=True,
    )


def _speed_cases(
    eight: Setup, one: Setup, eight_rungs: tuple[Any, int], one_rungs: tuple[Any, int]
) -> dict[str, SpeedCase]:
    fp8 = {"recipe": "tensorwise", "backend": "te"}
    return {
        name: SpeedCase(
            setup=setup if precision == "bf16" else replace(setup, fp8=fp8),
            all_layers=layers,
            rungs=rungs,
            goal=GOALS[name],
            precision=precision,
        )
        for setup, (rungs, layers), size in ((eight, eight_rungs, "8b"), (one, one_rungs, "1b"))
        for precision in ("bf16", "fp8")
        for name in [f"speed-{size}-{precision}"]
    }
