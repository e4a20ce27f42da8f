"""Files of documents to indexes: read, tokenize in threads, write whole or not at all.

Writes for every output `<prefix>.bin`, `.idx`, `.ids` (lineage), `.roles` where the recipe knows
them, and, last, the sidecar `.json`. Until everything has been read and written these names keep
what they had; a killed process is continued by the same call.
"""

import hashlib
import json
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megatron_math import __version__
from megatron_math.base.errors import UserError
from megatron_math.base.files import (
    PIECE_BYTES,
    atomic_open,
    blake3_piece,
    num_pieces,
    read_json,
    write_json,
)
from megatron_math.base.log import log
from megatron_math.index.blocks import MAX_LINE_BYTES, LongLine, is_splittable, read_blocks
from megatron_math.index.building import Counts, IndexBuilding, Output
from megatron_math.index.journal import (
    PUBLISHING,
    WRITING,
    JobLock,
    Journal,
    beside,
    partial,
    publish,
)
from megatron_math.index.progress import EncodeProgress
from megatron_math.index.sidecar import (
    Accounting,
    describe_making,
    describe_recipe,
    describe_source,
    make_sidecar,
    read_sidecar,
)
from megatron_math.index.units import Corpus, Shard, Span
from megatron_math.index.workers import (
    BlockEncoder,
    EncodedBlock,
    EndOfSpan,
    Refused,
    Task,
    encode_in_order,
)
from megatron_math.native.output_file import PARTIAL, OutputFile
from megatron_math.native.texts import CharacterSet
from megatron_math.tokenizer import Tokenizer
from megatron_math.tokenizer.encoder import Encoder
from megatron_math.tokenizer.young_characters import young_ranges

KINDS = ("bin", "idx", "ids", "roles")
JOURNAL_BYTES = 1 << 24  # of input between two entries of the journal
JOURNAL_SECONDS = 10.0  # or so much time
MOST_UNSAVED_BYTES = 3 * JOURNAL_BYTES  # with a slow disk: wait for it; below a unit in all
NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Job:
    """What decides the bytes, and where they go.

    path: what the names of journal and lock begin with. engine: "auto" (the fastest one that
    agrees with the reference) or "reference". quarantine: JSONL of the records that no document
    was made of; there is no such file where there is no such record. shard: None for all.
    """

    path: Path
    files: Sequence[Path]
    outputs: Sequence[Output]
    tokenizer: Tokenizer
    quarantine: Path
    append_eod: bool
    engine: str = "auto"
    max_line_bytes: int = MAX_LINE_BYTES
    shard: Shard | None = None

    def made_by(self, output: Output) -> dict[str, Any]:
        """What the sidecar says of how the index was made."""
        return describe_making(self.tokenizer, self.append_eod, output.recipe, self.max_line_bytes)


class _EngineDiffersError(Exception):
    """The fast engine and the reference tokenizer disagree about a text."""


def encode_files(
    job: Job,
    *,
    num_workers: int = 1,
    max_bad: float = 0.001,
    log_interval: int = 10_000,
    label: str = "index",
) -> list[dict[str, Any]]:
    """Write one index for every output from the same files, in order; returns the sidecars.

    The bytes depend on `job` only. max_bad: the share of lines without a document (those with an
    empty text aside) that is put up with. log_interval: documents. Raises UserError for too many
    such lines, for damaged and changing files and where there is no document at all; OSError when
    the system refuses a write, BlockingIOError while another process is at it. Earlier indexes stay
    as they were then, and the same call continues.
    """
    job.path.parent.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(job.files)
    spans = corpus.spans(job.shard)
    with JobLock(job.path), Journal(job.path) as journal:
        identity = _identity(job, spans)
        entry = _usable_entry(journal, identity, spans, job)
        why: str | None = entry["engine"]["differs"] if entry else None
        while entry is None or entry["state"] != PUBLISHING:
            encoder = job.tokenizer.open_encoder("reference" if why else job.engine)
            encoder.find_young = CharacterSet(young_ranges()).texts_with
            if entry is not None and entry["engine"]["name"] != encoder.name:
                log.warning(
                    "%s was begun with %s, this is %s; starting afresh",
                    job.path, entry["engine"]["name"], encoder.name,
                )  # fmt: skip
                _forget(journal, entry, job)
                entry = None
            try:
                with _Encoding(job, corpus, spans, identity, journal, entry, encoder, why) as work:
                    entry = work.run(num_workers, max_bad, log_interval, label)
            except _EngineDiffersError as error:
                log.warning("%s; starting again with the reference tokenizer", error)
                why, entry = str(error), None
                journal.remove()
        return _publish(journal, entry, job)


