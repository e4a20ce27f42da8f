"""Jobs in miniature: a tokenizer of bytes, units of kilobytes, corpora of every kind."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megatron_math.base import files as files_module
from megatron_math.index import blocks, encode, units, workers
from megatron_math.index.building import Output
from megatron_math.index.encode import Job
from megatron_math.index.journal import beside
from megatron_math.index.recipes import Recipe
from megatron_math.index.units import Shard
from megatron_math.tokenizer import Tokenizer
from megatron_math.tokenizer.encoder import Encoder, differing_texts

UNIT_BYTES, BLOCK_BYTES = 4096, 512


def shrink_units(put: Callable[[Any, str, int], None] = setattr) -> None:
    """Units of 4 KiB, blocks of 512 bytes, a journal every 2 KiB."""
    for name, value, modules in (
        ("PIECE_BYTES", UNIT_BYTES, (files_module, encode)),
        ("UNIT_BYTES", UNIT_BYTES, (blocks, units)),
        ("BLOCK_BYTES", BLOCK_BYTES, (blocks, workers)),
        ("JOURNAL_BYTES", 2048, (encode,)),
        ("MOST_UNSAVED_BYTES", 3072, (encode,)),
    ):
        for module in modules:
            assert hasattr(module, name), (module, name)
            put(module, name, value)


class ByteEncoder(Encoder):
    """Every byte + 2 is an id; for the letter `odd` it is 300."""

    def __init__(self, name: str, odd: str = "") -> None:
        self.name, self.why, self._odd = name, "a test", odd

    def encode_flat(self, text: Any, offsets: Any) -> tuple[Any, Any]:
        ids = text[offsets[0] : offsets[-1]].astype(np.int32) + 2
        if self._odd:
            ids[ids == ord(self._odd) + 2] = 300
        return ids, np.diff(offsets).astype(np.int32)


class ByteTokenizer(Tokenizer):
    """Ids: 0 BOS, 1 EOD, then bytes. odd: the letter that its fast engine is wrong about."""

    kind, library, size, eod_id, bos_id, adds_bos = "ByteTokenizer", "bytes", 301, 1, 0, True
    chat_template = None  # type: ignore[assignment]

    def __init__(self, odd: str = "") -> None:
        self.fingerprint, self._odd = "bytes", odd

    def open_encoder(self, engine: str = "auto") -> Encoder:
        if engine == "reference":
            return ByteEncoder("reference 1")
        return ByteEncoder("fast 1", self._odd)

    def check_encoder(self, encoder: Encoder, text: Any, offsets: Any) -> list[int]:
        return differing_texts(encoder, self.open_encoder("reference"), text, offsets)

    def token_ends(self, text: Any, offsets: Any, ids: Any, lengths: Any) -> Any:
        return np.concatenate([np.arange(1, n + 1) for n in lengths] or [np.empty(0, np.int64)])

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[byte + 2 for byte in text.encode()] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i - 2 for i in ids if i > 1).decode()

    def _unused(self, *_: Any) -> Any:
        raise NotImplementedError

    save = save_hf = engine_json = with_names_as_ids = _unused  # type: ignore[assignment]
    special_names = names_in_text = _reference_ends = _unused  # type: ignore[assignment]


BAD_LINES = [
    b"not json",
    b'{"body": "\xff"}',
    b"[1]",
    b'{"other": "x"}',
    b'{"body": 3}',
    b"",
    b"  ",
]


def lines_of(seed: int, count: int) -> bytes:
    """Records with and without ids, long and short, every 13th line of another kind."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(count):
        if i % 13 == 12:
            lines.append(BAD_LINES[int(rng.integers(len(BAD_LINES)))])
            continue
        row: dict[str, Any] = {"body": "wörds " * int(rng.integers(0, 40)) + str(i)}
        row["body"] = "" if i % 29 == 28 else row["body"]
        if i % 3:
            row["id"] = f"s{seed}-{i}"
        row |= {"problem": f"What is {i} + 1?", "solution": f"It is {i + 1}."}
        lines.append(json.dumps(row, ensure_ascii=bool(i % 2)).encode())
    return b"\n".join(lines) + b"\n" * (seed % 2)


def write_corpora(folder: Path, count: int = 150) -> list[Path]:
    """Plain lines of many units, a packed file, parquet, an empty and a small file."""
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("a b.jsonl", "b\nß.jsonl.gz", "c.parquet", "d.jsonl")]
    paths[0].write_bytes(lines_of(1, count))
    paths[1].write_bytes(gzip.compress(lines_of(2, count // 2)))
    rows = [{"body": f"row {i} " * 9, "id": i, "problem": "p", "solution": "s"} for i in range(40)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), paths[2], row_group_size=16)
    paths[3].write_bytes(b"")
    paths.append(folder / "e.json")
    paths[4].write_bytes(b"\xef\xbb\xbf" + lines_of(3, 9))
    return paths


def make_job(
    folder: Path,
    files: Sequence[Path],
    *,
    tokenizer: Tokenizer | None = None,
    recipes: dict[str, Recipe] | None = None,
    shard: Shard | None = None,
    **changes: Any,
) -> Job:
    """Two indexes, of plain texts and of problems with roles, under folder/x_*."""
    recipes = recipes or {"body": Recipe(key="body"), "qa": Recipe(template="{problem} {solution}")}
    suffix = shard.suffix if shard else ""
    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        path=folder / f"x{suffix}",
        files=files,
        outputs=[Output(folder / f"x_{n}_document{suffix}", r) for n, r in recipes.items()],
        tokenizer=tokenizer or ByteTokenizer(),
        quarantine=beside(folder / "x", f"_quarantine{suffix}.jsonl"),
        append_eod=True,
        shard=shard,
        **changes,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
