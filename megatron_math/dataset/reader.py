"""Samples of a plan's stage, by number: `PlanReader.batch([i, ...])`.

Any rank may ask for any samples in any order; sample i is the same for all. Reads the plan folder
and its indexes, writes nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_math.base.errors import UserError
from megatron_math.dataset.batch import Batch, Reading, Row, read_row
from megatron_math.dataset.cuts import STREAMS
from megatron_math.dataset.documents import IndexedDocuments
from megatron_math.dataset.plan import Plan, PlanSource
from megatron_math.dataset.split import Split, split_documents
from megatron_math.dataset.stream import Remainder, Stream, StreamSettings

BLOCK_SAMPLES = 4096
CURSOR_FORMAT = "megatron-math data state"
CURSOR_VERSION = 1


def plan_split(plan: Plan, source: str) -> Split:
    content = plan.content
    return split_documents(
        plan.index(source),
        seed=content.seed,
        share=content.validation,
        bin_sha256=content.indexes[source].bin.sha256,
    )


def source_settings(plan: Plan, stage: int, source: PlanSource) -> StreamSettings:
    length = plan.stages[stage].sequence_length
    return StreamSettings(source.name, plan.content.seed, length, source.pack, source.align)


def training_stream(plan: Plan, stage: int, number: int) -> Stream:
    """The stream of a source in a stage, begun where an earlier stage left it."""
    source = plan.stages[stage].sources[number]
    start: Remainder | None = None
    if source.after is not None:
        before, samples = source.after
        earlier = training_stream(plan, before, plan.stages[before].source_number(source.name))
        start = earlier.remainder(samples)
    return STREAMS[source.pack](
        source_settings(plan, stage, source),
        plan.index(source.name).lengths_D,
        plan_split(plan, source.name).training,
        start=start,
        end_epoch=source.end_epoch,
        epoch_samples=source.epoch_samples,
    )


class PlanReader:
    """One stage of a plan. Torch-free; keeps a few epochs of each source in memory.

    num_samples, sequence_length, stage (name), sources (names; a batch's `source_B` counts these).
    """

    def __init__(self, plan: Plan, stage: str | int = 0) -> None:
        self.plan = plan
        self._stage = plan.stage_number(stage)
        described = plan.stages[self._stage]
        self.stage = described.name
        self.num_samples = described.num_samples
        self.sequence_length = described.sequence_length
        self.sources = [source.name for source in described.sources]
        self._described = described
        self._order = plan.order(self._stage)
        self._counts_before = self._count_blocks()
        self._streams: dict[int, Stream] = {}

    def _count_blocks(self) -> npt.NDArray[np.int64]:
        """[blocks + 1, sources]: samples of each source before every block of the order."""
        num_blocks = -(-self.num_samples // BLOCK_SAMPLES)
        counts = np.zeros((num_blocks + 1, len(self.sources)), dtype=np.int64)
        for block in range(num_blocks):
            part = self._order[block * BLOCK_SAMPLES : (block + 1) * BLOCK_SAMPLES]
            counts[block + 1] = np.bincount(part, minlength=len(self.sources))
        return counts.cumsum(axis=0)

    def stream(self, source: int) -> Stream:
        if source not in self._streams:
            self._streams[source] = training_stream(self.plan, self._stage, source)
        return self._streams[source]

    def locate(self, sample: int) -> tuple[int, int]:
        """(source number, number of the sample within its source's stream)"""
        if not 0 <= sample < self.num_samples:
            raise IndexError(
                f"sample {sample} of stage '{self.stage}', which has {self.num_samples}"
            )
        source = int(self._order[sample])
        block, start = sample // BLOCK_SAMPLES, sample // BLOCK_SAMPLES * BLOCK_SAMPLES
        inside = int(np.count_nonzero(self._order[start:sample] == source))
        return source, int(self._counts_before[block, source]) + inside

    def batch(self, sample_indices: Sequence[int] | npt.NDArray[np.integer]) -> Batch:
        """The samples asked for, in that order. IndexError for one outside the stage."""
        rows, sources = [], []
        for sample in sample_indices:
            source, number = self.locate(int(sample))
            rows.append(self._row(source, self.stream(source), number))
            sources.append(source)
        return Batch.stack(rows, sources)

    def _row(self, source: int, stream: Stream, number: int) -> Row:
        described = self._described.sources[source]
        return read_row(
            self.plan.index(described.name), stream.layout(number), self._reading(described)
        )

    def _reading(self, source: PlanSource) -> Reading:
        return Reading(
            self.sequence_length,
            self.plan.content.pad_id,
            attend_across=source.attend == "across",
            loss_roles=None if source.loss == "all" else tuple(source.loss),
        )

    def validation(self, source: str | int) -> "ValidationReader":
        """The held-out documents of a source, by name or number, read as the source is read."""
        if isinstance(source, str):
            if source not in self.sources:
                raise UserError(
                    f"stage '{self.stage}' has no source '{source}'; it has "
                    f"{', '.join(self.sources)}"
                )
            source = self.sources.index(source)
        described = self._described.sources[source]
        return ValidationReader(
            source,
            self.plan.index(described.name),
            source_settings(self.plan, self._stage, described),
            self._reading(described),
            plan_split(self.plan, described.name).validation,
        )

    def cursor(self, consumed_samples: int) -> dict[str, Any]:
        """Where the data stands after that many samples of this stage, as JSON types.

        By source: samples and tokens (without padding) in this stage, the epoch it is in, and
        epochs_done over the run, a fraction.
        """
        if not 0 <= consumed_samples <= self.num_samples:
            raise IndexError(f"{consumed_samples} samples consumed of {self.num_samples}")
        block = consumed_samples // BLOCK_SAMPLES
        part = self._order[block * BLOCK_SAMPLES : consumed_samples]
        counts = self._counts_before[block] + np.bincount(part, minlength=len(self.sources))
        sources = {}
        for number, name in enumerate(self.sources):
            stream, samples = self.stream(number), int(counts[number])
            tokens = stream.tokens_before(samples) if samples else 0
            done = stream.tokens_before_start + tokens
            sources[name] = {
                "samples": samples,
                "tokens": tokens,
                "epoch": done // stream.epoch_tokens,
                "epochs_done": done / stream.epoch_tokens,
            }
        return {
            "format": CURSOR_FORMAT,
            "version": CURSOR_VERSION,
            "stage": self.stage,
            "consumed_samples": consumed_samples,
            "consumed_tokens": sum(entry["tokens"] for entry in sources.values()),
            "sources": sources,
        }


class ValidationReader:
    """A source's held-out documents, each once, in a fixed shuffled order; `num_samples` may be 0.

    num_samples, num_documents, num_tokens (of all held-out documents, without padding).
    """

    def __init__(
        self,
        source: int,
        index: IndexedDocuments,
        settings: StreamSettings,
        reading: Reading,
        documents: npt.NDArray[np.int64],
    ) -> None:
        self._source, self._index, self._reading = source, index, reading
        self.documents = documents
        self.num_documents = len(documents)
        self._stream: Stream | None = None
        self.num_samples = self.num_tokens = 0
        if len(documents):
            self._stream = STREAMS[settings.pack](
                settings, index.lengths_D, documents, end_epoch=1, shuffle=False
            )
            self.num_samples = self._stream.num_samples()
            self.num_tokens = self._stream.epoch_tokens

    def batch(self, sample_indices: Sequence[int] | npt.NDArray[np.integer]) -> Batch:
        rows = []
        for sample in map(int, sample_indices):
            if self._stream is None or not 0 <= sample < self.num_samples:
                raise IndexError(f"held-out sample {sample}, there are {self.num_samples}")
            rows.append(read_row(self._index, self._stream.layout(sample), self._reading))
        return Batch.stack(rows, [self._source] * len(rows))
