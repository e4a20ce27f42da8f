"""What every engine offers: a list of prompts in, a list of generations out, in the same order."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Generation:
    """What followed one prompt.

    text: without special tokens, cut before the first stop string. finish: "stop" when the model
    ended the text itself or wrote a stop string, "length" when it ran out of tokens. num_tokens:
    tokens generated up to there, the end token not counted.
    """

    text: str
    finish: Finish
    num_tokens: int


class Engine(ABC):
    """Something that continues texts."""

    @abstractmethod
    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[Generation]:
        """Continue every prompt greedily by at most `max_new_tokens` tokens.

        Raises UserError when no prompt leaves the model any room.
        """


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """`text` up to the earliest stop string, and whether there was one."""
    ends = [end for end in (text.find(string) for string in stop) if end >= 0]
    return (text[: min(ends)], True) if ends else (text, False)
