"""From outcomes to files and counts: records, drops with reasons, disputes, statistics."""

import hashlib
import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Literal

from megatron_math.answers.solution_steps import count_steps
from megatron_math.base.files import atomic_open
from megatron_math.base.records import Record
from megatron_math.synthesize.verdicts.rule import AcceptRule, is_disputed
from megatron_math.synthesize.work import Candidate, Outcome, Reject, Seed

FILES = ("problems.jsonl", "drops/problems.jsonl", "disputed.jsonl")
DISTILLED = "distilled.jsonl"
NOT_THE_BEST = "not among the best"


class Tally:
    """Writes the files of a stage as outcomes come, and counts. A context; files appear at its end.

    unique: what makes two candidates one, "problem" or "both" (problem and solution). The digest
    of every record is in memory, about 80 bytes each. about: `meta` keys of every record. distil:
    of each record also keep what was asked and what was answered.
    """

    def __init__(
        self,
        folder: Path,
        method: str,
        rule: AcceptRule,
        unique: Literal["problem", "both"],
        about: dict[str, Any],
        distil: bool = False,
    ) -> None:
        self.seeds = self.parsed = self.verified = self.duplicates = self.accepted = 0
        self.disputed = 0
        self.rejects: Counter[str] = Counter()
        self._folder = folder
        self._names = (*FILES, DISTILLED) if distil else FILES
        self._method = method
        self._rule = rule
        self._unique = unique
        self._about = about
        self._seen: set[bytes] = set()
        self._steps: Counter[int] = Counter()
        self._verdicts: dict[str, Counter[str]] = {}
        self._words = 0
        self._files: list[IO[str]] = []
        self._stack = ExitStack()

    def __enter__(self) -> "Tally":
        self._files = [
            self._stack.enter_context(atomic_open(self._folder / name)) for name in self._names
        ]
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @property
    def outputs(self) -> list[Path]:
        return [self._folder / name for name in self._names]

    def add(self, seed: Seed, outcome: Outcome) -> None:
        """Write what became of one seed."""
        self.seeds += 1
        for reject in outcome.rejects:
            self._drop(seed, reject)
        kept = 0
        for candidate in outcome.candidates:
            self.parsed += 1
            for name, verdict in candidate.verdicts.items():
                self._verdicts.setdefault(name, Counter())[json.dumps(verdict)] += 1
            record = self._record(seed, candidate)
            reason = self._why_not(candidate, has_room=outcome.keep is None or kept < outcome.keep)
            kept += reason is None
            if is_disputed(candidate.verdicts):
                self.disputed += 1
                self._write(2, record.to_json() | {"accepted": reason is None})
            if reason is None:
                self._accept(record)
                if DISTILLED in self._names:
                    self._write(3, _distilled(record, candidate).to_json())
            else:
                self.rejects[reason] += 1
                self._write(1, record.to_json() | {"reason": reason, "raw": candidate.raw})

    def stats(self) -> dict[str, Any]:
        """What was counted, and equals what the files hold."""
        return {
            "method": self._method,
            "problems": self.accepted,
            "mean_words": round(self._words / max(1, self.accepted), 2),
            "dropped": sum(self.rejects.values()),
            "seeds": self.seeds,
            "parsed": self.parsed,
            "verified": self.verified,
            "duplicates": self.duplicates,
            "accepted": self.accepted,
            "accepted_per_seed": round(self.accepted / max(1, self.seeds), 4),
            "disputed": self.disputed,
            "rejects": dict(self.rejects.most_common()),
            "verdicts": {name: dict(sorted(n.items())) for name, n in self._verdicts.items()},
            "by_steps": {str(steps): n for steps, n in sorted(self._steps.items())},
        }

    def _why_not(self, candidate: Candidate, *, has_room: bool) -> str | None:
        """The reason for which a candidate is dropped; None: it is accepted."""
        if against := self._rule.against(candidate.verdicts):
            return f"not accepted: {', '.join(against)}"
        self.verified += 1
        digest = self._digest(candidate)
        if digest in self._seen:
            self.duplicates += 1
            return "duplicate"
        if not has_room:
            return NOT_THE_BEST
        self._seen.add(digest)
        return None

    def _accept(self, record: Record) -> None:
        self.accepted += 1
        self._steps[record.meta["steps"]] += 1
        self._words += len(record.render().split())
        self._write(0, record.to_json())

    def _record(self, seed: Seed, candidate: Candidate) -> Record:
        text = candidate.solution if candidate.checked is None else candidate.checked
        meta = {
            "method": self._method,
            "seed_id": seed.id,
            **self._about,
            **candidate.meta,
            "steps": count_steps(text),
            "verdicts": dict(candidate.verdicts),
        }
        return Record(
            id=f"{self._method}-{self._digest(candidate).hex()}",
            source=self._method,
            problem=candidate.problem,
            solution=candidate.solution,
            answer=candidate.answer,
            meta=meta,
        )

    def _drop(self, seed: Seed, reject: Reject) -> None:
        self.rejects[reject.reason] += 1
        row: dict[str, Any] = {"seed_id": seed.id, "method": self._method, "reason": reject.reason}
        row |= {"detail": reject.detail} if reject.detail else {}
        row |= {"meta": reject.about} if reject.about else {}
        row |= {"raw": reject.raw} if reject.raw else {}
        self._write(1, row)

    def _write(self, file: int, row: dict[str, Any]) -> None:
        self._files[file].write(json.dumps(row, ensure_ascii=False) + "\n")

    def _digest(self, candidate: Candidate) -> bytes:
        """What two candidates must share to be one: case and spacing do not matter."""
        texts = [candidate.problem, candidate.solution if self._unique == "both" else ""]
        plain = "\0".join(" ".join(text.casefold().split()) for text in texts)
        return hashlib.sha256(plain.encode("utf-8")).digest()[:12]


def _distilled(record: Record, candidate: Candidate) -> Record:
    """The very prompt as problem and the very answer as solution."""
    return Record(
        id=f"distilled-{record.id}",
        source="distilled",
        problem=candidate.asked,
        solution=candidate.raw,
        meta={"method": record.meta["method"], "seed_id": record.meta["seed_id"],
              "model": record.meta["model"], "record": record.id},
    )  # fmt: skip
