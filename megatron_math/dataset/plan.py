"""A blend's plan on disk: `plan.json`, and by stage an order, its counts and segment tables.

Written by the blend room; read here, and checked against the indexes before anything is used. All
arrays are memory-mapped. The bytes are fixed in docs/formats.md.
"""

import threading
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from megatron_math.base.config import Section, parse_section
from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.dataset.cuts import STREAMS, left_over
from megatron_math.dataset.documents import IndexedDocuments
from megatron_math.dataset.fingerprint import (
    HASHED_WHEN_OPENED,
    Stamps,
    index_files,
    stamps,
    why_changed,
)
from megatron_math.dataset.split import HeldOutOrder, Order, Split, TrainingOrder
from megatron_math.dataset.stream import Cache, Mark, Segments, Stream, StreamSettings

PLAN_FORMAT: Final = "megatron-math plan"
PLAN_VERSION: Final = 3
STAMPS = "stamps.json"
_READING_HEADERS = threading.Lock()
"""numpy parses a file's header with ast, which two threads of Python 3.11 must not do at once
(SystemError: AST constructor recursion depth mismatch; CPython issue 106905)."""


class FileDigest(Section):
    bytes: int
    blake3: str


class PlanIndex(Section):
    """One index as it was when the plan was made. `prefix` is relative to the plan's folder."""

    prefix: str
    probe: str
    bin: FileDigest
    idx: FileDigest
    roles: FileDigest | None  # where a source's loss needs them
    tokenizer: str | None  # fingerprint; None where the index has no sidecar
    documents: int
    empty_documents: int
    tokens: int
    training_documents: int  # empty ones included, here and below
    training_tokens: int
    validation_documents: int
    validation_tokens: int

    def digests(self) -> dict[str, str]:
        files = {"bin": self.bin, "idx": self.idx, "roles": self.roles}
        return {suffix: file.blake3 for suffix, file in files.items() if file is not None}


class PlanSource(Section):
    """One source in one stage."""

    name: str
    groups: list[str]  # the mix's groups around it, outermost first
    pack: Literal["concat", "whole"]
    align: int
    attend: Literal["inside", "across"]
    loss: list[str] | Literal["all"]
    share: str | None  # of the stage's tokens, as a fraction; None where no budget is shared
    end_epoch: int | None  # the source ends before this epoch of the run
    segment_documents: int
    start: Mark  # where the stages before, or the run that this one continues, left it
    tokens_before: int  # of the run, used until there
    samples: int
    tokens: int  # without padding
    table: tuple[int, int]  # first column and rows in the stage's segment tables
    validation_table: tuple[int, int]


class PlanStage(Section):
    name: str
    sequence_length: int
    num_samples: int
    tokens: int  # without padding
    order: str  # file name: source number of every sample
    counts: str  # file name: samples of each source before every block of the order
    block_samples: int
    segments: str  # file name: tables of all sources
    sources: list[PlanSource]

    def source_number(self, name: str) -> int:
        return [source.name for source in self.sources].index(name)


class Standing(Section):
    """A source that a run has used: where its stream stands, tokens used, the `.bin` it was."""

    mark: Mark
    tokens: int
    bin_digest: str


class History(Section):
    """The run that this plan continues, as a checkpoint's data_state.json told it."""

    checkpoint: str
    iteration: int
    consumed_samples: int
    stages: list[dict[str, Any]]  # its cursors, oldest first, stages without a sample left out
    sources: dict[str, Standing]  # all that were used, also those that this plan leaves out


class PlanFile(Section):
    """The content of plan.json."""

    format: Literal["megatron-math plan"]
    version: Literal[3]
    seed: int
    validation: float
    pad_id: int
    tokenizer: dict[str, Any] | None
    history: History | None
    indexes: dict[str, PlanIndex]  # by source name
    stages: list[PlanStage]


