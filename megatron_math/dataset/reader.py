"""Samples of a plan's stage, by number: `PlanReader.batch([i, ...])`.

Any rank may ask for any samples in any order; sample i is the same for all. Reads the plan folder
and its indexes, writes nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_math.base.errors import UserError
from megatron_math.dataset.batch import Batch, Reading, read_rows, real_tokens
from megatron_math.dataset.documents import IndexedDocuments
from megatron_math.dataset.plan import Plan, PlanSource
from megatron_math.dataset.stream import Cache, Mark, Stream
from megatron_math.native.order import locate, permute
from megatron_math.native.rows import Rows

CURSOR_FORMAT = "megatron-math data state"
CURSOR_VERSION = 3

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
SampleNumbers = Sequence[int] | npt.NDArray[np.integer]


class PlanReader:
    """One stage of a plan. Torch-free; may be used by several threads at a time."""

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
        self._counts_before = plan.counts(self._stage)
        self._streams: dict[int, Stream] = {}
        self._sources: dict[int, tuple[IndexedDocuments, Stream, Reading]] = {}
        self._cache = Cache()

    def stream(self, source: int) -> Stream:
        if source not in self._streams:
            self._streams[source] = self.plan.stream(self._stage, source, self._cache)
        return self._streams[source]

    def locate(self, sample: int) -> tuple[int, int]:
        """(source number, number of the sample within its source's stream)"""
        source_B, number_B = self._locate([sample])
        return int(source_B[0]), int(number_B[0])

    def _locate(self, sample_indices: SampleNumbers) -> tuple[Int32Array, Int64Array]:
        sample_B = np.ascontiguousarray(sample_indices, dtype=np.int64)
        try:
            block_samples = self._described.block_samples
            return locate(self._order, self._counts_before, block_samples, sample_B)
        except IndexError:
            outside = sample_B[(sample_B < 0) | (sample_B >= self.num_samples)]
            raise IndexError(
                f"sample {outside[0]} of stage '{self.stage}', which has {self.num_samples}"
            ) from None

    def batch(self, sample_indices: SampleNumbers) -> Batch:
        """The samples asked for, in that order. IndexError for one outside the stage."""
        source_B, number_B = self._locate(sample_indices)
        rows = Rows.empty(len(source_B), self.sequence_length)
        found = sorted(set(source_B.tolist()))
        for source in found:
            places = np.flatnonzero(source_B == source) if len(found) > 1 else None
            numbers = number_B if places is None else number_B[places]
            index, stream, reading = self._source(source)
            read_rows(index, stream.layouts(numbers), reading, into=rows, row_numbers=places)
        return Batch.of(rows, source_B)

    def real_tokens(self, sample_indices: SampleNumbers) -> npt.NDArray[np.bool_]:
        """[B, S]: which inputs of `batch(sample_indices)` are no padding."""
        source_B, number_B = self._locate(sample_indices)
        real_BS = np.empty((len(source_B), self.sequence_length), dtype=bool)
        for source in set(source_B.tolist()):
            places = np.flatnonzero(source_B == source)
            layout = self.stream(source).layouts(number_B[places])
            real_BS[places] = real_tokens(layout, self.sequence_length)
        return real_BS

    def _source(self, source: int) -> tuple[IndexedDocuments, Stream, Reading]:
        if source not in self._sources:
            described = self._described.sources[source]
            index = self.plan.index(described.name)
            self._sources[source] = index, self.stream(source), self._reading(described)
        return self._sources[source]

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
            self.plan,
            described.name,
            source,
            self.plan.validation_stream(self._stage, source),
            self._reading(described),
        )

    def samples_of_sources(self, consumed_samples: int) -> list[int]:
        """How many of the stage's first samples are from each source."""
        if not 0 <= consumed_samples <= self.num_samples:
            raise IndexError(f"{consumed_samples} samples consumed of {self.num_samples}")
        block, inside = divmod(consumed_samples, self._described.block_samples)
        part = self._order[consumed_samples - inside : consumed_samples]
        return (
            self._counts_before[block] + np.bincount(part, minlength=len(self.sources))
        ).tolist()

    def cursor(self, consumed_samples: int) -> dict[str, Any]:
        """Where the data stands after that many samples of this stage, as JSON types.

        All that another plan needs to go on from here without dropping or repeating a token. By
        source: samples and tokens (without padding) in this stage, the epoch it is in, epochs_done
        over the run (a fraction), and its `Standing`; `idle` are the sources that the run used
        before and this stage does not.
        """
        sources = {}
        samples_of_sources = self.samples_of_sources(consumed_samples)
        for number, described in enumerate(self._described.sources):
            stream, samples = self.stream(number), samples_of_sources[number]
            planned = self.plan.content.indexes[described.name]
            tokens = stream.tokens_before(samples) if samples else 0
            done = described.tokens_before + tokens
            sources[described.name] = {
                "samples": samples,
                "tokens": tokens,
                "epoch": done // planned.training_tokens,
                "epochs_done": done / planned.training_tokens,
                "standing": _standing(stream.mark(samples), done, planned.bin.blake3),
            }
        return {
            "format": CURSOR_FORMAT,
            "version": CURSOR_VERSION,
            "stage": self.stage,
            "seed": self.plan.content.seed,
            "validation": self.plan.content.validation,
            "consumed_samples": consumed_samples,
            "consumed_tokens": sum(entry["tokens"] for entry in sources.values()),
            "sources": sources,
            "idle": self._idle(),
        }

    def _idle(self) -> dict[str, Any]:
        plan, idle = self.plan, {}
        if plan.history is not None:
            idle = {name: one.model_dump(mode="json") for name, one in plan.history.sources.items()}
        for stage in range(self._stage):
            described = plan.stages[stage]
            for number, source in enumerate(described.sources):
                if source.name not in self.sources and source.samples:
                    mark = plan.stream(stage, number).mark(source.samples)
                    tokens = source.tokens_before + source.tokens
                    digest = plan.content.indexes[source.name].bin.blake3
                    idle[source.name] = _standing(mark, tokens, digest)
        return {name: one for name, one in idle.items() if name not in self.sources}


