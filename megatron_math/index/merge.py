"""Many indexes of one tokenizer become one, streaming: what indexing all their input would write.

Reads `<prefix>.{bin,idx,ids,roles,json}`, writes the same. Nothing of the size of an index is kept
in memory, and the final names change when everything is written.
"""

import json
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from megatron_math.base.errors import UserError
from megatron_math.base.files import CHUNK_BYTES, atomic_open, blake3_file, write_json
from megatron_math.base.log import log
from megatron_math.dataset.documents import ROLES, IndexedDocuments
from megatron_math.index.journal import JobLock, beside, partial, publish
from megatron_math.index.record_ids import RecordIds, RecordIdsWriter
from megatron_math.index.sidecar import (
    MAKING,
    Accounting,
    make_sidecar,
    read_sidecar,
    whole_digest,
)
from megatron_math.index.units import Shard
from megatron_math.native.output_file import OutputFile
from megatron_math.native.reference_index_writer import MAGIC, VERSION

HEADER = struct.Struct("<9sQBQQ")  # of .idx: magic, version, type of the ids, sequences, boundaries
ROWS_TOGETHER = 1 << 18
Json = dict[str, Any]


class _Part:
    """One of the indexes that are merged."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.index = IndexedDocuments(prefix)
        self.sidecar = read_sidecar(prefix)
        ids = beside(prefix, ".ids")
        self.ids = RecordIds(ids) if ids.is_file() else None
        self.has_roles = self.index.roles_path.is_file()
        with open(self.index.idx_path, "rb") as file:
            _, _, self.dtype_code, _, num_boundaries = HEADER.unpack(file.read(HEADER.size))
        at = HEADER.size + 12 * len(self.index)
        if self.index.idx_path.stat().st_size != at + 8 * num_boundaries:
            raise UserError(f"{prefix} has modes (multimodal data), which cannot be merged here")
        self.boundaries = np.memmap(self.index.idx_path, np.int64, "r", at, (num_boundaries,))

    @property
    def sources(self) -> list[Json]:
        """What its documents came from, as the files in `ids` are numbered."""
        if self.sidecar is not None:
            return self.sidecar["sources"]
        return [{"path": path} for path in self.ids.files] if self.ids is not None else []

    def require_whole(self, verify: bool) -> None:
        """UserError where lengths, pointers, boundaries, lineage and roles do not fit together.

        verify: compare the digests with the sidecar's, too.
        """
        self.index.check_pointers()
        last = 0
        for first in range(0, len(self.boundaries), ROWS_TOGETHER):
            boundaries = np.append(last, self.boundaries[first : first + ROWS_TOGETHER])
            if (np.diff(boundaries) < 0).any() or (first == 0 and boundaries[1] != 0):
                last = -1
                break
            last = int(boundaries[-1])
        if last != len(self.index):
            raise UserError(
                f"{self.index.idx_path} is damaged: its document boundaries do not rise from 0 to "
                f"{len(self.index)}; write the index again"
            )
        if self.ids is not None and len(self.ids) != len(self.index):
            raise UserError(
                f"{self.prefix}.ids tells of {len(self.ids)} documents, the index has "
                f"{len(self.index)}; write the index again"
            )
        if self.has_roles:
            self.index.require_roles("merging")
        if self.sidecar is None or not verify:
            return
        for kind in ("bin", "idx", "ids", "roles"):
            told = self.sidecar[kind]
            if told is not None and blake3_file(beside(self.prefix, f".{kind}")) != told["blake3"]:
                raise UserError(
                    f"{self.prefix}.{kind} is not what its sidecar describes; write it again"
                )


def merge_indexes(prefixes: Sequence[Path], output: Path, *, verify: bool = False) -> Json | None:
    """Write `<output>.*` with the documents of all indexes in this order; returns the sidecar.

    Parts of one file that follow each other (shards) become that file again. Where the inputs have
    no sidecars or lineage (written by megatron-core), the output has none: None is returned.
    verify: compare the inputs with the digests in their sidecars first. Raises UserError for inputs
    that are damaged, that another tokenizer or recipe wrote, or of which only some have a sidecar,
    lineage or roles; OSError when the system refuses a write. An older output stays as it was then.
    """
    if output in prefixes or len(set(prefixes)) < len(prefixes):
        raise UserError(f"an index is there twice among {[*map(str, prefixes)]} and {output}")
    parts = [_Part(prefix) for prefix in prefixes]
    _require_alike(parts)
    for part in parts:
        part.require_whole(verify)
    sources, numbers, lines_before = _join_sources(parts)
    output.parent.mkdir(parents=True, exist_ok=True)
    with JobLock(output), ExitStack() as stack:
        written: list[OutputFile] = []

        def new(suffix: str) -> OutputFile:
            written.append(stack.enter_context(OutputFile(beside(output, suffix))))
            return written[-1]

        files: Json = {"bin": _write_bin(parts, new(".bin")), "idx": _write_idx(parts, new(".idx"))}
        files["ids"] = files["roles"] = None
        if parts[0].ids is not None:
            writer = RecordIdsWriter(beside(output, ".ids"))
            written.append(writer.parts[0])
            for file in writer.parts:
                stack.callback(file.leave)
            files["ids"] = _write_ids(parts, writer, sources, numbers, lines_before)
        if any(part.has_roles for part in parts):
            files["roles"] = _write_roles(parts, new(".roles"))
        sizes = {f".{kind}": facts and facts["bytes"] for kind, facts in files.items()}
        sidecar = None
        sizes[".json"] = None
        if parts[0].sidecar is not None:
            sidecar = _merge_sidecars([p.sidecar for p in parts if p.sidecar], sources, files)
            Accounting(**sidecar["accounting"]).require_balance(output)
            write_json(partial(beside(output, ".json")), sidecar)
            stack.callback(partial(beside(output, ".json")).unlink, missing_ok=True)
            sizes[".json"] = partial(beside(output, ".json")).stat().st_size
        else:
            log.warning("%s: the inputs have no sidecars, so the output has none", output)
        for file in written:
            file.keep()
        publish(output, sizes)
    return sidecar


def merge_shards(prefix: Path, shards: Sequence[Path]) -> Json:
    """Make the index `prefix` of all its shards, which stay; returns the sidecar.

    Raises UserError where they were made of different files or by different engines.
    """
    sidecars = [read_sidecar(path) or {} for path in shards]
    for what, values in (
        ("files", [sidecar["shard"]["corpus"] for sidecar in sidecars]),
        ("engines", [sidecar["engine"]["name"] for sidecar in sidecars]),
    ):
        other = next((i for i, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            remedy = " with the reference tokenizer (--engine reference)" * (what == "engines")
            raise UserError(
                f"{prefix}: shards 0 and {other} were made of different {what} "
                f"({values[0][:20]}, {values[other][:20]}; "
                f"{sidecars[other]['engine']['why']:.200}); run all shards again{remedy}"
            )
    merged = merge_indexes(shards, prefix)
    assert merged is not None, shards
    if not merged["documents"]:
        raise UserError(f"{prefix}: there is no document in any of the {len(shards)} shards")
    return merged


def find_shards(prefix: Path) -> list[Path]:
    """Prefixes of all shards of an index. UserError where one is missing or several splits are."""
    pattern = re.compile(re.escape(prefix.name) + r"\.shard-(\d+)-of-(\d+)\.json")
    matches = [pattern.fullmatch(path.name) for path in prefix.parent.iterdir()]
    found = {(int(match[2]), int(match[1])) for match in matches if match}
    counts = sorted({count for count, _ in found})
    if not counts:
        raise UserError(f"{prefix} has no shards; write them with --shard I/N first")
    if len(counts) > 1:
        raise UserError(f"{prefix} has shards of splits in {counts}; remove those of all but one")
    missing = [index for index in range(counts[0]) if (counts[0], index) not in found]
    if missing:
        raise UserError(
            f"{prefix}: of {counts[0]} shards these are not finished: "
            f"{', '.join(map(str, missing[:20]))}; run them again with --shard I/{counts[0]}"
        )
    return [beside(prefix, Shard(index, counts[0]).suffix) for index in range(counts[0])]


def _require_alike(parts: Sequence[_Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        both = f"{first.prefix} and {part.prefix}"
        if part.dtype_code != first.dtype_code:
            raise UserError(
                f"{both} hold {first.index.dtype} and {part.index.dtype} ids: they were written "
                f"for vocabularies of different size and cannot be one"
            )
        for what, has in (("a sidecar", "sidecar"), ("record ids", "ids")):
            if (getattr(first, has) is None) != (getattr(part, has) is None):
                raise UserError(
                    f"{both}: only one of them has {what}; index both with this program, or take "
                    f"{what} away from the other"
                )
        if first.sidecar is None or part.sidecar is None:
            continue
        for key in MAKING:
            if first.sidecar[key] != part.sidecar[key]:
                raise UserError(
                    f"{both} differ in {key}: {first.sidecar[key]} and {part.sidecar[key]}; only "
                    f"indexes made in one way can be one"
                )
    is_split = all(part.sidecar and part.sidecar["shard"] for part in parts)
    if len({part.has_roles for part in parts}) > 1 and not is_split:
        without = [str(part.prefix) for part in parts if not part.has_roles]
        raise UserError(
            f"some of these indexes have roles, but not {', '.join(without)}; index the latter "
            f"again from problem/solution records, or merge them apart"
        )


def _join_sources(
    parts: Sequence[_Part],
) -> tuple[list[Json], list[npt.NDArray[np.int32]], list[npt.NDArray[np.int64]]]:
    """(all sources, and for every part: number among them of its files, lines before its own)."""
    joined: list[Json] = []
    numbers, lines_before = [], []
    for part in parts:
        own_numbers, own_lines = [], []
        for source in part.sources:
            last = joined[-1] if joined else {}
            follows = source.get("begin", 0) > 0 and (
                (last.get("path"), last.get("bytes"), last.get("stop"))
                == (source["path"], source["bytes"], source["begin"])
            )
            if not follows:
                joined.append(dict(source))
            own_numbers.append(len(joined) - 1)
            own_lines.append(last["lines"] if follows else 0)
            if follows:
                last["stop"] = source["stop"]
                last["pieces"] = last["pieces"] + source["pieces"]
                last["lines"] += source["lines"]
                last["documents"] += source["documents"]
        numbers.append(np.array(own_numbers, np.int32))
        lines_before.append(np.array(own_lines, np.int64))
    return [_closed(source) for source in joined], numbers, lines_before


def _closed(source: Json) -> Json:
    """Of a file that is whole again the digest."""
    if "pieces" not in source or source["begin"] != 0 or source["stop"] is not None:
        return source
    rest = {key: source[key] for key in ("lines", "documents")}
    return (
        {"path": source["path"], "bytes": source["bytes"]} | whole_digest(source["pieces"]) | rest
    )


def _merge_sidecars(sidecars: Sequence[Json], sources: Sequence[Json], files: Json) -> Json:
    def total(*keys: str) -> int:
        values: Any = sidecars
        for key in keys:
            values = [value[key] for value in values]
        return sum(values)

    def all_of(key: str) -> str:
        return "; ".join(dict.fromkeys(sidecar["engine"][key] for sidecar in sidecars))

    first = sidecars[0]
    return make_sidecar(
        accounting=Accounting(*(total("accounting", key) for key in first["accounting"])),
        tokens=total("tokens"),
        text_bytes=total("text_bytes"),
        dtype=first["dtype"],
        made_by={key: first[key] for key in MAKING}
        | {"max_line_bytes": max(sidecar["max_line_bytes"] for sidecar in sidecars)},
        engine={
            "name": all_of("name"),
            "why": all_of("why"),
            "compared": total("engine", "compared"),
        },
        sources=sources,
        files=files,
        shard=None,
    )


def _write_bin(parts: Sequence[_Part], file: OutputFile) -> Json:
    return _write(file, (chunk for part in parts for chunk in _chunks(part.index.bin_path)))


def _write_roles(parts: Sequence[_Part], file: OutputFile) -> Json:
    return _write(file, (chunk for part in parts for chunk in _roles_of(part)))


def _roles_of(part: _Part) -> Iterator[bytes]:
    if part.has_roles:
        yield from _chunks(part.index.roles_path)
        return
    for first in range(0, part.index.num_tokens, CHUNK_BYTES):  # a shard of plain texts alone
        count = min(CHUNK_BYTES, part.index.num_tokens - first)
        yield bytes([ROLES["other"]]) * count


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _write(file: OutputFile, chunks: Iterator[bytes]) -> Json:
    digest = blake3()
    for chunk in chunks:
        file.append(chunk)
        digest.update(chunk)
    file.sync()
    return {"bytes": file.num_bytes, "blake3": digest.hexdigest()}


def _write_idx(parts: Sequence[_Part], file: OutputFile) -> Json:
    return _write(file, _idx_chunks(parts))


def _idx_chunks(parts: Sequence[_Part]) -> Iterator[bytes]:
    """Lengths, then pointers, then document boundaries; the latter two count on."""
    num_sequences = sum(len(part.index) for part in parts)
    num_boundaries = 1 + sum(len(part.boundaries) - 1 for part in parts)
    code = parts[0].dtype_code
    yield HEADER.pack(MAGIC, VERSION, code, num_sequences, num_boundaries)
    for part in parts:
        yield from _shifted(part.index.lengths_D, np.int32, 0)
    begin = 0
    for part in parts:
        for first in range(0, len(part.index), ROWS_TOGETHER):
            lengths = part.index.lengths_D[first : first + ROWS_TOGETHER].astype(np.int64)
            ends = begin + np.cumsum(lengths) * part.index.dtype.itemsize
            yield np.append(begin, ends[:-1]).tobytes()
            begin = int(ends[-1])
    begin = 0
    yield bytes(8)
    for part in parts:
        yield from _shifted(part.boundaries[1:], np.int64, begin)
        begin += len(part.index)


def _shifted(values: npt.NDArray, dtype: type, by: int) -> Iterator[bytes]:
    for first in range(0, len(values), ROWS_TOGETHER):
        yield (values[first : first + ROWS_TOGETHER] + dtype(by)).tobytes()


def _write_ids(
    parts: Sequence[_Part],
    writer: RecordIdsWriter,
    sources: Sequence[Json],
    numbers: Sequence[npt.NDArray[np.int32]],
    lines_before: Sequence[npt.NDArray[np.int64]],
) -> Json:
    for part, own_numbers, own_lines in zip(parts, numbers, lines_before, strict=True):
        assert part.ids is not None, part.prefix
        before = writer.text_bytes
        for first in range(0, len(part.ids), ROWS_TOGETHER):
            rows = part.ids.rows[first : first + ROWS_TOGETHER].copy()
            rows["begin"] += before
            rows["line"] += own_lines[rows["file"]]
            rows["file"] = own_numbers[rows["file"]]
            writer.add_rows(rows)
        for first in range(0, part.ids.text_bytes, CHUNK_BYTES):
            writer.add_text(part.ids.text[first : first + CHUNK_BYTES])
    writer.complete([source["path"] for source in sources])
    path = writer.parts[0].partial_path
    return {"bytes": path.stat().st_size, "blake3": blake3_file(path)}


def merge_quarantines(shards: Sequence[Path], paths: Sequence[Path], final: Path) -> None:
    """One list of what the shards put aside, with lines that count from each file's beginning.

    paths: the lists, shard by shard, as far as they are there. Without any there is no `final`.
    """
    if not any(path.is_file() for path in paths):
        final.unlink(missing_ok=True)
        return
    parts = [_Part(shard) for shard in shards]
    _, _, lines_before = _join_sources(parts)
    with atomic_open(final) as target:
        for part, path, before in zip(parts, paths, lines_before, strict=True):
            lines_of = dict(zip((s["path"] for s in part.sources), before.tolist(), strict=True))
            with open(path, "rb") if path.is_file() else nullcontext(()) as lines:
                for line in lines:
                    row = json.loads(line)
                    row["line"] += lines_of[row["file"]]
                    target.write(json.dumps(row, ensure_ascii=False) + "\n")
