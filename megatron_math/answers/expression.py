"""Read a final answer, LaTeX or plain, as a tree of numbers, letters, operations and brackets.

A grammar of our own, strict on purpose: what it cannot read for certain raises UnreadableError and
is left to others. Time is linear in the text, depth is bounded, nothing is evaluated here.
"""

import re
from fractions import Fraction

from megatron_math.answers.brackets import BracketReader
from megatron_math.answers.letters import CONSTANTS, FUNCTIONS, GREEK, LetterReader
from megatron_math.answers.nodes import Node, UnreadableError, call, scalar
from megatron_math.answers.tokens import END

MAX_DEPTH = 40
_RELATIONS = {
    "=": "=", "<": "<", ">": ">", "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=",
    "geq": ">=", "geqslant": ">=", "ne": "!=", "neq": "!=", "in": "in", "lt": "<", "gt": ">",
}  # fmt: skip
_TIMES, _OVER = ("*", "times", "cdot", "ast"), ("/", "div")
_JOINTS = ("and", "or", "或", "和")


def read_expression(text: str) -> Node:
    """The tree of `text`, which is tidied (answers/steps.py). Raises UnreadableError."""
    return _Reader(text).whole()


class _Reader(LetterReader, BracketReader):
    def whole(self) -> Node:
        node = self._listing()
        if self._look() is not END:
            self._refuse("ends too late")
        return node

    # Lists, relations, unions.

    def _listing(self) -> Node:
        """Parts between commas, semicolons, "and", "or"."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse("too deep")
        parts, joints = [self._relation()], set()
        while True:
            first = self._at
            self._take(",", ";")
            self._take(*_JOINTS, kind="word")
            if self._at == first:
                break
            joints |= {token.text for token in self._tokens[first : self._at]}
            parts.append(self._relation())
        self._depth -= 1
        name = ";" if ";" in joints else "and" if "and" in joints else ","
        return parts[0] if len(parts) == 1 else Node("list", tuple(parts), name)

    def _relation(self) -> Node:
        sides, names = [self._union()], []
        while (name := self._relation_sign()) is not None:
            names.append(name)
            sides.append(self._union())
        return Node("relation", tuple(sides), " ".join(names)) if names else sides[0]

    def _relation_sign(self) -> str | None:
        token = self._look()
        if token.kind == "relation":
            name: str | None = "=" if token.text == "==" else token.text
        elif token.kind in ("sign", "command") or token.text == "in":
            name = _RELATIONS.get(token.text)
        else:
            name = None
        self._at += name is not None
        return name

    def _union(self) -> Node:
        parts = [self._ratio()]
        while self._take("cup", kind="command") or self._take("U", kind="joint"):
            parts.append(self._ratio())
        return Node("union", tuple(parts)) if len(parts) > 1 else parts[0]

    def _ratio(self) -> Node:
        """3:4 is three quarters; 2:3:4 is the tuple of its parts over the first."""
        parts = [self._sum()]
        while self._take(":"):
            parts.append(self._sum())
        if len(parts) == 1:
            return parts[0]
        first = scalar(parts[0])
        if len(parts) == 2:
            return call("divide", first, scalar(parts[1]))
        return Node("group", tuple(call("divide", scalar(p), first) for p in parts), "::")

    # Arithmetic.

    def _sum(self) -> Node:
        if self._is("-", "+") or self._is("pm", "mp", kind="command"):
            total: Node | None = None
        else:
            total = self._product()
        while True:
            token = self._look()
            if not (self._take("+", "-") or self._take("pm", "mp", kind="command")):
                assert total is not None
                return total
            part = scalar(self._product())
            names = {"+": "", "-": "negative", "pm": "pm", "mp": "mp"}
            signed = call(names[token.text], part) if names[token.text] else part
            total = signed if total is None else call("add", scalar(total), signed)

    def _product(self) -> Node:
        total = self._factor()
        while True:
            if self._take("*") or self._take(*_TIMES, kind="command"):
                total = call("multiply", scalar(total), scalar(self._signed_factor()))
            elif self._take("/") or self._take(*_OVER, kind="command"):
                total = call("divide", scalar(total), scalar(self._signed_factor()))
            elif self._begins_factor():
                if self._look().kind == "number" and total.kind == "number":
                    total = self._mixed(total)
                else:
                    total = call("multiply", scalar(total), scalar(self._factor()))
            elif total.kind == "number" and self._is("frac", kind="command"):
                total = self._mixed(total)
            else:
                return total

    def _signed_factor(self) -> Node:
        if self._take("-"):
            return call("negative", scalar(self._factor()))
        self._take("+")
        return self._factor()

    def _mixed(self, whole: Node) -> Node:
        """The fraction behind a whole number: 1 1/2, 1\\frac{1}{2}; 2\\frac{3}{2} is a product."""
        if self._is("frac", kind="command"):
            part = self._factor()
            top, bottom = part.parts if part.name == "divide" else (part, part)
            proper = _is_whole(whole) and _is_whole(top) and _is_whole(bottom)
            if proper and 0 < top.value < bottom.value:
                return call("add", whole, part)
            return call("multiply", whole, part)
        top = self._factor()
        if not (self._take("/") and self._look().kind == "number"):
            self._refuse("two numbers side by side")
        bottom = self._factor()
        if not (_is_whole(whole) and _is_whole(top) and _is_whole(bottom)):
            self._refuse("no mixed number")
        if not 0 < top.value < bottom.value:
            self._refuse("no proper fraction")
        return call("add", whole, call("divide", top, bottom))

    def _begins_factor(self) -> bool:
        token = self._look()
        if token.kind in ("number", "open"):
            return True
        if token.kind == "word":
            return token.text not in _JOINTS and token.text != "in"
        if token.kind == "sign":
            return token.text in ("(", "{", "[") or (token.text == "|" and self._bars == 0)
        return token.kind == "command" and (
            token.text in FUNCTIONS
            or token.text in CONSTANTS
            or token.text in GREEK
            or token.text in ("sqrt", "binom", "lfloor", "lceil", "langle", "begin")
            or (token.text == "frac" and not self._after_number())
        )

    def _after_number(self) -> bool:
        return self._at > 0 and self._tokens[self._at - 1].kind == "number"

    def _factor(self) -> Node:
        """A primary with what stands behind it: powers, factorials, degrees."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse("too deep")
        node = self._primary()
        while True:
            if self._take("!"):
                node = call("factorial", scalar(node))
            elif self._take("°"):
                node = call("degrees", scalar(node))
            elif self._take("^"):
                node = call("power", scalar(node), scalar(self._exponent()))
            else:
                break
        self._depth -= 1
        return node

    def _exponent(self) -> Node:
        if self._take("{"):
            node = self._listing()
            self._want("}")
            return node
        if self._take("-"):
            return call("negative", scalar(self._factor()))
        return self._factor()

    def _primary(self) -> Node:
        token = self._next()
        if token.kind == "number":
            return self._number(token.text)
        if token.kind == "word":
            return self._word(token.text)
        if token.kind == "command":
            return self._command(token.text)
        if token.kind == "open":
            return self._set("close")
        if token.text in ("(", "["):
            return self._group(token.text)
        if token.text == "{":
            return self._braces()
        if token.text == "|":
            return self._absolute()
        return self._refuse(f"{token.text!r} begins nothing")

    def _number(self, text: str) -> Node:
        if "\\" in text:
            return _repeating(text)
        plain = text.replace(",", "")
        if len(plain) > 400:
            self._refuse("a number of too many digits")
        if self._is("_"):  # 204_5
            self._at += 1
            base = self._raw_subscript()
            if base.isdigit() and plain.isdigit():
                return call("base", Node("symbol", name=plain), Node("symbol", name=base))
            self._refuse("no base")
        places = len(plain.partition(".")[2]) if "." in plain else -1
        value = Fraction(plain + "0" if plain.endswith(".") else plain)
        return Node("number", value=value, places=places)


def _is_whole(node: Node) -> bool:
    return node.kind == "number" and node.places < 0


def _repeating(text: str) -> Node:
    """0.1\\overline{6} as a fraction."""
    match = re.fullmatch(r"(\d*)\.(\d*)\\(?:overline|dot)\s*\{(\d+)\}", text)
    assert match is not None
    whole, fixed, again = match.groups()
    if len(text) > 200:
        raise UnreadableError("a number of too many digits")
    scale = 10 ** len(fixed)
    value = Fraction(int((whole or "0") + fixed), scale)
    return Node("number", value=value + Fraction(int(again), scale * (10 ** len(again) - 1)))
