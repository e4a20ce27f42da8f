"""Draw problems family by family until there are enough; keep training and held-out ones apart.

Two rules, both fixed by the seed before the first problem is written: some operand pairs never
meet in training (`operands`), and about one text in twenty is reserved for held-out problems by a
hash of the text, so that a held-out text is new however many training problems are written. Every
problem has its own random stream: the first thousand of a million are the first thousand of a
thousand.
"""

import functools
import hashlib
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.records import Record
from megatron_math.synthesize.checks import find_fault
from megatron_math.synthesize.config import LEVELS, TemplateConfig
from megatron_math.synthesize.exact import numbers_in
from megatron_math.synthesize.operands import HeldOutPairs, choose_pairs, pairs_in, pairs_of
from megatron_math.synthesize.problem import Family, Problem

RESERVED_SHARE = 1 / 20
# About 1 draw in 10 is unusable for levels 1 and 2, 1 in 2 for level 3; a level that fails this
# often has no more texts to give.
MAX_DRAWS = 2000
# Held-out operands are looked for in one family this long, so that families with many of them do
# not crowd out the others; a family without any (a single number has no pair) gives way.
DRAWS_PER_FAMILY = 400


@functools.lru_cache(maxsize=16)  # one text is asked about several times in a row
def normal_form(text: str) -> str:
    """What two texts must share to count as the same: case, spacing and stops do not matter."""
    return " ".join(re.sub(r"[.,;:!?]", " ", text.casefold()).split())


def record_id(problem: str) -> str:
    """The same problem text has the same id in every run."""
    return f"template-{hashlib.sha256(normal_form(problem).encode()).hexdigest()[:16]}"


@dataclass
class Generator:
    """Writes both sets; `rejected` counts draws by reason, `drops` keeps what was thrown away."""

    config: TemplateConfig
    seed: int
    families: Sequence[Family]
    rejected: Counter[str] = field(default_factory=Counter)
    drops: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.held_out: HeldOutPairs = choose_pairs(
            self.families, self.seed, self.config.heldout_operands
        )
        self._seen: set[str] = set()
        self._by_level = {
            level: [family for family in self.families if family.level == level] for level in LEVELS
        }

    def training(self) -> Iterator[Record]:
        """The training problems. Raises UserError when the templates run out of new texts."""
        levels, weights = zip(*self.config.levels.items(), strict=True)
        for number in range(self.config.problems):
            rng = random.Random(f"{self.seed}/training/{number}")
            level = rng.choices(levels, weights)[0]
            for _ in range(MAX_DRAWS):
                family = self._pick(rng, level)
                problem = family.write(rng, family.draw(rng))
                if self._is_reserved(problem.text):
                    self.rejected["text reserved for held-out"] += 1
                elif any(
                    pair in self.held_out for pair in pairs_in(problem.text, problem.solution)
                ):
                    self.rejected["operands held out"] += 1
                elif self._is_usable(family, problem):
                    yield self._record(family, problem, {})
                    break
            else:
                raise UserError(self._exhausted(level, f"{number} training problems"))

    def heldout(self, training: Sequence[Record]) -> Iterator[Record]:
        """Per level: half with operands that never met in training, half with operands that did.

        A level without training problems gets the first kind only.
        """
        by_name = {family.name: family for family in self.families}
        for level in LEVELS:
            trained = [record for record in training if record.meta["level"] == level]
            num_seen = self.config.heldout // 2 if trained else 0
            for number in range(self.config.heldout):
                seen = number < num_seen
                rng = random.Random(f"{self.seed}/heldout/{level}/{number}")
                family = self._pick(rng, level)
                for draw in range(1, MAX_DRAWS + 1):
                    if seen:
                        known = rng.choice(trained)
                        family = by_name[known.meta["family"]]
                        problem = family.write(rng, tuple(known.meta["operands"]))
                        fits = self._is_reserved(problem.text)
                    else:
                        if draw % DRAWS_PER_FAMILY == 0:
                            family = self._pick(rng, level)
                        problem = family.write(rng, family.draw(rng))
                        pairs = pairs_of(numbers_in(problem.text))
                        fits = any(pair in self.held_out for pair in pairs)
                    if fits and self._is_usable(family, problem):
                        yield self._record(family, problem, {"operands_seen": seen})
                        break
                else:
                    raise UserError(self._exhausted(level, f"{number} held-out problems"))

    def _pick(self, rng: random.Random, level: int) -> Family:
        families = self._by_level[level]
        return rng.choices(families, [family.weight for family in families])[0]

    def _is_reserved(self, text: str) -> bool:
        key = f"{self.seed}/{normal_form(text)}"
        return zlib.crc32(key.encode()) / 2**32 < RESERVED_SHARE

    def _is_usable(self, family: Family, problem: Problem) -> bool:
        """New and free of faults; otherwise it goes to the drops with its reason."""
        key = normal_form(problem.text)
        reason = "duplicate text" if key in self._seen else find_fault(problem)
        if reason is None:
            self._seen.add(key)
            return True
        self.rejected[reason.split(":")[0]] += 1
        row = self._record(family, problem, {}).to_json()
        self.drops.append(row | {"reason": reason})
        return False

    def _record(self, family: Family, problem: Problem, more: dict[str, Any]) -> Record:
        meta = {
            "method": "template",
            "family": family.name,
            "level": family.level,
            "operands": list(problem.operands),
            "verdicts": [problem.claim.name, "statements"],
        }
        return Record(
            id=record_id(problem.text),
            source="template",
            problem=problem.text,
            solution=problem.solution,
            answer=problem.answer,
            meta=meta | more,
        )

    def _exhausted(self, level: int, found: str) -> str:
        counts = ", ".join(f"{reason} {count}" for reason, count in self.rejected.most_common())
        return (
            f"synthesize: the templates of level {level} have no more new texts after {found} "
            f"({MAX_DRAWS} draws in a row were unusable; so far {counts}); ask for fewer problems "
            f"or give the level a smaller weight"
        )


def measure(records: Sequence[Record]) -> dict[str, Any]:
    """Counts by level and family, and mean length in words (split at spaces)."""
    by_level: Counter[str] = Counter(str(record.meta["level"]) for record in records)
    by_family: Counter[str] = Counter(record.meta["family"] for record in records)
    words = sum(len(record.render().split()) for record in records)
    return {
        "problems": len(records),
        "mean_words": round(words / max(1, len(records)), 2),
        "by_level": dict(sorted(by_level.items())),
        "by_family": dict(sorted(by_family.items())),
    }
