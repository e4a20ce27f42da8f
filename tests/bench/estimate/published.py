"""Published rows beside their estimates: reading, fitting the shares, leave-one-out."""

from dataclasses import dataclass
from functools import cache
from math import exp, log
from pathlib import Path
from typing import Any

import yaml

from megatron_math.estimate.hardware import Gpu, load_gpu
from megatron_math.estimate.layout import Layout
from megatron_math.estimate.memory import Memory, rank_memory
from megatron_math.estimate.speed import Speed, estimate_speed
from megatron_math.model.config import ModelConfig
from megatron_math.model.flops import training_flops_per_token
from megatron_math.model.presets import load_preset

DATA = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text(encoding="utf-8"))
FITTED = (("hopper", "bf16"), ("hopper", "fp8"), ("blackwell", "fp8"), ("blackwell", "mxfp8"),
          ("ampere", "bf16"))  # fmt: skip
Shares = dict[tuple[str, str], float]


@dataclass(frozen=True, eq=False)
class Row:
    """One published configuration. memory_gib: what the trainer logged, or None."""

    what: str
    source: str
    model: ModelConfig
    gpu: Gpu
    layout: Layout
    tokens_per_second: float
    memory_gib: float | None
    assumed: str

    @property
    def constant(self) -> tuple[str, str]:
        """The fitted constant that this row decides."""
        return self.gpu.architecture, self.layout.precision

    def speed(self, shares: Shares) -> Speed:
        """The estimate, with `shares` in place of shares.yaml's matrix-product rates."""
        reached = self.gpu.reached
        matmul = dict(reached.matmul) | {
            precision: share  # type: ignore[misc]
            for (architecture, precision), share in shares.items()
            if architecture == self.gpu.architecture
        }
        gpu = self.gpu.model_copy(update={"shares": reached.model_copy(update={"matmul": matmul})})
        return estimate_speed(self.model, self.layout, gpu)

    def error(self, shares: Shares) -> float:
        """Estimated over published tokens/s, less one."""
        return self.speed(shares).tokens_per_second_per_gpu / self.tokens_per_second - 1

    def memory(self) -> Memory:
        return rank_memory(self.model, self.layout)[0]


@cache
def rows(kind: str = "rows") -> tuple[Row, ...]:
    """`rows`: those of the list that is to be met, also fitted on; the others are an outside check:
    `held_out` of dense models, `experts`, `adapters`."""
    return tuple(row for raw in DATA[kind] for row in _read(raw))


def shipped() -> Shares:
    """The fitted constants as shares.yaml has them."""
    gpus = {"hopper": "h100", "blackwell": "b200", "ampere": "a100"}
    return {
        (architecture, precision): load_gpu(gpus[architecture]).reached.matmul[precision]  # type: ignore[index]
        for architecture, precision in FITTED
    }


def fit(among: tuple[Row, ...], start: Shares, only: tuple[str, str] | None = None) -> Shares:
    """Shares with the least mean square log error; bf16 first, the others build on it."""
    shares = dict(start)
    for constant in FITTED:
        deciding = [row for row in among if row.constant == constant]
        if not deciding or (only is not None and constant != only):
            continue

        def cost(
            share: float,
            constant: tuple[str, str] = constant,
            deciding: list[Row] = deciding,
        ) -> float:
            trial = shares | {constant: share}
            return sum(log(1 + row.error(trial)) ** 2 for row in deciding) / len(deciding)

        shares[constant] = _minimum(cost, 0.2, 0.95)
    return shares


@cache
def leave_one_out(row: Row) -> float | None:
    """The row's error with its constant fitted on the others; None where no other row has it."""
    others = tuple(other for other in rows() if other is not row)
    if not any(other.constant == row.constant for other in others):
        return None
    return row.error(fit(others, shipped(), row.constant))


def _minimum(cost: Any, low: float, high: float) -> float:
    """A minimum on a grid of 0.005: three digits are all that is shipped."""
    steps = [round(low + 0.005 * step, 3) for step in range(int((high - low) / 0.005) + 1)]
    left, right = 0, len(steps) - 1
    while right - left > 2:  # each cost is unimodal: speed rises with the share
        third = (right - left) // 3
        if cost(steps[left + third]) <= cost(steps[right - third]):
            right -= third
        else:
            left += third
    return min(steps[left : right + 1], key=cost)


def _read(raw: dict[str, Any]) -> list[Row]:
    if "foundry" in raw:
        return [_foundry(raw, *entry) for entry in raw["rows"]]
    model = _model(raw["model"])
    layout = Layout.from_json({**DATA["stacks"][raw["stack"]], **raw["layout"]})
    layout.check(model)
    if "tflops" in raw:
        convention = raw.get("convention", "half")
        length, lora = layout.sequence_length, layout.lora
        flops = training_flops_per_token(model, length, convention, lora=lora)
        tokens = raw["tflops"] * 1e12 / flops
    else:
        tokens = raw["tokens_per_second"]
    return [
        Row(
            what=raw["what"],
            source=DATA["sources"][raw["source"]],
            model=model,
            gpu=load_gpu(raw["gpu"]),
            layout=layout,
            tokens_per_second=tokens,
            memory_gib=raw.get("memory_gib"),
            assumed=raw.get("assumed", ""),
        )
    ]


def _foundry(
    raw: dict[str, Any],
    sequence: int,
    gpus: int,
    micro: int,
    batch: int,
    recomputed: bool,
    tokens_per_second: float,
) -> Row:
    layout = Layout(
        gpus=gpus,
        sequence_length=sequence,
        global_batch=batch,
        micro_batch=micro,
        recompute="full" if recomputed else "none",
        precision=raw.get("precision", "bf16"),
        **DATA["stacks"]["llm-foundry"],
    )
    model = _model(raw["model"])
    layout.check(model)
    what = f"{gpus} x {raw['foundry'].upper()}, {raw['model'][4:].upper()} at {sequence:,}"
    source = DATA["sources"]["foundry"]
    return Row(what, source, model, load_gpu(raw["foundry"]), layout, tokens_per_second, None, "")


@cache
def _model(name: str) -> ModelConfig:
    raw = dict(DATA["models"].get(name, {"preset": name}))
    return load_preset(raw.pop("preset"), raw)


def mean_factor(errors: list[float]) -> float:
    """Typical error as a factor less one: the mean of absolute log errors."""
    return exp(sum(abs(log(1 + error)) for error in errors) / len(errors)) - 1
