"""GPUs as data: one YAML file each in `device/gpus/`, every number with its source; a path is
read too.

Peaks are dense. What no data sheet gives, the shares of rated speeds that real kernels reach, is in
`shares.yaml`, one set per architecture.
"""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from megatron_math.base.config import Section, load_yaml, parse_section
from megatron_math.base.errors import UserError
from megatron_math.device.peak import GPU_FILES

Precision = Literal["fp32", "bf16", "fp8", "mxfp8"]
AttentionKernel = Literal["flash1", "flash2", "flash3"]

GPUS: tuple[str, ...] = tuple(
    sorted(entry.name.removesuffix(".yaml") for entry in GPU_FILES.iterdir())
)
"""Names of the GPUs that are known without a file."""


class Shares(Section):
    """Share of a rated speed that training kernels reach; 1 would be the rating itself."""

    matmul: dict[Precision, float]
    """Matrix products, by number type; fitted, see docs/benchmarks/estimate.md."""
    attention: dict[AttentionKernel, float]
    """Fused attention against the bf16 peak, forward and backward together."""
    memory: float = Field(0.8, gt=0, le=1)
    """Elementwise kernels and the optimizer against the memory's rated speed."""
    link: float = Field(0.8, gt=0, le=1)
    """Collectives on large messages against the rated speed of one direction."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if "bf16" not in self.matmul or not {"flash2", "flash3"} <= self.attention.keys():
            raise ValueError("matmul needs bf16, and attention flash2 and flash3")
        return self


class Gpu(Section):
    """One GPU in the machine it usually stands in."""

    name: str
    called: list[str] = []
    """What its driver calls it, letter by letter; a run on it is measured against these peaks."""
    architecture: str
    """Which set of `shares.yaml` applies; any name where `shares` is given here."""
    memory_bytes: int = Field(gt=0)
    memory_bytes_per_second: float = Field(gt=0)
    peak_flops: dict[Precision, float]
    """Dense FLOP/s by number type; what is missing cannot be computed in."""
    gpus_per_node: int = Field(gt=0)
    """GPUs that reach each other over `node_bytes_per_second`."""
    node_bytes_per_second: float = Field(gt=0)
    """One direction, one GPU, to all others of the node together."""
    network_bytes_per_second: float = Field(gt=0)
    """One direction, one GPU's network card."""
    watts: float = Field(gt=0)
    """Power limit of the board."""
    clock_share: float = Field(1.0, gt=0, le=1)
    """What a power limit below the data sheet's leaves of the peaks."""
    shares: Shares | None = None
    """Given: in place of the architecture's."""
    sources: dict[str, str]
    """Where each number above was published."""

    @model_validator(mode="after")
    def _has_bf16(self) -> Self:
        if "bf16" not in self.peak_flops:
            raise ValueError("peak_flops needs bf16: attention and the output layer run in it")
        return self

    @property
    def reached(self) -> Shares:
        """The shares that apply to this GPU."""
        if self.shares is not None:
            return self.shares
        known = load_shares()
        if self.architecture not in known:
            raise UserError(
                f"no shares are known for architecture {self.architecture!r} of {self.name}; "
                f"known: {', '.join(known)}; or give the GPU's file a section `shares`"
            )
        return known[self.architecture]


@cache
def load_shares() -> dict[str, Shares]:
    """Architecture -> shares, from `shares.yaml`."""
    path = files("megatron_math.estimate") / "shares.yaml"
    raw = load_yaml(path.read_text(encoding="utf-8"), "shares.yaml")
    return {name: parse_section(Shares, value, f"shares.{name}") for name, value in raw.items()}


def load_gpu(name_or_path: str) -> Gpu:
    """A known GPU by name, or any by the path of its YAML file. UserError when it is neither."""
    if name_or_path in GPUS:
        text = (GPU_FILES / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    elif Path(name_or_path).is_file():
        text = Path(name_or_path).read_text(encoding="utf-8")
    else:
        raise UserError(
            f"no GPU {name_or_path!r}: give one of {', '.join(GPUS)}, or the path of a YAML file "
            "with the same keys as those"
        )
    return parse_section(Gpu, load_yaml(text, name_or_path), name_or_path)
