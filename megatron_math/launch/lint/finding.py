"""What a rule of the linter answers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from megatron_math.launch.lint.sbatch_file import SbatchFile


@dataclass(frozen=True)
class Finding:
    """A place in a file, why it is wrong and what to do."""

    line: int
    found: str
    why: str
    advice: str
    is_mistake: bool = True
    """False: a hint, which some clusters need and others do not."""
    rule: str = ""
    path: str = ""

    def __str__(self) -> str:
        kind = "" if self.is_mistake else " (hint)"
        return (
            f"{self.path}:{self.line}: {self.rule}{kind}: {self.found}: {self.why}; {self.advice}"
        )


Rule = Callable[[SbatchFile], Iterator[Finding]]