def _identity(job: Job, spans: Sequence[Span]) -> dict[str, Any]:
    """What must be equal for a job to be continued; JSON."""
    return {
        "outputs": [[output.prefix.name, describe_recipe(output.recipe)] for output in job.outputs],
        "tokenizer": job.tokenizer.fingerprint,
        "append_eod": job.append_eod,
        "engine": job.engine,
        "max_line_bytes": job.max_line_bytes,
        "shard": job.shard and [job.shard.index, job.shard.count],
        "begin": spans[0].begin if spans else 0,
        "code": __version__,
    }


class _Stamps:
    """Digest of the names, sizes and times of the files behind the first spans."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans, self._count, self._digest = spans, 0, hashlib.sha256()

    def of_first(self, count: int) -> str:
        """count: never fewer than in an earlier call, so that a million files cost little."""
        for span in self._spans[self._count : count]:
            stamp = [str(span.file.path), span.file.num_bytes, span.file.changed_ns]
            self._digest.update(json.dumps(stamp).encode())
        self._count = count
        return self._digest.hexdigest()


def _usable_entry(
    journal: Journal, identity: dict[str, Any], spans: Sequence[Span], job: Job
) -> dict[str, Any] | None:
    """The journal's entry where it belongs to this job and these files; else all of it goes."""
    entry = journal.read()
    if entry is None:
        return None
    differing = [key for key in identity if entry["identity"].get(key) != identity[key]]
    if not differing and _Stamps(spans).of_first(entry["num_spans"]) != entry["stamps"]:
        differing = ["the files read"]
    is_writing = entry["state"] == WRITING  # later on the files get their final names, one by one
    for name, num_bytes in entry["partials"].items() if is_writing and not differing else ():
        path = job.path.with_name(name)
        if not path.is_file() or path.stat().st_size < num_bytes:
            differing.append(f"{name} holds less than was written")
    if not differing:
        return entry
    log.warning(
        "%s tells of an unfinished job that was another one (%s); starting afresh",
        journal.path,
        ", ".join(differing),
    )
    _forget(journal, entry, job)
    return None


def _forget(journal: Journal, entry: dict[str, Any], job: Job) -> None:
    """Remove what an unfinished job left."""
    journal.remove()
    for name in entry["partials"]:
        job.path.with_name(name).unlink(missing_ok=True)


@dataclass
class _Position:
    """Where the input goes on: a span, the byte in its file's text, the unit before it."""

    span: int = 0
    byte: int | None = None
    unit: int = -1


@dataclass
class _Progress:
    """What is known of the job so far, apart from the outputs' own counts; goes to the journal."""

    position: _Position = field(default_factory=_Position)
    lines: int = 0
    blank: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    span_lines: int = 0
    span_documents: list[int] = field(default_factory=list)
    span_pieces: int = 0
    disk_bytes: int = 0  # of the spans that are done


