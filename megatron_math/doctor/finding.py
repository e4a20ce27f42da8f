"""What a probe answers."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """status: `note` is slower or narrower than it could be; `problem` stops training here."""

    name: str
    status: Literal["ok", "note", "problem"]
    found: str
    advice: str = ""
    """What to do; empty for ok."""

    def __post_init__(self) -> None:
        assert (self.status == "ok") != bool(self.advice), self
