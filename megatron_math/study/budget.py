"""What every arm comes to in tokens, from its configuration and the sidecars of its indexes alone.

No token is read and no index opened: sidecars of 50 GB corpora are a few kilobytes.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.base.road import Road
from megatron_math.blend.config import BlendConfig, BlendStage, Leaf, resolve
from megatron_math.blend.shares import Targets, share_targets
from megatron_math.study.config import AvailableConfig, BudgetConfig, StudyConfig

HELD_OUT_DIFFERENCE = 0.02
"""Documents are held out whole, so an epoch is known from a sidecar to this share only."""


@dataclass(frozen=True)
class SourceTokens:
    """A source in a stage of an arm; None: its index has no sidecar yet."""

    stage: str
    name: str
    groups: tuple[str, ...]
    prefix: Path
    used: int | None
    available: int | None
    documents: int | None

    @property
    def epochs(self) -> float | None:
        return self.used / self.available if self.used is not None and self.available else None


@dataclass(frozen=True)
class ArmTokens:
    """What an arm's own training comes to; tokens is None until an index that decides it is there.

    about: the share by which `tokens` may be off.
    """

    arm: str
    budget: str
    sequence_length: int
    tokens: int | None
    about: float
    sources: list[SourceTokens]

    def to_json(self) -> dict[str, Any]:
        return {
            "arm": self.arm,
            "budget": self.budget,
            "sequence_length": self.sequence_length,
            "tokens": self.tokens,
            "is_exact": self.about == 0,
            "sources": [
                {
                    "stage": s.stage,
                    "source": "/".join([*s.groups, s.name]),
                    "used": s.used,
                    "available": s.available,
                    "documents": s.documents,
                    "epochs": s.epochs,
                }
                for s in self.sources
            ],
        }


def arm_tokens(arm: str, road: Road, budget: str) -> ArmTokens:
    """Count an arm. UserError for a mix that cannot be read."""
    if not road.has("blend") or not road.has("train"):
        raise UserError(f"arm '{arm}' trains nothing: it has no section 'blend' or 'train'")
    config = road.section("blend", BlendConfig)
    sources: list[SourceTokens] = []
    before: dict[str, int] = {}
    tokens: int | None = 0
    about = 0.0
    for stage in resolve(config):
        found = _stage(road, stage, config.validation, before)
        sources += found
        if stage.tokens is not None:
            part: int | None = stage.tokens
        else:
            used = [source.used for source in found]
            part = None if None in used else sum(number or 0 for number in used)
            by_epochs = next(stage.mix.leaves()).kind == "epochs"
            about = max(about, HELD_OUT_DIFFERENCE if by_epochs and config.validation else 0.0)
        tokens = None if tokens is None or part is None else tokens + part
        for source in found:
            before[source.name] = before.get(source.name, 0) + (source.used or 0)
    length = max(stage.sequence_length for stage in resolve(config))
    return ArmTokens(arm, budget, length, tokens, about, sources)


def _stage(
    road: Road, stage: BlendStage, validation: float, before: Mapping[str, int]
) -> list[SourceTokens]:
    leaves = list(stage.mix.leaves())
    sidecars = [_sidecar(road, leaf) for leaf in leaves]
    epochs = [None if s is None else s["tokens"] * (1 - validation) for s in sidecars]
    used = _used(stage, leaves, epochs, before)
    return [
        SourceTokens(
            stage=stage.name,
            name=leaf.name,
            groups=leaf.groups,
            prefix=_prefix(road, leaf),
            used=number,
            available=None if sidecar is None else sidecar["tokens"],
            documents=None if sidecar is None else sidecar["documents"],
        )
        for leaf, sidecar, number in zip(leaves, sidecars, used, strict=True)
    ]


def _used(
    stage: BlendStage,
    leaves: list[Leaf],
    epochs: list[float | None],
    before: Mapping[str, int],
) -> list[int | None]:
    if stage.tokens is None:
        amounts = [
            float(leaf.amount) * (epoch if leaf.kind == "epochs" and epoch is not None else 1)
            for leaf, epoch in zip(leaves, epochs, strict=True)
        ]
        return [
            None if leaf.kind == "epochs" and epoch is None else math.ceil(amount - 1e-6)
            for leaf, epoch, amount in zip(leaves, epochs, amounts, strict=True)
        ]
    caps: list[int | None] = []
    for leaf, epoch in zip(leaves, epochs, strict=True):
        if leaf.max_epochs is None:
            caps.append(None)
        elif epoch is None:
            return [None] * len(leaves)
        else:
            caps.append(max(1, round(leaf.max_epochs * epoch) - before.get(leaf.name, 0)))
    return list(_at(share_targets(stage.mix, caps), stage.tokens))


def _at(targets: Targets, tokens: int) -> Iterable[int]:
    """Tokens of each source once the mix has given so many."""
    place = max(i for i, start in enumerate(targets.starts) if start <= tokens)
    shares, start = targets.bends[place].shares, targets.starts[place]
    for given, share in zip(targets.bases[place], shares, strict=True):
        yield round(given + share * Fraction(tokens - start))


def _prefix(road: Road, leaf: Leaf) -> Path:
    return Path(leaf.path or road.folder("30_index") / f"{leaf.index_source}_text_document")


def _sidecar(road: Road, leaf: Leaf) -> dict[str, Any] | None:
    prefix = _prefix(road, leaf)
    path = prefix.with_name(prefix.name + ".json")
    return read_json(path) if path.is_file() else None


def find_faults(arms: list[ArmTokens], config: StudyConfig) -> list[str]:
    """Why these arms cannot be compared; empty when they can, as far as it is known."""
    faults = []
    for arm in arms:
        name, budget = config.budget_of(arm.arm)
        if arm.tokens is not None:
            allowed = arm.sequence_length + arm.about * budget.tokens
            if abs(arm.tokens - budget.tokens) > allowed:
                faults.append(
                    f"arm '{arm.arm}' comes to {arm.tokens:,} tokens, the budget ({name}) is "
                    f"{budget.tokens:,}"
                )
        faults += _available_faults(arm, budget)
    return faults


def _available_faults(arm: ArmTokens, budget: BudgetConfig) -> list[str]:
    faults = []
    for name, asked in budget.available.items():
        inside = {s.prefix: s for s in arm.sources if name == s.name or name in s.groups}
        if not inside:
            faults.append(f"arm '{arm.arm}' has no source or group '{name}', which is to have data")
            continue
        fault = _off(asked, list(inside.values()), arm.sequence_length)
        if fault is not None:
            faults.append(f"arm '{arm.arm}' has {fault} of '{name}'")
    return faults


def _off(asked: AvailableConfig, sources: list[SourceTokens], sequence_length: int) -> str | None:
    if asked.tokens is not None:
        what, wanted = "tokens", asked.tokens
        counts = [source.available for source in sources]
        allowed = asked.tokens * asked.within if asked.within is not None else sequence_length
    else:
        assert asked.documents is not None, asked
        what, wanted = "documents", asked.documents
        counts = [source.documents for source in sources]
        allowed = asked.documents * (asked.within or 0)
    if None in counts:
        return None
    found = sum(number or 0 for number in counts)
    return None if abs(found - wanted) <= allowed else f"{found:,} {what} in place of {wanted:,}"


def render(arms: list[ArmTokens]) -> Table:
    """What every arm comes to, source by source."""
    table = Table(title="tokens by arm", title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("arm", no_wrap=True)
    table.add_column("source", no_wrap=True)
    for name in ("used", "there are", "documents", "epochs"):
        table.add_column(name, justify="right")
    for arm in arms:
        total = "not known yet" if arm.tokens is None else f"{arm.tokens:,}"
        about = "about " if arm.about else ""
        table.add_row(f"[bold]{arm.arm}[/bold]", arm.budget, f"[bold]{about}{total}[/bold]")
        for source in arm.sources:
            table.add_row(
                f"  {source.stage}",
                "/".join([*source.groups, source.name]),
                _number(source.used),
                "no sidecar" if source.available is None else f"{source.available:,}",
                _number(source.documents),
                "-" if source.epochs is None else f"{source.epochs:.2f}",
            )
    return table


def _number(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"