class _Encoding:
    """One attempt at a job, from its beginning or from where the journal ends."""

    def __init__(
        self,
        job: Job,
        corpus: Corpus,
        spans: Sequence[Span],
        identity: dict[str, Any],
        journal: Journal,
        entry: dict[str, Any] | None,
        encoder: Encoder,
        differs: str | None,
    ) -> None:
        """differs: why the fast engine was given up in the middle."""
        self._job, self._corpus, self._spans = job, corpus, spans
        self._identity, self._journal = identity, journal
        self._encoder, self._differs = encoder, differs
        is_reference = job.engine == "reference" or encoder.is_reference
        self._is_fast = not is_reference and differs is None
        self._stamps = _Stamps(spans)
        self._examples: list[str] = []
        self._is_kept = entry is not None
        self._unsaved_bytes, self._last_save = 0, time.monotonic()
        self._progress = _Progress(span_documents=[0] * len(job.outputs))
        counts: list[Counts | None] = [None] * len(job.outputs)
        keep: dict[str, int | None] = {"sources": None, "quarantine": None}
        if entry is not None:
            log.info("going on where %s ends", journal.path)
            before = dict(entry["progress"])
            before["position"] = _Position(**before["position"])
            self._progress = _Progress(**before)
            counts = [Counts(**each) for each in entry["counts"]]
            keep = entry["logs"]
        with ExitStack() as stack:
            self._hasher = ThreadPoolExecutor(2, "hash")
            stack.callback(self._hasher.shutdown, cancel_futures=True)
            self._pieces: list[deque[Future[bytes]]] = [deque() for _ in spans]
            self._buildings = []
            for output, before_counts in zip(job.outputs, counts, strict=True):
                building = IndexBuilding(output, job.tokenizer.size, before_counts)
                self._buildings.append(building)
                stack.callback(building.leave)
            self._sources = OutputFile(beside(job.path, ".sources"), keep["sources"])
            stack.callback(self._sources.leave)
            self._quarantine = OutputFile(beside(job.path, ".quarantine"), keep["quarantine"])
            stack.callback(self._quarantine.leave)
            self._stack = stack.pop_all()

    def __enter__(self) -> "_Encoding":
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self._journal.wait()
        finally:
            self._stack.close()

    def run(
        self, num_workers: int, max_bad: float, log_interval: int, label: str
    ) -> dict[str, Any]:
        """Returns the journal's last entry: all is written, nothing has its final name yet."""
        job = self._job
        total_bytes = sum(span.end - span.begin for span in self._spans)
        encoder = BlockEncoder(
            [output.recipe for output in job.outputs],
            job.tokenizer,
            self._encoder,
            job.append_eod,
            job.max_line_bytes,
            self._is_fast,
        )
        done_bytes = self._progress.disk_bytes
        results = encode_in_order(self._tasks(encoder.keys), encoder.encode, num_workers)
        shown = EncodeProgress(label, total_bytes, done_bytes, log_interval)
        with closing(results), shown as progress:  # an error here ends the threads as well
            for task, encoded in results:
                if isinstance(task, EndOfSpan):
                    self._end_span(task.span)
                    continue
                assert encoded is not None
                self._write(task, encoded)
                done_bytes = self._progress.disk_bytes + task.block.disk_bytes - task.span.begin
                progress.advance(
                    disk_bytes=done_bytes,
                    num_documents=max(column.num_documents for column in encoded.columns),
                    num_tokens=sum(column.num_tokens for column in encoded.columns),
                    text_bytes=sum(column.text_bytes for column in encoded.columns),
                )
                self._refuse_bad(max_bad, total_bytes / max(1, done_bytes))
                self._save_now_and_then()
        self._journal.wait()
        self._refuse_bad(max_bad)
        if job.shard is None and not any(b.counts.documents for b in self._buildings):
            raise UserError(
                f"no documents in {', '.join(map(str, job.files[:5]))}: "
                f"{self._progress.lines} lines, all of them blank or without text"
            )
        for span in self._spans:
            span.file.require_unchanged()
        entry = self._complete()
        log.info("%s: %d documents, %s", label, progress.num_documents, progress.rates())
        return entry

    # Reading, in the reader's thread.

    def _tasks(self, keys: Sequence[str]) -> Iterator[Task | EndOfSpan]:
        first = self._progress.position
        for number in range(first.span, len(self._spans)):
            span = self._spans[number]
            resumed = number == first.span and first.byte is not None
            begin = first.byte if resumed and first.byte is not None else span.begin
            unit = first.unit if resumed else -1
            hashed = self._progress.span_pieces if resumed else 0
            hashed += span.begin // PIECE_BYTES
            blocks = read_blocks(
                span.file.path,
                begin=begin,
                stop=span.stop,
                columns=[*keys, "id"],
                max_line_bytes=self._job.max_line_bytes,
            )
            for block in blocks:
                unit_before, unit = unit, span.unit_of(block.begin)
                is_first = unit != unit_before and not isinstance(block.content, LongLine)
                check = self._corpus.check_bytes(span.number, unit) if is_first else 0
                hashed = self._hash_pieces(number, hashed, block.disk_bytes // PIECE_BYTES)
                yield Task(span, block, unit, check)
            self._hash_pieces(number, hashed, num_pieces(span.end))
            span.file.require_unchanged()
            yield EndOfSpan(span)

    def _hash_pieces(self, number: int, first: int, end: int) -> int:
        """Begin to digest pieces that have just been read, while they are in memory."""
        span = self._spans[number]
        end = min(end, num_pieces(span.end))
        for piece in range(first, end):
            self._pieces[number].append(self._hasher.submit(blake3_piece, span.file.path, piece))
        return max(first, end)

    # Writing, in order.

    def _write(self, task: Task, encoded: EncodedBlock) -> None:
        now = self._progress
        for number, column in enumerate(encoded.columns):
            if column.differs is not None:
                raise _EngineDiffersError(
                    f"{self._encoder.name} and the reference tokenizer disagree about "
                    f"{column.differs!r:.200}"
                )
            self._buildings[number].add(column, now.position.span, now.span_lines)
            now.span_documents[number] += column.num_documents
        for line in encoded.refused:
            self._put_aside(task, line)
        now.lines += encoded.num_lines
        now.blank += encoded.num_blank
        now.span_lines += encoded.num_lines
        now.position = _Position(now.position.span, task.block.end, task.unit)
        self._unsaved_bytes += task.block.num_bytes or task.block.end - task.block.begin

    def _put_aside(self, task: Task, line: Refused) -> None:
        row = {
            "file": str(task.span.file.path),
            "line": self._progress.span_lines + line.line + 1,
            "byte": line.byte,
            "bytes": line.num_bytes,
            "reason": line.reason,
            "begins": line.begins.decode("utf-8", "backslashreplace"),
        }
        self._quarantine.append((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))
        kind, reasons = line.reason.split(":")[0], self._progress.reasons
        reasons[kind] = reasons.get(kind, 0) + 1
        if len(self._examples) < NUM_EXAMPLES:
            self._examples.append(f"{row['file']}, line {row['line']}: {row['reason']}")

    def _end_span(self, span: Span) -> None:
        now = self._progress
        self._log_pieces(len(self._pieces[now.position.span]))
        self._log_source({"end": [now.span_lines, now.span_documents]})
        now.disk_bytes += span.end - span.begin
        now.position = _Position(now.position.span + 1)
        now.span_lines = now.span_pieces = 0
        now.span_documents = [0] * len(self._buildings)

    def _log_pieces(self, count: int) -> None:
        """Note the digests of so many further pieces of the span."""
        waiting = self._pieces[self._progress.position.span]
        for _ in range(count):
            self._log_source({"piece": waiting.popleft().result().hex()})
            self._progress.span_pieces += 1

    def _log_source(self, row: dict[str, Any]) -> None:
        self._sources.append(json.dumps(row).encode() + b"\n")

    def _refuse_bad(self, max_bad: float, times_more: float | None = None) -> None:
        """UserError when more lines than allowed have no document.

        times_more: how much of the input there is for what was read, as long as there is more; then
        twice what may come of all of it is put up with.
        """
        lines = self._progress.lines
        quarantined = max(building.counts.quarantined for building in self._buildings)
        allowed = max_bad * lines * (1 if times_more is None else 2 * max(1.0, times_more))
        if quarantined <= allowed:
            return
        reasons = ", ".join(
            f"{n} x {why}" for why, n in Counter(self._progress.reasons).most_common()
        )
        self._quarantine.flush()
        quarantine = self._job.quarantine
        with (
            open(self._quarantine.partial_path, "rb") as source,
            atomic_open(quarantine, "wb") as target,
        ):
            shutil.copyfileobj(source, target)
        if self._is_kept:
            self._save()
        raise UserError(
            f"{quarantined} of {lines} lines cannot be used, more than the share of {max_bad:g} "
            f"that is allowed: {reasons}. The first: {'; '.join(self._examples)}. All of them are "
            f"in {quarantine}; mend the input, or allow more with --max-bad"
        )

    # The journal.

    def _save_now_and_then(self) -> None:
        is_due = self._unsaved_bytes >= JOURNAL_BYTES or (
            time.monotonic() > self._last_save + JOURNAL_SECONDS
        )
        if is_due and (self._journal.is_idle or self._unsaved_bytes >= MOST_UNSAVED_BYTES):
            self._save()

    def _save(self) -> None:
        """Hand all bytes to the system; a thread brings them to disk and then writes the entry."""
        now = self._progress
        span = self._spans[now.position.span] if now.position.span < len(self._spans) else None
        if span is not None and is_splittable(span.file.path) and now.position.byte is not None:
            whole = now.position.byte // PIECE_BYTES - span.begin // PIECE_BYTES
            self._log_pieces(min(len(self._pieces[now.position.span]), whole - now.span_pieces))
        self._keep_all()
        for building in self._buildings:
            building.flush()
        self._sources.flush()
        self._quarantine.flush()
        syncs = [sync for building in self._buildings for sync in building.syncs]
        syncs += [self._sources.sync_data, self._quarantine.sync_data]
        self._journal.write(self._entry(WRITING), syncs)
        self._unsaved_bytes, self._last_save = 0, time.monotonic()

    def _keep_all(self) -> None:
        self._is_kept = True
        keeping = [building.keep for building in self._buildings]
        for keep in (*keeping, self._sources.keep, self._quarantine.keep):
            keep()

    def _entry(self, state: str) -> dict[str, Any]:
        now = self._progress
        logs = {"sources": self._sources.num_bytes, "quarantine": self._quarantine.num_bytes}
        partials = {f"{self._job.path.name}.{name}{PARTIAL}": size for name, size in logs.items()}
        for building in self._buildings:
            partials |= building.partials()
        num_spans = now.position.span + (now.position.byte is not None)
        return {
            "state": state,
            "identity": self._identity,
            "num_spans": num_spans,
            "stamps": self._stamps.of_first(num_spans),
            "engine": {"name": self._encoder.name, "differs": self._differs},
            "progress": asdict(now),
            "counts": [asdict(building.counts) for building in self._buildings],
            "logs": logs,
            "partials": partials,
        }

    # The end.

    def _complete(self) -> dict[str, Any]:
        """Write what is missing, sidecars too; returns the journal's last entry."""
        sources = self._read_sources()
        names = [str(span.file.path) for span in self._spans]
        outputs = []
        for number, building in enumerate(self._buildings):
            files = building.complete(names)
            sidecar = self._sidecar(building, files, sources, number)
            path = partial(building.output.path(".json"))
            write_json(path, sidecar)
            sizes: dict[str, int | None] = {
                f".{kind}": facts["bytes"] if facts else None for kind, facts in files.items()
            }
            sizes[".json"] = path.stat().st_size
            outputs.append([building.output.prefix.name, sizes])
        self._quarantine.sync()
        self._keep_all()
        entry = self._entry(PUBLISHING) | {"outputs": outputs}
        self._journal.write(entry, [])
        self._journal.wait()
        return entry

    def _read_sources(self) -> list[dict[str, Any]]:
        """Of each span: lines, documents of each output, digests of pieces."""
        self._sources.flush()
        found: list[dict[str, Any]] = []
        pieces: list[str] = []
        with open(self._sources.partial_path, "rb") as file:
            for line in file:
                row = json.loads(line)
                if "piece" in row:
                    pieces.append(row["piece"])
                else:
                    lines, documents = row["end"]
                    found.append({"lines": lines, "documents": documents, "pieces": pieces})
                    pieces = []
        assert len(found) == len(self._spans), (len(found), len(self._spans))
        return found

    def _sidecar(
        self,
        building: IndexBuilding,
        files: dict[str, dict[str, Any] | None],
        sources: Sequence[dict[str, Any]],
        number: int,
    ) -> dict[str, Any]:
        job, counts = self._job, building.counts
        accounting = Accounting(
            lines=self._progress.lines,
            written=counts.documents,
            empty=self._progress.blank + counts.empty,
            quarantined=counts.quarantined,
        )
        accounting.require_balance(building.output.prefix)
        return make_sidecar(
            accounting=accounting,
            tokens=counts.tokens,
            text_bytes=counts.text_bytes,
            dtype=building.writer.dtype.name,
            made_by=job.made_by(building.output),
            engine={
                "name": self._encoder.name,
                "why": self._differs or self._encoder.why,
                "compared": counts.compared,
            },
            sources=[
                describe_source(span, facts["pieces"], facts["lines"], facts["documents"][number])
                for span, facts in zip(self._spans, sources, strict=True)
            ],
            files=files,
            shard=self._describe_shard(),
        )

    def _describe_shard(self) -> dict[str, Any] | None:
        shard = self._job.shard
        if shard is None:
            return None
        corpus = self._corpus.fingerprint()
        return {"index": shard.index, "count": shard.count, "corpus": corpus}


def _publish(journal: Journal, entry: dict[str, Any], job: Job) -> list[dict[str, Any]]:
    """Final names for all files of a job whose last entry this is; returns the sidecars."""
    num_bytes = entry["logs"]["quarantine"]
    quarantine = beside(job.path, ".quarantine")
    if num_bytes and partial(quarantine).exists():
        job.quarantine.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial(quarantine), job.quarantine)
    elif not num_bytes:
        job.quarantine.unlink(missing_ok=True)
    for name, sizes in entry["outputs"]:
        publish(job.path.with_name(name), sizes)
    for name in entry["partials"]:
        job.path.with_name(name).unlink(missing_ok=True)  # logs that have served
    journal.remove()
    return [read_json(output.path(".json")) for output in job.outputs]


