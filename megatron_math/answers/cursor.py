"""A place in the tokens of an answer, and the parts of its grammar that call one another."""

from typing import NoReturn

from megatron_math.answers.nodes import Node, UnreadableError
from megatron_math.answers.tokens import END, Token, tokens


class Cursor:
    """Where a reader stands. Methods without a body here are those of `expression._Reader`."""

    def __init__(self, text: str) -> None:
        self._tokens = tokens(text)
        self._at = 0
        self._depth = 0
        self._bars = 0

    def _look(self, further: int = 0) -> Token:
        place = self._at + further
        return self._tokens[place] if place < len(self._tokens) else END

    def _next(self) -> Token:
        token = self._look()
        self._at += 1
        return token

    def _is(self, *texts: str, kind: str = "sign") -> bool:
        token = self._look()
        return token.kind == kind and token.text in texts

    def _take(self, *texts: str, kind: str = "sign") -> bool:
        if self._is(*texts, kind=kind):
            self._at += 1
            return True
        return False

    def _want(self, text: str) -> None:
        if not self._take(text):
            self._refuse(f"no {text}")

    def _refuse(self, why: str) -> NoReturn:
        raise UnreadableError(f"{why} at token {self._at}")

    def _raw_subscript(self) -> str:
        if not self._take("{"):
            return self._next().text
        text = ""
        while not self._is("}"):
            if self._look() is END:
                self._refuse("an open subscript")
            text += self._next().text
        self._at += 1
        return text

    def _listing(self) -> Node:
        raise NotImplementedError

    def _relation(self) -> Node:
        raise NotImplementedError

    def _sum(self) -> Node:
        raise NotImplementedError

    def _factor(self) -> Node:
        raise NotImplementedError

    def _signed_factor(self) -> Node:
        raise NotImplementedError

    def _exponent(self) -> Node:
        raise NotImplementedError

    def _primary(self) -> Node:
        raise NotImplementedError

    def _absolute(self) -> Node:
        raise NotImplementedError

    def _matrix(self) -> Node:
        raise NotImplementedError

    def _begins_factor(self) -> bool:
        raise NotImplementedError
