"""Which verdicts make a record of a candidate: a rule in the configuration."""

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from pydantic import model_validator

from megatron_math.base.config import Section

VerdictName = Literal[
    "parsed", "self_check", "different", "deletes_back", "judgement",
    "reference", "symbolic", "substitution", "agreement", "teacher", "runs", "output",
]  # fmt: skip
NAMES: tuple[VerdictName, ...] = get_args(VerdictName)
# Verdicts on the truth of a candidate.
ON_TRUTH: tuple[VerdictName, ...] = (
    "self_check", "judgement", "reference", "symbolic", "substitution", "agreement", "teacher",
)  # fmt: skip


class AcceptRule(Section):
    """all: none of these is false. any: at least one is true. none: none of these is true.

    A verdict that does not apply (null) is neither true nor false.
    """

    all: list[VerdictName] = []
    any: list[VerdictName] = []
    none: list[VerdictName] = []

    @model_validator(mode="after")
    def _can_hold(self) -> "AcceptRule":
        if contrary := sorted(set(self.any + self.all) & set(self.none)):
            raise ValueError(f"{', '.join(contrary)} is asked to be true and not to be")
        return self

    def against(self, verdicts: Mapping[str, bool | None]) -> list[str]:
        """The verdicts for which a candidate is refused; none: it is accepted."""
        found = [str(name) for name in self.all if verdicts.get(name) is False]
        found += [f"not {name}" for name in self.none if verdicts.get(name) is True]
        if self.any and not any(verdicts.get(name) is True for name in self.any):
            found.append(f"none of {', '.join(self.any)}")
        return found

    def may_accept(self, verdicts: Mapping[str, bool | None], pending: Iterable[str]) -> bool:
        """Whether a candidate can still be accepted, with `pending` verdicts to come."""
        hoped = {name: name not in self.none for name in pending}
        return not self.against({**verdicts, **hoped})


def is_disputed(verdicts: Mapping[str, bool | None]) -> bool:
    """Whether two verdicts on the truth differ, or a teacher's judgement from a known answer."""
    found = {verdicts.get(name) for name in ON_TRUTH}
    return {True, False} <= found or verdicts.get("judgement") is False