class Plan:
    """A checked plan. `tokenizer` is the sidecars' entry, one for all sources; None if unknown.

    history: what was consumed before the first stage, None for a run that begins here.
    """

    def __init__(self, folder: Path, content: PlanFile) -> None:
        self.folder = Path(folder)
        self.content = content
        self.stages = content.stages
        self.history = content.history
        self.tokenizer = content.tokenizer
        self._indexes: dict[str, IndexedDocuments] = {}
        self._tables: dict[int, npt.NDArray[np.int64]] = {}

    def stage_number(self, stage: str | int) -> int:
        """Its number by name or number. UserError when there is none."""
        names = [s.name for s in self.stages]
        if stage in names:
            return names.index(str(stage))
        if isinstance(stage, int) and 0 <= stage < len(names):
            return stage
        raise UserError(f"{self.folder} has no stage {stage!r}; its stages are {', '.join(names)}")

    def prefix(self, source: str) -> Path:
        return self.folder / self.content.indexes[source].prefix

    def files(self, source: str) -> dict[str, Path]:
        """The files of a source's index that are read, by suffix."""
        with_roles = self.content.indexes[source].roles is not None
        return index_files(self.prefix(source), with_roles=with_roles)

    def index(self, source: str) -> IndexedDocuments:
        if source not in self._indexes:
            self._indexes[source] = IndexedDocuments(self.prefix(source))
        return self._indexes[source]

    def order(self, stage: int) -> npt.NDArray[np.unsignedinteger]:
        """Source number of every sample of the stage."""
        planned = self.stages[stage]
        return self._array(planned.order, (planned.num_samples,))

    def counts(self, stage: int) -> npt.NDArray[np.int64]:
        """[blocks + 1, sources]: samples of each source before every block of the order."""
        planned = self.stages[stage]
        num_blocks = -(-planned.num_samples // planned.block_samples)
        return self._array(planned.counts, (num_blocks + 1, len(planned.sources)))

    def _array(self, name: str, shape: tuple[int, ...]) -> npt.NDArray:
        path = self.folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing; run blend again")
        with _READING_HEADERS:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.shape != shape:
            raise UserError(f"{path} is {array.shape}, by plan.json {shape}; run blend again")
        return np.asarray(array)

    def stream(self, stage: int, number: int, cache: Cache | None = None) -> Stream:
        """Training samples of a source of a stage, begun where the stage before left it."""
        source = self.stages[stage].sources[number]
        order = TrainingOrder(
            self.index(source.name).lengths,
            self.split(source.name),
            seed=self.content.seed,
            name=source.name,
        )
        return self._stream(stage, source, order, source.table, source.start, cache)

    def validation_stream(self, stage: int, number: int) -> Stream | None:
        """The held-out documents of a source, each once; None where there are none."""
        source = self.stages[stage].sources[number]
        split = self.split(source.name)
        if split.num_held_out == 0:
            return None
        order = HeldOutOrder(self.index(source.name).lengths, split)
        return self._stream(stage, source, order, source.validation_table, None, None)

    def _stream(
        self,
        stage: int,
        source: PlanSource,
        order: Order,
        table: tuple[int, int],
        start: Mark | None,
        cache: Cache | None,
    ) -> Stream:
        settings = StreamSettings(self.stages[stage].sequence_length, source.pack, source.align)
        segments = Segments(order, source.segment_documents, left_over, start)
        if stage not in self._tables:
            last = max(sum(entry.validation_table) for entry in self.stages[stage].sources)
            self._tables[stage] = self._array(self.stages[stage].segments, (2, last + 1))
        first, num_rows = table
        rows = self._tables[stage][:, first : first + num_rows + 1]
        return STREAMS[source.pack](settings, segments, rows, cache)

    def split(self, source: str) -> Split:
        planned = self.content.indexes[source]
        return Split.draw(
            planned.documents,
            seed=self.content.seed,
            share=self.content.validation,
            bin_digest=planned.bin.blake3,
        )

    def stamps(self) -> dict[str, Stamps]:
        """Of all indexes' files, by source name, as they are now."""
        return {name: stamps(self.files(name)) for name in self.content.indexes}

    def verify(self, *, hash_bytes: int | None = HASHED_WHEN_OPENED) -> None:
        """UserError when an index is not the one that was planned with.

        Costs a look at the files' times while nobody touched them. Else at most hash_bytes (None:
        as many as it takes) are read of files for which nothing vouches.
        """
        path = self.folder / STAMPS
        known = read_json(path) if path.is_file() else {}
        for name, planned in self.content.indexes.items():
            files = self.files(name)
            if stamps(files) == known.get(name):
                continue
            index = self.index(name)
            if planned.roles is not None:
                index.require_roles(f"source '{name}'")
            reason = why_changed(
                index,
                files,
                planned=planned.digests(),
                planned_probe=planned.probe,
                hash_bytes=hash_bytes,
            )
            if reason is not None:
                raise UserError(
                    f"the index {index.prefix} of source '{name}' has changed since the plan in "
                    f"{self.folder} was made (planned with {planned.tokens} tokens, found "
                    f"{index.num_tokens}): {reason}; run blend again"
                )


def load_plan(folder: Path | str) -> Plan:
    """Read and check the plan in `folder`. UserError when it is missing, foreign or stale."""
    plan = read_plan(folder)
    plan.verify()
    return plan


def read_plan(folder: Path | str) -> Plan:
    """`load_plan` without a look at the indexes."""
    path = Path(folder) / "plan.json"
    if not path.is_file():
        raise UserError(f"there is no blend plan at {path}; run blend first")
    raw = read_json(path)
    found = (raw.get("format"), raw.get("version")) if isinstance(raw, dict) else raw
    if found != (PLAN_FORMAT, PLAN_VERSION):
        raise UserError(
            f"{path} has format and version {found}; this program reads "
            f"{(PLAN_FORMAT, PLAN_VERSION)}; run blend again"
        )
    return Plan(Path(folder), parse_section(PlanFile, raw, str(path)))
