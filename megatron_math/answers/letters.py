"""Letters, functions and LaTeX commands of an answer's grammar."""

import re

from megatron_math.answers.cursor import Cursor
from megatron_math.answers.nodes import REALS, Node, call, constant, integer, parts_of, scalar
from megatron_math.answers.tokens import Token

FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
    "ln", "log", "lg", "exp", "sqrt", "abs",
}  # fmt: skip
CONSTANTS = {
    "pi": "pi", "e": "e", "i": "i", "infty": "infinity", "infinity": "infinity", "inf": "infinity",
    "oo": "infinity", "imath": "i",
}  # fmt: skip
GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "theta", "lambda", "mu", "nu", "xi",
    "rho", "sigma", "tau", "phi", "varphi", "chi", "psi", "omega", "eta", "kappa", "zeta", "Delta",
    "Omega", "Gamma", "Lambda", "Sigma", "Phi", "Psi", "Theta", "ell",
}  # fmt: skip
_RUN_TOGETHER = re.compile(
    r"([b-df-hj-z]?)(arc(?:sin|cos|tan)|sinh?|cosh?|tanh?|cot|sec|csc|ln|log)([A-Za-z]?)"
)


class LetterReader(Cursor):
    """Reads what begins with a letter or a backslash."""

    def _word(self, word: str) -> Node:
        if word in FUNCTIONS:
            return self._function(word)
        if word in CONSTANTS and (len(word) > 1 or not self._is("_")):
            return constant(CONSTANTS[word])
        if word.lower() in GREEK:
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
        if name in CONSTANTS:
            return constant(CONSTANTS[name])
        if name in GREEK:
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
            parts = parts_of(self._listing())
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
