"""Equal records: the same address, or the same words in the same order."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

from megatron_math.base.records import Record

SEARCH_TEMPLATE = "{problem}\n{solution}"
"""What is compared of a problem; the words of the training template are everywhere the same."""

_TRACKING = {"fbclid", "gclid", "dclid", "msclkid", "yclid", "igshid", "mc_cid", "mc_eid"}
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Sieve(Protocol):
    """Decides about records in the order in which they come."""

    def judge(self, records: Sequence[Record]) -> list[dict[str, Any] | None]:
        """For each record the fields that it gets when it is dropped, or None to keep it."""
        ...


def text_of(record: Record) -> str:
    """The text that duplicates and benchmark rows are looked for in."""
    return record.render(SEARCH_TEMPLATE)


def digest(record: Record) -> bytes:
    """16 bytes; equal for the same words in the same order, whatever the spacing and the case."""
    text = " ".join(text_of(record).split()).casefold()
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class SameText:
    """Drops a text that came before, in any source. Remembers 16 bytes of each, and its record."""

    def __init__(self) -> None:
        self._first: dict[bytes, tuple[str, str]] = {}

    def judge(self, records: Sequence[Record]) -> list[dict[str, Any] | None]:
        return [_repeat("duplicate", self._first, digest(record), record) for record in records]


class SameUrl:
    """Drops a record whose `meta.url` came before, in any source; records without one stay."""

    def __init__(self) -> None:
        self._first: dict[bytes, tuple[str, str]] = {}

    def judge(self, records: Sequence[Record]) -> list[dict[str, Any] | None]:
        drops: list[dict[str, Any] | None] = []
        for record in records:
            url = record.meta.get("url")
            drop = None
            if isinstance(url, str) and url.strip():
                normal = normal_url(url)
                key = hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=16)
                drop = _repeat("same url", self._first, key.digest(), record)
                if drop is not None:
                    drop["url"] = normal
            drops.append(drop)
        return drops


def normal_url(url: str) -> str:
    """An address without what does not change the page: scheme, `www.`, the default port, case of
    the host, fragment, a last slash, parameters that follow readers, the order of the others."""
    url = url.strip()
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return url
    if not host:
        return url
    if port is not None and port != _DEFAULT_PORTS.get(parts.scheme or "http"):
        host = f"{host}:{port}"
    asked = [
        (key, value)
        for key, value in parse_qsl(parts.query, keep_blank_values=True)
        if key.lower() not in _TRACKING and not key.lower().startswith("utm_")
    ]
    query = f"?{urlencode(sorted(asked))}" if asked else ""
    return host.removeprefix("www.") + parts.path.rstrip("/") + query


def _repeat(
    reason: str, first: dict[bytes, tuple[str, str]], key: bytes, record: Record
) -> dict[str, Any] | None:
    known = first.get(key)
    if known is None:
        first[key] = (record.source, record.id)
        return None
    return {"reason": reason, "first": {"source": known[0], "id": known[1]}}
