"""The sidecar `<prefix>.json`: what an index holds, what made it, and from what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import blake3_of_pieces, read_json
from megatron_math.base.log import log
from megatron_math.index.journal import beside
from megatron_math.index.recipes import Recipe
from megatron_math.index.units import Span
from megatron_math.tokenizer import Tokenizer

FORMAT, VERSION = "megatron-math index", 3


@dataclass(frozen=True)
class Accounting:
    """Where all lines went: empty are blank ones and those whose text is empty."""

    lines: int
    written: int
    empty: int
    quarantined: int

    def require_balance(self, prefix: Path) -> None:
        """Say it, and refuse to end when a line is missing."""
        told = (
            f"{prefix}: {self.lines} lines = {self.written} written + {self.empty} empty + "
            f"{self.quarantined} quarantined"
        )
        if self.lines != self.written + self.empty + self.quarantined:
            raise RuntimeError(f"{told} does not add up; this is a fault of the program")
        log.info("%s", told)


def make_sidecar(
    *,
    accounting: Accounting,
    tokens: int,
    text_bytes: int,
    dtype: str,
    made_by: Mapping[str, Any],
    engine: Mapping[str, Any],
    sources: Sequence[Mapping[str, Any]],
    files: Mapping[str, Any],
    shard: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """made_by: what `describe_making` gives. files: `bytes` and `blake3` (or None) by kind."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "documents": accounting.written,
        "tokens": tokens,
        "text_bytes": text_bytes,
        "accounting": {
            "lines": accounting.lines,
            "written": accounting.written,
            "empty": accounting.empty,
            "quarantined": accounting.quarantined,
        },
        "dtype": dtype,
        **made_by,
        "engine": dict(engine),
        "sources": [dict(source) for source in sources],
        **files,
        "shard": shard,
    }


# What must be equal for indexes to be parts of one.
MAKING = ("tokenizer", "append_eod", "prepend_bos", "recipe")


def describe_making(
    tokenizer: Tokenizer, append_eod: bool, recipe: Recipe, max_line_bytes: int
) -> dict[str, Any]:
    """What decides, together with the sources, how the index comes out."""
    return {
        "tokenizer": tokenizer.describe(),
        "append_eod": append_eod,
        "prepend_bos": tokenizer.adds_bos,
        "recipe": describe_recipe(recipe),
        "max_line_bytes": max_line_bytes,
    }


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    return {"key": recipe.key, "template": recipe.template, "chat": recipe.chat}


def describe_source(
    span: Span, pieces: Sequence[str], lines: int, documents: int
) -> dict[str, Any]:
    """What was read of one file. pieces: blake3 of its 64 MiB pieces that the span covers."""
    described: dict[str, Any] = {"path": str(span.file.path), "bytes": span.file.num_bytes}
    if span.is_whole:
        described |= whole_digest(pieces)
    else:
        described |= {"begin": span.begin, "stop": span.stop, "pieces": list(pieces)}
    return described | {"lines": lines, "documents": documents}


def whole_digest(pieces: Sequence[str]) -> dict[str, str]:
    return {"blake3_64mib": blake3_of_pieces(map(bytes.fromhex, pieces))}


def read_sidecar(prefix: Path) -> dict[str, Any] | None:
    """None where there is none. UserError for one of another version."""
    path = beside(prefix, ".json")
    if not path.is_file():
        return None
    sidecar = read_json(path)
    if sidecar.get("format") != FORMAT or sidecar.get("version") != VERSION:
        raise UserError(
            f"{path} is no sidecar of version {VERSION} (found {sidecar.get('format')!r}, "
            f"{sidecar.get('version')!r}); write the index again"
        )
    return sidecar
