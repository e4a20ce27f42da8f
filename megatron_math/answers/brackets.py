"""Brackets of an answer's grammar: tuples, intervals, sets, absolute values, matrices."""

from megatron_math.answers.cursor import Cursor
from megatron_math.answers.nodes import Node, call, parts_of, scalar


class BracketReader(Cursor):
    """Reads what begins with a bracket, a bar or \\begin."""

    def _group(self, opening: str) -> Node:
        bars, self._bars = self._bars, 0
        parts = parts_of(self._listing())
        self._bars = bars
        closing = self._next()
        if closing.kind != "sign" or closing.text not in (")", "]"):
            self._refuse("an open bracket")
        if len(parts) == 1 and (opening + closing.text == "()" or parts[0].kind == "matrix"):
            return parts[0]
        return Node("group", parts, opening + closing.text)

    def _braces(self) -> Node:
        """{...} of LaTeX around one thing is nothing, around several it is a set."""
        if self._take("}"):
            return Node("set")
        node = self._listing()
        self._want("}")
        return Node("set", node.parts) if node.kind == "list" else node

    def _set(self, closing: str) -> Node:
        if self._look().kind == closing:
            self._at += 1
            return Node("set")
        parts = parts_of(self._listing())
        if self._next().kind != closing:
            self._refuse("an open set")
        return Node("set", parts)

    def _absolute(self) -> Node:
        self._bars += 1
        inside = scalar(self._sum())
        self._bars -= 1
        if not (self._take("|") or self._take("rvert", "vert", kind="command")):
            self._refuse("an open absolute value")
        return call("abs", inside)

    def _matrix(self) -> Node:
        kind = self._environment()
        if kind == "array" and self._is("{"):
            self._raw_subscript()  # the columns' alignment
        if kind == "cases":
            return self._cases()
        if kind not in ("pmatrix", "bmatrix", "matrix", "array", "smallmatrix"):
            self._refuse(f"the environment {kind}")
        rows: list[Node] = []
        cells: list[Node] = []
        while not self._is("end", kind="command"):
            cells.append(self._relation())
            if self._take("&"):
                continue
            rows.append(Node("group", tuple(cells), "()"))
            cells = []
            if self._look().kind != "row":
                break
            while self._look().kind == "row":
                self._at += 1
        if not self._take("end", kind="command") or self._environment() != kind:
            self._refuse("an open matrix")
        if len({len(row.parts) for row in rows}) != 1:
            self._refuse("rows of unequal length")
        return Node("matrix", tuple(rows))

    def _cases(self) -> Node:
        """Equations one below the other: x = 1, y = 2."""
        parts = [self._relation()]
        while self._look().kind == "row" or self._is(","):
            while self._look().kind == "row" or self._is(","):
                self._at += 1
            if not self._is("end", kind="command"):
                parts.append(self._relation())
        if not self._take("end", kind="command") or self._environment() != "cases":
            self._refuse("an open list of cases")
        return Node("list", tuple(parts), "and")

    def _environment(self) -> str:
        self._want("{")
        word = self._next()
        self._want("}")
        return word.text
