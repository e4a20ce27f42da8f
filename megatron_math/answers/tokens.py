"""The tokens of an answer's text, LaTeX or plain."""

import re
from dataclasses import dataclass

from megatron_math.answers.nodes import UnreadableError

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<repeating>\d*\.\d*(?:\\overline\s*\{\d+\}|\\dot\s*\{\d\}))
    | (?P<grouped>\d{1,3}(?:,\d{3})+(?![\d])(?:\.\d+)?)
    | (?P<number>\d+(?:\.\d*)?|\.\d+)
    | \\(?P<command>[A-Za-z]+)
    | (?P<row>\\\\)
    | \\(?P<escaped>[{}|])
    | (?P<word>[A-Za-z]+)
    | (?P<relation><=|>=|!=|==)
    | (?P<power>\*\*)
    | (?P<sign>[-+*/^_=<>()\[\]{},;|!&:°或和]|\\.)
    )""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str


END = Token("end", "")


def tokens(text: str) -> list[Token]:
    """The text's tokens; thousands separators count outside brackets only."""
    found: list[Token] = []
    place = depth = 0
    end = len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            raise UnreadableError(f"the sign {text[place : place + 10]!r}")
        kind, body = str(match.lastgroup), match[str(match.lastgroup)]
        place = match.end()
        if kind == "grouped":
            kind = "number"
            if depth:
                first = _NUMBER.match(body)
                assert first is not None
                place = match.start("grouped") + first.end()
                body = first[0]
        elif kind == "repeating":
            kind = "number"
        elif kind == "escaped":
            kind, body = {"{": ("open", ""), "}": ("close", ""), "|": ("sign", "|")}[body]
        elif kind == "power":
            kind, body = "sign", "^"
        elif body in ("或", "和"):
            kind = "word"
        elif body == "U" and found and found[-1].text in (")", "]"):
            kind = "joint"
        if kind == "open" or body in ("(", "["):
            depth += 1
        elif kind == "close" or body in (")", "]"):
            depth = max(0, depth - 1)
        found.append(Token(kind, body))
    return found
