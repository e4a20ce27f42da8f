"""A command line of Megatron-LM, flag by flag."""

import shlex
from collections.abc import Callable, MutableMapping
from typing import Any

from megatron_math.base.errors import UserError

Settings = MutableMapping[str, Any]
"""Dotted name -> value, as in the road file."""


class Given:
    """The flags of a command line; what is taken is understood, what is left is not."""

    def __init__(self, text: str) -> None:
        self.flags: dict[str, list[str]] = {}
        words: list[str] = []
        try:
            parts = shlex.split(text.replace("\\\n", " "))
        except ValueError as error:
            raise UserError(f"--megatron-flags: {error}") from None
        for part in parts:
            if part.startswith("--"):
                name, equals, value = part[2:].replace("_", "-").partition("=")
                name, value = name, part[len(name) + 3 :] if equals else ""
                if name in self.flags:
                    raise UserError(f"--{name} is given twice; keep one")
                words = self.flags[name] = [value] if equals else []
            elif self.flags:
                words.append(part)
            else:
                raise UserError(f"--megatron-flags begins with '{part}'; flags begin with --")

    def has(self, flag: str) -> bool:
        return flag in self.flags

    def words(self, flag: str) -> list[str]:
        """Take a flag with any number of values; empty where it is left out."""
        return self.flags.pop(flag, [])

    def switch(self, flag: str) -> bool:
        words = self.flags.pop(flag, None)
        if words:
            raise UserError(f"--{flag} takes no value, found {' '.join(words)}")
        return words is not None

    def value(self, flag: str, kind: Callable[[str], Any] = str) -> Any:
        """Take a flag with one value; None where it is left out."""
        words = self.flags.pop(flag, None)
        if words is None:
            return None
        if len(words) != 1:
            raise UserError(f"--{flag} takes one value, found {' '.join(words) or 'none'}")
        try:
            return kind(words[0])
        except ValueError:
            raise UserError(f"--{flag} takes a number, found {words[0]}") from None