def _standing(mark: Mark, tokens: int, bin_digest: str) -> dict[str, Any]:
    return {"mark": mark.model_dump(mode="json"), "tokens": tokens, "bin_digest": bin_digest}


class ValidationReader:
    """A source's held-out documents, each once, in a fixed shuffled order; `num_samples` may be 0.

    num_samples, num_documents, num_tokens (of all held-out documents, without padding).
    """

    def __init__(
        self, plan: Plan, name: str, source: int, stream: Stream | None, reading: Reading
    ) -> None:
        self._source, self._stream, self._reading = source, stream, reading
        self._index: IndexedDocuments = plan.index(name)
        self._split = plan.split(name)
        self.num_documents = self._split.num_held_out
        self.num_samples = stream.num_samples if stream else 0
        self.num_tokens = plan.content.indexes[name].validation_tokens

    def documents(self) -> npt.NDArray[np.int64]:
        """Numbers of all held-out documents."""
        return permute(self._split.key, self._split.num_documents, 0, self.num_documents)

    def batch(self, sample_indices: SampleNumbers) -> Batch:
        for sample in sample_indices:
            if self._stream is None or not 0 <= sample < self.num_samples:
                raise IndexError(f"held-out sample {sample}, there are {self.num_samples}")
        rows = Rows.empty(len(sample_indices), self._reading.sequence_length)
        if self._stream is not None:
            layout = self._stream.layouts(sample_indices)
            read_rows(self._index, layout, self._reading, into=rows)
        return Batch.of(rows, np.full(len(sample_indices), self._source, dtype=np.int32))
