"""Read a final answer, LaTeX or plain, as a tree of numbers, letters, operations and brackets.

A grammar of our own, strict on purpose: what it cannot read for certain raises UnreadableError and
is left to others. Time is linear in the text, depth is bounded, nothing is evaluated here.
"""

import re
from fractions import Fraction
from typing import NoReturn

from megatron_math.answers.nodes import REALS, Node, UnreadableError, call, constant, integer
from megatron_math.answers.tokens import END, Token, tokens

MAX_DEPTH = 40
FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
    "ln", "log", "lg", "exp", "sqrt", "abs",
}  # fmt: skip
_CONSTANTS = {
    "pi": "pi", "e": "e", "i": "i", "infty": "infinity", "infinity": "infinity", "inf": "infinity",
    "oo": "infinity", "imath": "i",
}  # fmt: skip
_GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "theta", "lambda", "mu", "nu", "xi",
    "rho", "sigma", "tau", "phi", "varphi", "chi", "psi", "omega", "eta", "kappa", "zeta", "Delta",
    "Omega", "Gamma", "Lambda", "Sigma", "Phi", "Psi", "Theta", "ell",
}  # fmt: skip
_RUN_TOGETHER = re.compile(
    r"([b-df-hj-z]?)(arc(?:sin|cos|tan)|sinh?|cosh?|tanh?|cot|sec|csc|ln|log)([A-Za-z]?)"
)
_RELATIONS = {
    "=": "=", "<": "<", ">": ">", "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=",
    "geq": ">=", "geqslant": ">=", "ne": "!=", "neq": "!=", "in": "in", "lt": "<", "gt": ">",
}  # fmt: skip
_TIMES, _OVER = ("*", "times", "cdot", "ast"), ("/", "div")
_JOINTS = ("and", "or", "或", "和")


def read_expression(text: str) -> Node:
    """The tree of `text`, which is tidied (answers/steps.py). Raises UnreadableError."""
    return _Reader(text).whole()


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens = tokens(text)
        self._at = 0
        self._depth = 0
        self._bars = 0

    def whole(self) -> Node:
        node = self._listing()
        if self._look() is not END:
            self._refuse("ends too late")
        return node

    # Looking ahead.

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
            or token.text in _CONSTANTS
            or token.text in _GREEK
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

    # Letters and functions.

    def _word(self, word: str) -> Node:
        if word in FUNCTIONS:
            return self._function(word)
        if word in _CONSTANTS and (len(word) > 1 or not self._is("_")):
            return constant(_CONSTANTS[word])
        if word.lower() in _GREEK:
            return self._subscripted(word)
        if match := _RUN_TOGETHER.fullmatch(word):  # xsinx
            before, name, behind = match.groups()
            pieces = [Token("word", letter) for letter in before]
            pieces += [Token("command", name), *(Token("word", letter) for letter in behind)]
            self._tokens[self._at - 1 : self._at] = pieces
            self._at -= 1
            return self._primary()
        if len(word) > 3 or (len(word) > 1 and (word.isupper() or not word.islower())):
            self._refuse(f"the word {word}")
        if len(word) == 1:
            return self._subscripted(word)
        letters = [Token("word", letter) for letter in word]
        self._tokens[self._at - 1 : self._at] = letters  # xy is x y
        return self._word(letters[0].text)

    def _subscripted(self, name: str) -> Node:
        if self._take("_"):
            name += "_" + self._raw_subscript()
        return Node("symbol", name=name)

    def _function(self, name: str) -> Node:
        base: Node | None = None
        power: Node | None = None
        while self._is("_", "^") or (name == "sqrt" and self._is("[")):
            if self._take("["):
                base = scalar(self._listing())
                self._want("]")
            elif self._take("_"):
                base = self._brace_or_token()
            else:
                self._at += 1
                power = scalar(self._exponent())
        argument = self._argument(name)
        if name == "sqrt":
            half = call("divide", integer(1), integer(2))
            root = call("root", argument, base) if base else call("power", argument, half)
            return call("power", root, power) if power else root
        if name == "lg":
            name, base = "log", integer(10)
        if name == "log" and base is not None:
            result = call("divide", call("ln", argument), call("ln", base))
        elif base is not None:
            self._refuse(f"a subscript of {name}")
        else:
            minus_one = power is not None and power.name == "negative" and power.parts[0].value == 1
            if minus_one and name in ("sin", "cos", "tan"):
                return call("arc" + name, argument)
            result = call("ln" if name == "log" else name, argument)
        return call("power", result, power) if power else result

    def _argument(self, name: str) -> Node:
        if self._is("(", "{", "["):
            return scalar(self._primary())
        if name == "sqrt":
            return scalar(self._primary())
        argument = self._signed_factor()
        while self._begins_factor() and self._look().text not in FUNCTIONS and not self._is("("):
            argument = call("multiply", scalar(argument), scalar(self._factor()))
        return scalar(argument)

    def _command(self, name: str) -> Node:
        if name in FUNCTIONS:
            return self._function(name)
        if name in _CONSTANTS:
            return constant(_CONSTANTS[name])
        if name in _GREEK:
            return self._subscripted(name)
        if name in ("frac", "binom"):
            top = self._brace_or_token()
            bottom = self._brace_or_token()
            return call("divide" if name == "frac" else "binomial", top, bottom)
        if name in ("lfloor", "lceil"):
            inside = scalar(self._sum())
            closing = "rfloor" if name == "lfloor" else "rceil"
            if not self._take(closing, kind="command"):
                self._refuse(f"no {closing}")
            return call("floor" if name == "lfloor" else "ceiling", inside)
        if name in ("lvert", "vert"):
            return self._absolute()
        if name == "langle":
            parts = _parts(self._listing())
            if not self._take("rangle", kind="command"):
                self._refuse("no rangle")
            return Node("group", parts, "()")
        if name in ("emptyset", "varnothing"):
            return Node("set")
        if name == "reals":
            return REALS
        if name == "begin":
            return self._matrix()
        return self._refuse(f"the command {name}")

    def _brace_or_token(self) -> Node:
        """{...}, or as LaTeX does, the one sign that follows: \\frac12 is a half."""
        if self._take("{"):
            node = self._listing()
            self._want("}")
            return scalar(node)
        token = self._look()
        if token.kind == "number" and len(token.text) > 1 and token.text.isdigit():
            self._tokens[self._at] = Token("number", token.text[1:])
            return integer(int(token.text[0]))
        return scalar(self._primary())

    # Brackets.

    def _group(self, opening: str) -> Node:
        bars, self._bars = self._bars, 0
        parts = _parts(self._listing())
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
        parts = _parts(self._listing())
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


def scalar(node: Node) -> Node:
    """`node` where arithmetic wants one value; square brackets around one value are brackets."""
    if node.kind == "group" and len(node.parts) == 1 and node.name == "[]":
        return scalar(node.parts[0])
    if node.kind in ("number", "symbol", "constant", "call"):
        return node
    raise UnreadableError(f"arithmetic with a {node.kind}")


def _parts(node: Node) -> tuple[Node, ...]:
    return node.parts if node.kind == "list" else (node,)


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
