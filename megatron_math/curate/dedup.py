"""Exact duplicates: the same words in the same order, whatever the spacing and the case."""

import hashlib

from megatron_math.base.records import Record


class SeenBefore:
    """Remembers every text that it was shown, 16 bytes of digest each, and who brought it first."""

    def __init__(self) -> None:
        self._first: dict[bytes, tuple[str, str]] = {}

    def first(self, record: Record) -> tuple[str, str] | None:
        """(source, id) of the record that had this text before, or None for a new text."""
        text = " ".join(record.render("{problem}\n{solution}").split()).casefold()
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
        known = self._first.get(digest)
        if known is None:
            self._first[digest] = (record.source, record.id)
        return known
