"""The `synthesize` section of a road: `method` says which keys it has."""

import difflib
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from megatron_math.base.config import Section, parse_section
from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.synthesize.excerpt_config import ExcerptsConfig, SourceTextConfig
from megatron_math.synthesize.method_config import (
    AskedConfig,
    DiversificationConfig,
    ExpansionConfig,
    RejectionConfig,
    RetrospectiveConfig,
    SeededConfig,
    SeedsConfig,
    TutorshipConfig,
)

__all__ = [
    "AskedConfig", "SeededConfig", "SeedsConfig", "SourceTextConfig", "TemplateConfig",
    "read_section",
]  # fmt: skip
LEVELS = (1, 2, 3)


class TemplateConfig(Section):
    """How many problems, of which difficulty, and what is kept for measuring.

    Level 1 is one step with numbers to 20 (answers too); level 2 is two steps, larger numbers,
    fractions and linear equations; level 3 is quadratics, sequences, geometry, probability and
    three steps.
    """

    method: Literal["template"] = "template"
    problems: Annotated[int, Field(gt=0)] = 50_000
    """Training problems in all."""
    levels: dict[int, Annotated[float, Field(ge=0)]] = {1: 0.6, 2: 0.25, 3: 0.15}
    """Weights of the levels among the training problems; need not sum to one."""
    heldout: Annotated[int, Field(ge=0)] = 500
    """Held-out problems per level, half of them with operands that training never has together."""
    heldout_operands: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Share of operand pairs that training never has together."""

    @field_validator("levels")
    @classmethod
    def _known_levels(cls, levels: dict[int, float]) -> dict[int, float]:
        unknown = sorted(set(levels) - set(LEVELS))
        if unknown:
            raise ValueError(f"the levels are 1, 2 and 3, not {unknown}")
        if sum(levels.values()) <= 0:
            raise ValueError("at least one level needs a weight above 0")
        return dict(sorted(levels.items()))


METHODS: dict[str, type[TemplateConfig] | type[SeededConfig]] = {
    "template": TemplateConfig,
    "expansion": ExpansionConfig,
    "diversification": DiversificationConfig,
    "retrospective": RetrospectiveConfig,
    "tutorship": TutorshipConfig,
    "rejection": RejectionConfig,
    "excerpts": ExcerptsConfig,
}


def read_section(road: Road) -> TemplateConfig | SeededConfig:
    """The section `synthesize` of a road, by its method. Raises UserError, naming the key."""
    return parse_method(road.raw.get("synthesize"))


def parse_method(raw: Any) -> TemplateConfig | SeededConfig:
    """A parsed section `synthesize`; without a method it is the templates'."""
    name = raw.get("method", "template") if isinstance(raw, dict) else "template"
    if name not in METHODS:
        close = difflib.get_close_matches(str(name), METHODS, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'? known: " if close else "known: "
        raise UserError(f"synthesize.method: no method {name!r}; {hint}{', '.join(METHODS)}")
    model: type[Any] = METHODS[name]
    parsed: TemplateConfig | SeededConfig = parse_section(model, raw, "synthesize")
    return parsed
