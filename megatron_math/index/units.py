"""Units of work: what of which file a job or a shard of it reads, and whether it changed meanwhile.

A unit is 64 MiB of a plain file (its lines are those that begin there) or a whole packed one.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from megatron_math.base.errors import UserError
from megatron_math.base.files import sha256_json
from megatron_math.base.shard import Shard
from megatron_math.index.blocks import UNIT_BYTES, is_splittable

FIRST_CHECK_BYTES = 1 << 16  # of text that is compared with the reference tokenizer
CHECK_BYTES = 1 << 13


@dataclass(frozen=True)
class SourceFile:
    """A file as it was when the job began."""

    path: Path
    num_bytes: int
    changed_ns: int

    @staticmethod
    def look(path: Path) -> "SourceFile":
        status = path.stat()
        return SourceFile(path, status.st_size, status.st_mtime_ns)

    def require_unchanged(self) -> None:
        if SourceFile.look(self.path) != self:
            raise UserError(
                f"{self.path} changed while it was being read; start again when it is whole"
            )


@dataclass(frozen=True)
class Span:
    """What of a file is read: the lines that begin in [begin, stop). stop None: to its end.

    number: of the file in the corpus.
    """

    number: int
    file: SourceFile
    begin: int
    stop: int | None

    @property
    def is_whole(self) -> bool:
        return self.begin == 0 and self.stop is None

    @property
    def end(self) -> int:
        return self.file.num_bytes if self.stop is None else self.stop

    def unit_of(self, begin: int) -> int:
        """The unit of a block that begins there."""
        return begin // UNIT_BYTES if is_splittable(self.file.path) else 0


class Corpus:
    """All files of a job, one after another."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.files = [SourceFile.look(path) for path in paths]
        self._begins = [0, *accumulate(file.num_bytes for file in self.files)]

    @property
    def num_bytes(self) -> int:
        return self._begins[-1]

    def spans(self, shard: Shard | None) -> list[Span]:
        """What one shard reads: the units that begin in its share of all bytes, in order."""
        found = []
        for number, file in enumerate(self.files):
            units = range(self._num_units(number))
            low, high = 0, len(units)
            if shard is not None:
                low, high = (
                    bisect_right(units, index, key=lambda u: self._shard_of(number, u, shard))  # noqa: B023
                    for index in (shard.index - 1, shard.index)
                )
            if low < high:
                stop = None if high == len(units) else high * UNIT_BYTES
                found.append(Span(number, file, low * UNIT_BYTES, stop))
        return found

    def check_bytes(self, number: int, unit: int) -> int:
        """How much text at the beginning of a unit is compared with the reference tokenizer.

        Where files are small, not every unit is: one in 64 MiB.
        """
        if number == unit == 0:
            return FIRST_CHECK_BYTES
        if unit == 0:
            before = self._unit_begin(number - 1, self._num_units(number - 1) - 1)
            if before // UNIT_BYTES == self._begins[number] // UNIT_BYTES:
                return 0
        return CHECK_BYTES

    def fingerprint(self) -> str:
        """sha256 over names, sizes and times of change."""
        return sha256_json([[str(f.path), f.num_bytes, f.changed_ns] for f in self.files])

    def _num_units(self, number: int) -> int:
        file = self.files[number]
        return max(1, -(-file.num_bytes // UNIT_BYTES)) if is_splittable(file.path) else 1

    def _unit_begin(self, number: int, unit: int) -> int:
        return self._begins[number] + unit * UNIT_BYTES

    def _shard_of(self, number: int, unit: int, shard: Shard) -> int:
        begin = self._unit_begin(number, unit)
        return min(shard.count - 1, begin * shard.count // max(1, self.num_bytes))
