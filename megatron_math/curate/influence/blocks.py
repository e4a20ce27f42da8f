"""Gradients on disk: of each collection of records at each checkpoint, one file a block.

Which block is whose shard's, and what is there already, follows from names alone: a file is whole
or absent. Bytes: docs/formats.md. No torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open, blake3_file, sha256_json, write_json
from megatron_math.base.records import Record, read_records
from megatron_math.curate.config import InfluenceConfig
from megatron_math.curate.influence.warm_up import Reference

FORMAT, VERSION = "megatron-math gradients", 1


@dataclass(frozen=True)
class Collection:
    """Records of one source, or the target problems of one subtask. digest: of their files."""

    kind: Literal["source", "target"]
    name: str
    paths: list[Path]
    digest: str
    num_records: int

    def blocks(self, size: int) -> Iterator[list[Record]]:
        """All records, `size` of them at a time."""
        records = chain.from_iterable(read_records(path, source=self.name) for path in self.paths)
        while block := list(islice(records, size)):
            yield block


@dataclass(frozen=True)
class GradientFolder:
    """The gradients of a collection at a checkpoint."""

    folder: Path
    collection: Collection
    reference: Reference
    width: int
    """Numbers of a row."""
    block_records: int

    @property
    def num_blocks(self) -> int:
        return -(-self.collection.num_records // self.block_records)

    def file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npy"

    def missing(self) -> list[int]:
        return [number for number in range(self.num_blocks) if not self.file(number).is_file()]

    def write(self, number: int, rows: np.ndarray) -> None:
        with atomic_open(self.file(number), "wb") as file:
            np.save(file, rows.astype(np.float16), allow_pickle=False)

    def read(self) -> Iterator[np.ndarray]:
        """The blocks in their order, fp32 [records, width]. UserError for one of another shape."""
        left = self.collection.num_records
        for number in range(self.num_blocks):
            rows = np.load(self.file(number), allow_pickle=False)
            expected = (min(left, self.block_records), self.width)
            if rows.shape != expected or rows.dtype != np.float16:
                raise UserError(
                    f"{self.file(number)} holds {rows.dtype} {rows.shape}, expected float16 "
                    f"{expected}; remove it, and it is computed again"
                )
            left -= len(rows)
            yield rows.astype(np.float32)

    def seal(self) -> None:
        """Write manifest.json, once all blocks are there."""
        write_json(
            self.folder / "manifest.json",
            {
                "format": FORMAT,
                "version": VERSION,
                "kind": "adam" if self.collection.kind == "source" else "plain",
                "name": self.collection.name,
                "iteration": self.reference.iteration,
                "weight": self.reference.weight,
                "records": self.collection.num_records,
                "width": self.width,
                "block_records": self.block_records,
                "blocks": {
                    path.name: {"bytes": path.stat().st_size, "blake3": blake3_file(path)}
                    for path in map(self.file, range(self.num_blocks))
                },
            },
        )


def gradient_folder(
    root: Path,
    collection: Collection,
    reference: Reference,
    config: InfluenceConfig,
    *,
    seed: int,
    width: int,
) -> GradientFolder:
    """Named by all that decides its rows, so that nothing else is ever read from it."""
    key: dict[str, Any] = {
        "version": VERSION,
        "records": collection.digest,
        "checkpoint": reference.digest,
        "seed": seed,
        "block_records": config.block_records,
        **{name: getattr(config, name) for name in ("dimension", "loss", "max_tokens", "dtype")},
    }
    name = f"{reference.iteration:07d}-{sha256_json(key)[:12]}"
    folder = root / f"{collection.kind}_{collection.name}" / name
    return GradientFolder(folder, collection, reference, width, config.block_records)