def reusable_sidecar(job: Job, output: Output) -> dict[str, Any] | None:
    """The sidecar of an index that is there already and would come out the same; else None."""
    sidecar = read_sidecar(output.prefix)
    spans = Corpus(job.files).spans(job.shard)
    same = (
        sidecar is not None
        and all(sidecar[key] == value for key, value in job.made_by(output).items())
        and (sidecar["shard"] is None) == (job.shard is None)
        and (job.engine == "auto" or sidecar["engine"]["name"] == _reference_name(job))
        and all(_has_bytes(output.path("." + kind), sidecar[kind]) for kind in KINDS)
        and len(sidecar["sources"]) == len(spans)
        and all(map(_is_as_described, spans, sidecar["sources"]))
    )
    return sidecar if same else None


def _reference_name(job: Job) -> str:
    return job.tokenizer.open_encoder("reference").name


def _has_bytes(path: Path, facts: dict[str, Any] | None) -> bool:
    if facts is None:
        return not path.exists()
    return path.is_file() and path.stat().st_size == facts["bytes"]


def _is_as_described(span: Span, source: dict[str, Any]) -> bool:
    if (source["path"], source["bytes"]) != (str(span.file.path), span.file.num_bytes):
        return False
    first, end = span.begin // PIECE_BYTES, num_pieces(span.end)
    pieces = [blake3_piece(span.file.path, piece).hex() for piece in range(first, end)]
    return source == describe_source(span, pieces, source["lines"], source["documents"])
