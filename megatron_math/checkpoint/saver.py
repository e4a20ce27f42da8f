"""Checkpoints that training hardly waits for: it copies what it holds, another process writes it.

The copy lies in memory that both processes see. While it is written training goes on; what came of
it is asked for by `poll`, without waiting. A failed save (a full disk, a lost writer) leaves
training and the older checkpoints as they were.
"""

import json
import math
import mmap
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from megatron_math.base.log import log
from megatron_math.checkpoint.copies import Copies
from megatron_math.checkpoint.folders import temporary_name
from megatron_math.checkpoint.pieces import Piece, rank_state
from megatron_math.checkpoint.state import model_state
from megatron_math.checkpoint.writer import ForkedWriter, as_bytes, carry_out
from megatron_math.device.optimizer_state import (
    common_optimizer_state,
    owned_ranges,
    weights_of,
)
from megatron_math.device.start import lone_process

_ALIGNMENT = 64
"""Bytes. Of every tensor in the shared memory: a cache line, and more than any type asks for."""
_SPARE_BYTES = 1 << 20
"""For the job's own words, which `prepare` does not know yet."""

at_hand: list[ForkedWriter] = []
"""A writer that was forked from this process at its begin, for its first saver."""


@dataclass(frozen=True)
class Extras:
    """What rank 0 puts beside the tensors."""

    files: Mapping[str, Any]
    """JSON values by name."""
    copies: Mapping[str, Path]
    """Folders by name."""


