"""From the blend plan to this rank's micro-batches: which samples, in which step, on which device.

The order is a function of the plan alone. Global step i takes samples [i*G, (i+1)*G) of its stage;
replica r takes micro-batches r, r + D, r + 2D, ... of it (G global batch, D replicas), so another
layout or a restart never moves a sample.

Shapes: B micro-batch, S sequence, P the part of it that this context rank holds.
"""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from megatron_math.dataset.digest import samples_digest
from megatron_math.dataset.plan import Plan
from megatron_math.dataset.reader import PlanReader, ValidationReader
from megatron_math.device.digests import digest
from megatron_math.device.open import pinned
from megatron_math.model.context import own_tokens
from megatron_math.train.config import TrainConfig
from megatron_math.train.mock_data import MockReader
from megatron_math.train.stages import TrainStage, stages_of

STEPS_AHEAD = 2


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one replica, on the device; document ids are read on the host.

    With context parallelism this rank's tokens (`model/context.py`), and all document ids.
    """

    tokens_BP: torch.Tensor
    labels_BP: torch.Tensor
    loss_mask_BP: torch.Tensor
    position_ids_BP: torch.Tensor
    document_ids_BS: torch.Tensor
    source_B: torch.Tensor
    padding_BP: torch.Tensor | None = None
    """True where a token is padding; read for models with experts, in training only."""
    digest: int = 0
    """Of the tensors, as they were read (`batch_digest`)."""
    samples: int = 0
    """Which samples these are (`dataset/digest.py`); of training only."""


def batch_digest(batch: MicroBatch) -> torch.Tensor:
    """Of all that a micro-batch says, int64, where its tokens are."""
    values = [getattr(batch, field.name) for field in fields(batch)]
    place = batch.tokens_BP.device
    sums = [
        digest(one).to(place, non_blocking=True) for one in values if isinstance(one, torch.Tensor)
    ]
    return torch.stack(sums).sum()


class Feed:
    """All stages of a plan, cut into global steps of their stage's `global_batch_size` samples.

    Steps are counted over the run: a plan that continues another begins at `first_iteration`.
    The last step of a stage may hold fewer samples than the batch; the missing ones are masked
    out, so no sample is dropped and none is invented. A validation is filled up likewise, to a
    multiple of `microbatch_groups` micro-batches. With `mock_vocab_size` the samples are random
    ids below it and no index is read. marks_padding: micro-batches of training say which tokens
    are padding; all of the missing samples are.
    """

    def __init__(
        self,
        plan: Plan,
        train: TrainConfig,
        *,
        data_rank: int,
        data_size: int,
        torch_device: torch.device,
        context_rank: int = 0,
        context_size: int = 1,
        microbatch_groups: int = 1,
        mock_vocab_size: int | None = None,
        marks_padding: bool = False,
    ) -> None:
        self.readers: list[PlanReader | MockReader] = [
            PlanReader(plan, stage.name)
            if mock_vocab_size is None
            else MockReader(plan, stage.name, mock_vocab_size)
            for stage in plan.stages
        ]
        self.sources = list(dict.fromkeys(name for r in self.readers for name in r.sources))
        self.stages = stages_of(train, plan)
        self._data_rank, self._data_size = data_rank, data_size
        self._torch_device = torch_device
        self._context = context_rank, context_size
        self._microbatch_groups = microbatch_groups
        self._marks_padding = marks_padding
        self._history = plan.history
        self.first_iteration = self.stages[0].first
        self.num_iterations = self.stages[-1].end
        self.wait_seconds = 0.0
        """What the last call of `microbatches` waited for the data."""
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: dict[int, Future[list[MicroBatch]]] = {}

    def stage_at(self, iteration: int) -> TrainStage:
        """The stage of global step `iteration`, counted from 0."""
        return self.stages[self._number(iteration)]

    def _number(self, iteration: int) -> int:
        assert self.first_iteration <= iteration < self.num_iterations, iteration
        return next(n for n, stage in enumerate(self.stages) if iteration < stage.end)

    def sequence_length(self, iteration: int) -> int:
        """Tokens of a sample in global step `iteration`."""
        return self.readers[self._number(iteration)].sequence_length

    def consumed_samples(self, iteration: int) -> int:
        """Samples of the run seen after `iteration` steps."""
        total = self._history.consumed_samples if self._history else 0
        for reader, stage in zip(self.readers, self.stages, strict=True):
            steps = max(0, min(iteration, stage.end) - stage.first)
            total += min(reader.num_samples, steps * stage.train.global_batch_size)
        return total

    def data_state(self, iteration: int) -> dict[str, object]:
        """The cursors that a checkpoint keeps: what every stage has given after `iteration`."""
        left = self.consumed_samples(iteration)
        stages: list[dict[str, Any]] = []
        if self._history is not None:
            left -= self._history.consumed_samples
            stages += self._history.stages
        for reader in self.readers:
            assert isinstance(reader, PlanReader), "a mock run has no data to continue from"
            taken = min(left, reader.num_samples)
            stages.append({"stage": reader.stage} | reader.cursor(taken))
            left -= taken
        return {
            "version": 1,
            "iteration": iteration,
            "consumed_samples": self.consumed_samples(iteration),
            "stages": stages,
        }

    @contextlib.contextmanager
    def reading_ahead(self, iteration: int) -> Iterator[None]:
        """Inside, a thread prepares the steps from `iteration` on while earlier ones run.

        `microbatches` must then be called for one step after the other. What the thread raises
        comes up there, in the step whose data it is.
        """
        assert self._thread is None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        try:
            for number in range(iteration, iteration + STEPS_AHEAD):
                self._prepare(number)
            yield
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._thread, self._ahead = None, {}

    def _prepare(self, iteration: int) -> None:
        if self._thread is not None and iteration < self.num_iterations:
            self._ahead[iteration] = self._thread.submit(self._read_step, iteration)

    def microbatches(self, iteration: int) -> list[MicroBatch]:
        """This replica's share of global step `iteration`."""
        started = time.perf_counter()
        if self._thread is None:
            batches = self._read_step(iteration)
        else:
            assert iteration in self._ahead, (iteration, list(self._ahead))
            batches = self._ahead.pop(iteration).result()
            self._prepare(iteration + STEPS_AHEAD)
        self.wait_seconds = time.perf_counter() - started
        return [self._on_device(batch) for batch in batches]

    def again(self, iteration: int) -> list[MicroBatch]:
        """This replica's share of global step `iteration`, read once more."""
        read = self._read_step if self._thread is None else self._in_thread
        return [self._on_device(batch) for batch in read(iteration)]

    def _in_thread(self, iteration: int) -> list[MicroBatch]:
        """The readers are that thread's."""
        assert self._thread is not None
        return self._thread.submit(self._read_step, iteration).result()

    def _read_step(self, iteration: int) -> list[MicroBatch]:
        number = self._number(iteration)
        reader, rows = self.readers[number], self.stages[number].train.micro_batch_size
        return [
            self._read(reader, first, reader.num_samples, self._translation(reader), rows)
            for first in self.first_samples(iteration)
        ]

    def first_samples(self, iteration: int) -> list[int]:
        """The first sample, counted in its stage, of each micro-batch of this replica."""
        stage = self.stage_at(iteration)
        rows = stage.train.micro_batch_size
        first = (iteration - stage.first) * stage.train.global_batch_size
        num_microbatches = stage.train.global_batch_size // (rows * self._data_size)
        return [first + start for start in self._starts(num_microbatches, rows)]

    def validation(self, source: str, num_samples: int) -> Iterator[MicroBatch]:
        """Held-out samples of one source, divided over the replicas like a global step."""
        number = next(n for n, reader in enumerate(self.readers) if source in reader.sources)
        reader, rows = self.readers[number], self.stages[number].train.micro_batch_size
        assert isinstance(reader, PlanReader), "a mock run is not validated"
        held_out = reader.validation(source)
        num_samples = min(num_samples, held_out.num_samples)
        own_number = np.full(len(reader.sources), self.sources.index(source))
        num_microbatches = -(-num_samples // (rows * self._data_size))
        missing = -num_microbatches % self._microbatch_groups
        for start in self._starts(num_microbatches + missing, rows):
            yield self._on_device(self._read(held_out, start, num_samples, own_number, rows))

    def _starts(self, num_microbatches: int, rows: int) -> list[int]:
        return [
            (number * self._data_size + self._data_rank) * rows
            for number in range(num_microbatches)
        ]

    def _translation(self, reader: PlanReader | MockReader) -> np.ndarray:
        """Source numbers of one stage -> source numbers of the whole plan."""
        return np.array([self.sources.index(name) for name in reader.sources])

    def _read(
        self, reader: Any, first: int, end: int, source_numbers: np.ndarray, rows: int
    ) -> MicroBatch:
        """One micro-batch of `rows` samples on the host, where the device may fetch it."""
        indices = np.arange(first, first + rows)
        batch = reader.batch(np.where(indices < end, indices, 0))
        loss_mask_BS = np.where((indices < end)[:, None], batch.loss_mask_BS, np.float32(0))
        padding_BS = None
        if self._marks_padding and not isinstance(reader, ValidationReader):
            real_BS = reader.real_tokens(np.where(indices < end, indices, 0))
            padding_BS = ~(real_BS & (indices < end)[:, None])

        def tensor(array: np.ndarray) -> torch.Tensor:
            return pinned(torch.from_numpy(np.ascontiguousarray(array)), self._torch_device)

        def own(array_BS: np.ndarray) -> torch.Tensor:
            tokens_BP = own_tokens(torch.from_numpy(array_BS), *self._context)
            return pinned(tokens_BP.contiguous(), self._torch_device)

        read = MicroBatch(
            tokens_BP=own(batch.tokens_BS),
            labels_BP=own(batch.labels_BS),
            loss_mask_BP=own(loss_mask_BS),
            position_ids_BP=own(batch.position_ids_BS),
            document_ids_BS=torch.from_numpy(np.ascontiguousarray(batch.document_ids_BS)),
            source_B=tensor(source_numbers[batch.source_B].astype(np.int64)),
            padding_BP=None if padding_BS is None else own(padding_BS),
        )
        samples = 0
        if not isinstance(reader, ValidationReader):
            samples = samples_digest(indices, batch, indices < end)
        return replace(read, digest=int(batch_digest(read)), samples=samples)

    def _on_device(self, batch: MicroBatch) -> MicroBatch:
        moved: dict[str, Any] = {
            field.name: value.to(self._torch_device, non_blocking=True)
            for field in fields(batch)
            if field.name != "document_ids_BS"
            and isinstance(value := getattr(batch, field.name), torch.Tensor)
        }
        return replace(batch, **moved)
