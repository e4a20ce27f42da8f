"""The template engine's families, one module a subject."""

from megatron_math.synthesize.families import (
    arithmetic,
    equations,
    fractions,
    geometry,
    probability,
    sequences,
    stories,
)
from megatron_math.synthesize.problem import Family

FAMILIES: tuple[Family, ...] = (
    *stories.FAMILIES,
    *arithmetic.FAMILIES,
    *fractions.FAMILIES,
    *equations.FAMILIES,
    *sequences.FAMILIES,
    *geometry.FAMILIES,
    *probability.FAMILIES,
)