@dataclass
class Saver:
    """This rank's side of saving into `save`. `launch` is a word that all ranks share and no other
    launch of the run has."""

    save: Path
    rank: int
    world: int
    launch: str
    asynchronous: bool = True
    """False: this process writes, and `start` returns when it has."""
    pending: int | None = None
    """The iteration that is being written."""
    failed: tuple[int, str] | None = None
    """The last iteration that could not be written here, and why."""
    published: int | None = None
    """The newest iteration that was published; known to rank 0."""
    copies: Copies | None = None
    """Of the state in the memory or on the disk of a few nodes."""
    _is_copy: bool = False
    """What is being written, or was last."""
    _memory: "_Memory" = field(default_factory=lambda: _Memory())
    _writer: "subprocess.Popen[str] | ForkedWriter | None" = None

    def __post_init__(self) -> None:
        if self.asynchronous and at_hand:
            self._writer = at_hand.pop()
            self._memory = _Memory(self._writer.memory)

    def start(
        self,
        models: Sequence[Any],
        optimizer: Any,
        iteration: int,
        extras: Extras | None,
        *,
        as_copy: bool = False,
    ) -> None:
        """Copy this rank's part of the state and have it written. Only the copy takes time.

        extras: given on rank 0. as_copy: as one of `copies`, of which `failed` and `published` say
        nothing. An earlier save must have ended.
        """
        assert self.pending is None, self.pending
        assert (extras is not None) == (self.rank == 0)
        found = rank_state(model_state(models), owned_ranges(optimizer), weights_of(optimizer))
        table, num_bytes = _lay_out(found.pieces)
        job: dict[str, Any] = {
            "folder": str(temporary_name(self.save, iteration, self.launch)),
            "rank": self.rank,
            "world": self.world,
            "iteration": iteration,
            "pieces": table,
            "objects": {key: as_bytes([value]) for key, value in found.objects.items()},
            "seal": None,
            "copy": None,
        }
        if as_copy:
            assert self.copies is not None
            job["folder"], job["copy"] = self.copies.begin(iteration, self.ask)
        if extras is not None:
            common = {"optimizer": common_optimizer_state(optimizer), "iteration": iteration}
            job["seal"] = {
                "common": as_bytes(common),
                "save": str(self.save),
                "files": extras.files,
                "copies": {name: str(folder) for name, folder in extras.copies.items()},
            }
        # In the memory, too: a pipe takes 64 KiB before somebody reads, and the writer may be busy.
        written = json.dumps(job).encode()
        self._begin(num_bytes + len(written))
        for piece, row in zip(found.pieces, table, strict=True):
            self._memory.put(row["at"], piece.values)
        self._memory.put(num_bytes, torch.frombuffer(bytearray(written), dtype=torch.uint8))
        self.pending, self.failed, self._is_copy = iteration, None, as_copy
        if not self.asynchronous:
            self._take(carry_out(json.loads(written), self._memory.view()))
            return
        try:
            self._tell({"write": [num_bytes, len(written)]})
        except OSError as error:
            self._lost(f"its writer cannot be reached: {error}")

    def poll(self, seconds: float = 0.0) -> None:
        """Take in what the writer reports, waiting for it as long as asked."""
        if self.pending is None or self._writer is None:
            return
        output: IO[str] = self._writer.stdout  # type: ignore[assignment]
        if not select.select([output], [], [], seconds)[0]:
            return
        line = output.readline()
        if not line:
            self._lost(f"its writer ended with exit code {self._writer.wait()}")
            return
        self._take(json.loads(line))

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """What the writer, which must be idle, says to an order. Waits for it."""
        assert self.pending is None, self.pending
        self._begin(0)
        try:
            self._tell(order)
            line = self._writer.stdout.readline()  # type: ignore[union-attr]
        except OSError:
            line = ""
        return json.loads(line) if line else {}

    def _take(self, report: dict[str, Any]) -> None:
        if "failed" in report:
            self._fails(report["failed"], report["reason"])
        elif self.rank == 0 and not self._is_copy:
            self.published = report["done"]
        self.pending = None

    def _fails(self, iteration: int, reason: str) -> None:
        if self._is_copy:
            assert self.copies is not None
            self.copies.failed = iteration, reason
        else:
            self.failed = iteration, reason

    def remove(self, folders: Sequence[Path]) -> None:
        """Have folders removed that nobody looks for any more."""
        if not self.asynchronous:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        elif folders:
            self._begin(0)
            self._tell({"remove": [str(folder) for folder in folders]})

    def give_up(self) -> None:
        """Another rank could not write its part: this one's is worth nothing."""
        if self.pending is not None:
            self._lost("another rank's part is missing")

    def close(self) -> None:
        """End the writer once it has done what it was told."""
        if self._writer is not None:
            self._writer.stdin.close()  # type: ignore[union-attr]
            self._writer.wait()
            self._writer = None

    def _lost(self, reason: str) -> None:
        assert self.pending is not None
        self._fails(self.pending, reason)
        self.pending = None
        if self._writer is not None:
            self._writer.kill()
            self._writer.wait()
            self._writer = None

    def prepare(self, models: Sequence[Any], optimizer: Any) -> None:
        """Start the writer and take the memory, so that the first save need not wait for them."""
        if not self.asynchronous:
            return
        found = rank_state(model_state(models), owned_ranges(optimizer), weights_of(optimizer))
        table, num_bytes = _lay_out(found.pieces)
        self._begin(num_bytes + 2 * len(json.dumps(table)) + _SPARE_BYTES)

    def _begin(self, num_bytes: int) -> None:
        """A writer that runs, and as much memory."""
        self._memory.grow(num_bytes)
        if not self.asynchronous:
            return
        if self._writer is not None and self._writer.poll() is not None:
            log.warning("the writer of checkpoints had ended (%s)", self._writer.returncode)
            self._writer = None
        if self._writer is None:
            module = __name__.replace("saver", "writer")
            self._writer = subprocess.Popen(
                [sys.executable, "-m", module, str(self._memory.file), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[self._memory.file],
                env=lone_process(sees_gpu=False),
                text=True,
            )
            if self.copies is not None and self.copies.listening is not None:
                self._tell({"listen": self.copies.listening})  # where the one before did

    def _tell(self, job: dict[str, Any]) -> None:
        assert self._writer is not None
        stdin: IO[str] = self._writer.stdin  # type: ignore[assignment]
        stdin.write(json.dumps(job) + "\n")
        stdin.flush()


class _Memory:
    """Memory that the writer sees too, and that is gone with the last process that knows it."""

    def __init__(self, file: int | None = None) -> None:
        self.file = os.memfd_create("checkpoint", os.MFD_CLOEXEC) if file is None else file
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def grow(self, num_bytes: int) -> None:
        """At least `num_bytes`, all of it there: a first touch costs more than the copy."""
        if num_bytes > self._bytes.numel():
            os.ftruncate(self.file, num_bytes)
            mapped = mmap.mmap(self.file, num_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
            self._bytes = torch.frombuffer(mapped, dtype=torch.uint8)

    def view(self) -> memoryview:
        return memoryview(self._bytes.numpy())  # type: ignore[arg-type]

    def put(self, at: int, values: torch.Tensor) -> None:
        place = self._bytes[at : at + values.nbytes].view(values.dtype).view(values.shape)
        place.copy_(values)


def _lay_out(pieces: Sequence[Piece]) -> tuple[list[dict[str, Any]], int]:
    """Where each piece lies in the memory, and how many bytes they all take.

    Values that are two pieces lie there once: in fp32 a master weight is the weight.
    """
    at, places, table = 0, dict[tuple[int, int], int](), []
    for piece in pieces:
        values = piece.values
        place = values.data_ptr(), values.nbytes
        if place not in places:
            places[place] = at
            at += math.ceil(values.nbytes / _ALIGNMENT) * _ALIGNMENT
        table.append(
            {
                "key": piece.key,
                "global_shape": piece.global_shape,
                "offset": piece.offset,
                "shape": tuple(values.shape),
                "dtype": str(values.dtype).removeprefix("torch."),
                "at": places[place],
            }
        )
    return table, at
