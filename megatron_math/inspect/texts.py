"""The tokenizer that belongs to an index or a plan, found by its fingerprint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.tokenizer import Tokenizer, load_tokenizer

CONTEXT_TOKENS = 4


def find_tokenizer(
    given: Path | None, near: Sequence[Path], described: dict[str, Any] | None
) -> Tokenizer | None:
    """The tokenizer at `given`, or the first of the folders `near` with the right fingerprint.

    described: the `tokenizer` entry of a sidecar or plan; None where the index tells nothing, and
    then any tokenizer is taken. Returns None when none is found. Raises UserError when `given` is
    not the one that wrote the tokens.
    """
    wanted = described["fingerprint"] if described else None
    if given is not None:
        tokenizer = load_tokenizer(given)
        if wanted not in (None, tokenizer.fingerprint):
            raise UserError(
                f"the tokenizer {given} ({tokenizer.kind}, size {tokenizer.size}) is not the one "
                f"that wrote these tokens ({described and described['kind']}, size "
                f"{described and described['size']}): fingerprint {tokenizer.fingerprint[:12]}, "
                f"{str(wanted)[:12]} is needed"
            )
        return tokenizer
    for folder in near:
        if folder.is_dir():
            tokenizer = load_tokenizer(folder)
            if wanted in (None, tokenizer.fingerprint):
                return tokenizer
    return None


def decode(tokenizer: Tokenizer | None, ids: Sequence[int]) -> str | None:
    """The text of `ids`; ids that the tokenizer does not have are written as ⟨number⟩."""
    if tokenizer is None:
        return None
    parts: list[str] = []
    known: list[int] = []
    for identity in [*map(int, ids), None]:
        if identity is not None and 0 <= identity < tokenizer.size:
            known.append(identity)
            continue
        parts.append(tokenizer.decode(known) if known else "")
        known = []
        if identity is not None:
            parts.append(f"⟨{identity}⟩")
    return "".join(parts)


def decode_part(
    tokenizer: Tokenizer | None, ids: Sequence[int], start: int, end: int
) -> str | None:
    """What ids[start:end] add to the text; EOD and BOS, which have no text, are ⟨eod⟩ and ⟨bos⟩.

    Some tokenizers drop a space at the start of what they decode, so a few ids before the part
    are decoded with it and taken off again.
    """
    if tokenizer is None:
        return None
    marks = {tokenizer.eod_id: "⟨eod⟩"}
    if tokenizer.bos_id is not None:
        marks.setdefault(tokenizer.bos_id, "⟨bos⟩")
    parts, first = [], start
    for place in range(start, end + 1):
        if place == end or ids[place] in marks:
            if place > first:
                parts.append(_added_text(tokenizer, ids, first, place))
            if place < end:
                parts.append(marks[ids[place]])
            first = place + 1
    return "".join(parts)


def _added_text(tokenizer: Tokenizer, ids: Sequence[int], start: int, end: int) -> str:
    before = decode(tokenizer, ids[max(0, start - CONTEXT_TOKENS) : start]) or ""
    both = decode(tokenizer, ids[max(0, start - CONTEXT_TOKENS) : end]) or ""
    if both.startswith(before):
        return both[len(before) :]
    return decode(tokenizer, ids[start:end]) or ""  # a character cut in two
