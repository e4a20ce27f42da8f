"""The named rules by which answers are read and compared, and sets of them.

`steps` rewrite a text before anything is compared (answers/steps.py); `checks` say what makes two
answers equal. Each can be switched off by name: `OURS.without("rounding")`.
"""

from dataclasses import dataclass

# name -> what it does, in the order in which they are applied.
STEPS: dict[str, str] = {
    "unicode": "signs such as ×, ≤, √, π, ½, full width and Chinese punctuation become LaTeX",
    "wrappers": r"\text{...}, \mathrm{...}, \boxed{...} leave their content",
    "money": r"\$ and Rs become a sign of money",
    "percent": r"\% becomes %",
    "fractions": r"\dfrac and \tfrac become \frac",
    "degree": r"^\circ becomes °",
    "thousands": r"1{,}000 and 1\,000 become 1,000",
    "spacing": r"\left, \!, \quad and the like go",
    "math signs": r"$...$ and \(...\) leave their content",
    "final stop": "a full stop at the end goes",
    "prefix": "x = 5 and about 5 are 5; but x = 5 is not y = 5",
    "powers of ten": "3 x 10^8 is a product of numbers",
    "chinese numerals": "三分之二 is 2/3, 一百零五个 is 105 个, 3.5万 is 35000",
    "number words": "twenty-one is 21, two thirds is 2/3",
}
CHECKS: dict[str, str] = {
    "choice": "(B), B. and B) 30 are the choice B",
    "words": "a reference in words wants the same words, case aside",
    "number": "exact rational numbers: 0.50, 1/2 and \\frac12",
    "units": "known units are converted and must agree; off: units are left out",
    "percent value": "50% is 50, and 0.5",
    "list": "numbers in any order: 2 and 5; in the order given after a semicolon",
    "rounding": "a decimal with six places or more may stand for what it rounds",
    "elements": "tuples, intervals and sets by their elements; an inequality is its interval",
    "matrix": "matrices by their elements; a row or column is the tuple of its elements",
    "equation": "equations that differ by a constant factor are one",
    "algebra": "expressions that agree as functions; SymPy where values cannot tell",
    "math-verify": "what nothing above can read is left to math-verify",
    "tolerance": "numbers within a ten thousandth of each other are equal",
    "percent any": "a number is equal to a hundredth and to a hundred times of it",
    "loose brackets": "brackets around lists say nothing",
}
_LOOSE = ("tolerance", "percent any", "loose brackets")


@dataclass(frozen=True)
class Rules:
    """Which steps and checks are on."""

    steps: frozenset[str]
    checks: frozenset[str]

    def without(self, *names: str) -> "Rules":
        """The same with these steps and checks switched off."""
        unknown = [name for name in names if name not in STEPS and name not in CHECKS]
        if unknown:
            raise ValueError(f"there is no rule {unknown[0]!r}; known are {[*STEPS, *CHECKS]}")
        return Rules(self.steps - set(names), self.checks - set(names))

    def with_checks(self, *names: str) -> "Rules":
        """The same with these checks switched on."""
        assert set(names) <= set(CHECKS), names
        return Rules(self.steps, self.checks | set(names))


ALL_STEPS = frozenset(STEPS)
OURS = Rules(ALL_STEPS, frozenset(CHECKS) - set(_LOOSE))
# What JiuZhang3.0's evaluation accepts (papers.md 2.9): its known false positives included.
JIUZHANG3 = OURS.without("units", "rounding").with_checks(*_LOOSE)
PRESETS = {"ours": OURS, "jiuzhang3": JIUZHANG3}
