"""Equal records: the same address, or the same words in the same order."""

import hashlib
from bisect import bisect_right
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from megatron_math.base.records import Record
from megatron_math.native.text_digests import DIGEST_BYTES
from megatron_math.native.texts import ByteArray, Int64Array

SEARCH_TEMPLATE = "{problem}\n{solution}"
"""What is compared of a problem; the words of the training template are everywhere the same."""

_TRACKING = {"fbclid", "gclid", "dclid", "msclkid", "yclid", "igshid", "mc_cid", "mc_eid"}
_DEFAULT_PORTS = {"http": 80, "https": 443}


def text_of(record: Record) -> str:
    """The text that duplicates and benchmark rows are looked for in."""
    return record.render(SEARCH_TEMPLATE)


def url_key(url: Any) -> bytes | None:
    """The digest of a `meta.url`, the same for addresses of the same page; None: it is none."""
    if not isinstance(url, str) or not url.strip():
        return None
    normal = normal_url(url).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(normal, digest_size=DIGEST_BYTES).digest()


class Names:
    """Source and id of every record that was read, numbered from 0 as they come."""

    def __init__(self) -> None:
        self._blocks: list[tuple[str, ByteArray, Int64Array]] = []
        self._begins: list[int] = []
        self.count = 0

    def add(self, source: str, text: ByteArray, offsets: Int64Array) -> None:
        """Records of one source; id i is text[offsets[i] : offsets[i + 1]]."""
        self._blocks.append((source, text, offsets))
        self._begins.append(self.count)
        self.count += len(offsets) - 1

    def name(self, number: int) -> dict[str, str]:
        block = bisect_right(self._begins, number) - 1
        source, text, offsets = self._blocks[block]
        begin, end = offsets[number - self._begins[block] :][:2]
        return {"source": source, "id": text[begin:end].tobytes().decode("utf-8", "surrogatepass")}


class Repeats:
    """Which keys came before, in any source. Remembers each, and the number of its record."""

    def __init__(self) -> None:
        self._first: dict[bytes, int] = {}

    def first(self, keys: ByteArray, rows: list[int], begin: int) -> dict[int, int]:
        """keys: uint8[n, 16], of the records that are numbered from `begin` on. Of those of `rows`
        whose key came before: row -> number of the first record that had it."""
        flat, found = keys.tobytes(), {}
        for row in rows:
            key = flat[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]
            first = self._first.setdefault(key, begin + row)
            if first != begin + row:
                found[row] = first
        return found


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
    query = f"?{urlencode(sorted(asked), errors='surrogatepass')}" if asked else ""
    return host.removeprefix("www.") + parts.path.rstrip("/") + query
