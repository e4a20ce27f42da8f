"""The steps that rewrite an answer before it is compared, each by its name in `rules.STEPS`.

They take time linear in the text, change no meaning, and are applied in the order of that table.
"""

import functools
import re
from collections.abc import Callable

from megatron_math.answers.numerals import chinese_to_digits, english_to_digits
from megatron_math.answers.rules import ALL_STEPS, STEPS

_SIGNS = str.maketrans(
    {
        "−": "-", "–": "-", "﹣": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
        "∙": r"\cdot ", "÷": "/", "⁄": "/", "∕": "/", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ",
        "⩾": r"\ge ", "≠": r"\ne ", "∞": r"\infty ", "π": r"\pi ", "√": r"\sqrt ", "∪": r"\cup ",
        "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ", "∅": r"\emptyset ",
        "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ",
        "º": "°", "。": ".", "、": ",", "“": '"', "”": '"', "’": "'", "℃": "°C", "⟨": r"\langle ",
        "⟩": r"\rangle ", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "￥": "¥",
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
    }
)  # fmt: skip
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n", strict=True))
_RAISED_RUN = re.compile(f"[{''.join(_RAISED)}]+")
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_LOWERED_RUN = re.compile(f"[{''.join(_LOWERED)}]+")
_WRAPPERS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|mathrm|mathbf|mathit|mathsf|mbox|operatorname|emph|rm"
    r"|bf|vec|hat|mathbb|mathcal)\s*\{([^{}]*)\}"
)
_CIRCLED = re.compile(r"\\textcircled\s*\{?\s*(\d)\s*\}?")
_SPACING = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|limits|quad|qquad|big|Big|bigg|Bigg|bigl|bigr|Bigl"
    r"|Bigr|biggl|biggr|hspace\{[^{}]*\})(?![A-Za-z])|(?<!\\)\\[!,;: ]|~"
)
_DOLLARS = re.compile(r"(?<![\\$])\$(?=[^\s$])([^$]*[^\s$])\$(?!\d)")
_ABOUT = re.compile(
    r"^(?:\\approx|≈|approximately|approx\.|about|roughly|exactly|equals?(?: to)?)\s+",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"^([A-Za-z](?:_?\w|_\{\w+\})?)\s*=\s*(?=[^=]+$)")


def _unicode(text: str) -> str:
    if text.isascii():
        return text
    text = _RAISED_RUN.sub(lambda run: "^{" + "".join(_RAISED[c] for c in run[0]) + "}", text)
    text = _LOWERED_RUN.sub(lambda run: "_{" + "".join(_LOWERED[c] for c in run[0]) + "}", text)
    return text.translate(_SIGNS)


def _wrappers(text: str) -> str:
    if "\\" not in text:
        return text
    text = _CIRCLED.sub(
        lambda match: chr(0x2460 + int(match[1]) - 1) if match[1] > "0" else "⓪", text
    )
    text = text.replace(r"\mathbb{R}", r"\reals ").replace(r"\mathbb R", r"\reals ")
    for _ in range(2):  # \boxed{\text{...}}
        text = _WRAPPERS.sub(r" \1 ", text)
    if text.startswith(r"\boxed{") and text.endswith("}"):
        text = text[len(r"\boxed{") : -1]
    text = re.sub(r"\\overline\s*\{\s*([A-Z]{2,})\s*\}", r"\1", text)  # the segment AB
    return re.sub(r"(?<=[A-Za-z])\s+(?=\^)", "", text)  # \text{ cm }^2


def _money(text: str) -> str:
    text = text.replace("\\$", "$")
    return re.sub(r"^(?:Rs\.?|₹)\s*(?=\d)", "", text)


def _percent(text: str) -> str:
    return text.replace("\\%", "%")


def _fractions(text: str) -> str:
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text) if "frac" in text else text
    return re.sub(r"\\[dt]binom(?![A-Za-z])", r"\\binom", text) if "binom" in text else text


def _degree(text: str) -> str:
    if "\\" not in text:
        return text
    return re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree(?![A-Za-z])", "°", text)


def _thousands(text: str) -> str:
    if re.fullmatch(r"\s*[-+]?\d{1,3}(?: \d{3})+\s*", text):
        return text.replace(" ", "")
    return re.sub(r"(?<=\d)(?:\{,\}|,\\!\s*|\\,)(?=\d{3})", ",", text) if "," in text else text


def _spacing(text: str) -> str:
    return _SPACING.sub(" ", text) if "\\" in text or "~" in text else text


def _math_signs(text: str) -> str:
    if "\\" in text:
        text = re.sub(r"(?<!\\)\\[()\[\]](?!\w*\s*pt)", " ", text)
    text = text.strip()
    if "$" in text:
        text = _DOLLARS.sub(r"\1", text.replace("$$", "$")).strip()
        while len(text) > 1 and text[0] == text[-1] == "$":
            text = text[1:-1].strip()
    return text


def _final_stop(text: str) -> str:
    return text.strip().removesuffix(".").strip()


def _prefix(text: str) -> str:
    return _PREFIX.sub("", _ABOUT.sub("", text))


def _times_ten(text: str) -> str:
    return re.sub(r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))", r"\\times ", text)


def _number_words(text: str) -> str:
    text = re.sub(r"^(\d+)\s*\^?\{?\s*(?:st|nd|rd|th)(?![A-Za-z])\s*\}?", r"\1", text)
    if text[:1].isalpha() and text.isascii():
        text = english_to_digits(text)
    if match := re.fullmatch(r"(\d+) (?:out of|in) (\w+)", text):
        bottom = english_to_digits(match[2])
        return f"{match[1]}/{bottom}" if bottom.isdecimal() else text
    return text


def _chinese_numerals(text: str) -> str:
    return text if text.isascii() else chinese_to_digits(text)


_FUNCTIONS: dict[str, Callable[[str], str]] = {
    "unicode": _unicode, "wrappers": _wrappers, "money": _money, "percent": _percent,
    "fractions": _fractions, "degree": _degree, "thousands": _thousands, "spacing": _spacing,
    "math signs": _math_signs, "final stop": _final_stop, "prefix": _prefix,
    "powers of ten": _times_ten, "number words": _number_words,
    "chinese numerals": _chinese_numerals,
}  # fmt: skip


@functools.lru_cache(maxsize=4096)
def tidy(text: str, steps: frozenset[str] = ALL_STEPS) -> str:
    """`text` after the named steps; runs of white space are one space."""
    for name in STEPS:
        if name in steps:
            text = _FUNCTIONS[name](text)
    return " ".join(text.split())


def name_of(text: str, steps: frozenset[str] = ALL_STEPS) -> str:
    """The letter that `text` gives a value to: x in "x = 5", "" without one."""
    match = _PREFIX.match(tidy(text, steps - {"prefix"}))
    return match[1] if match else ""
