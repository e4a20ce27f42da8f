"""A part of a stage's work, of so many: what a task of a job array does."""

import os
import re
from dataclasses import dataclass

from megatron_math.base.errors import UserError


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count`."""

    index: int
    count: int

    @property
    def suffix(self) -> str:
        return f".shard-{self.index:04d}-of-{self.count:04d}"

    @staticmethod
    def parse(text: str) -> "Shard":
        """UserError unless it is I/N with 0 <= I < N."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if not match or not int(match[1]) < int(match[2]):
            raise UserError(f"a shard is I/N with I from 0 to N - 1, such as 0/8; found '{text}'")
        return Shard(int(match[1]), int(match[2]))

    @staticmethod
    def of_slurm_array() -> "Shard | None":
        """This task of a SLURM job array; None outside of one."""
        if "SLURM_ARRAY_TASK_ID" not in os.environ:
            return None
        number, count, least, most = (
            int(os.environ.get(f"SLURM_ARRAY_TASK_{name}", "-1"))
            for name in ("ID", "COUNT", "MIN", "MAX")
        )
        if most - least + 1 != count or not least <= number <= most:
            raise UserError(
                f"this SLURM array has {count} tasks with numbers from {least} to {most}; shards "
                f"need all of them (sbatch --array=0-{max(1, count) - 1}), or give --shard I/N"
            )
        return Shard(number - least, count)
