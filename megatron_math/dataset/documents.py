"""One tokenized corpus on disk: Megatron's `<prefix>.bin` and `<prefix>.idx`, memory-mapped.

A document is one sequence of the `.idx`, which is also what megatron-core's GPTDataset shuffles.
Beside them may lie `<prefix>.roles`: one byte a token, who speaks there (docs/formats.md).
"""

import struct
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_math.base.errors import UserError
from megatron_math.dataset.file_array import FileArray, identity_of

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER_BYTES = 34
# Codes of megatron.core.datasets.indexed_dataset.DType that can hold token ids.
DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
CHECKED_TOGETHER = 1 << 20  # documents

Int64Array = npt.NDArray[np.int64]
ROLES = {"prompt": 0, "solution": 1, "tool_output": 2, "other": 3}


class IndexedDocuments:
    """Documents of one index. Opening reads the header and the last document's place: it costs the
    same for any number of documents.

    prefix: path without `.bin`/`.idx`. Raises UserError when a file is missing or when the header,
    the counts and the file sizes do not agree, saying what was found.
    """

    def __init__(self, prefix: Path | str) -> None:
        self.prefix = Path(prefix)
        self.bin_path = self.prefix.with_name(self.prefix.name + ".bin")
        self.idx_path = self.prefix.with_name(self.prefix.name + ".idx")
        self.roles_path = self.prefix.with_name(self.prefix.name + ".roles")
        for path in (self.idx_path, self.bin_path):
            if not path.is_file():
                raise UserError(
                    f"the index {self.prefix} is not there: no file {path}{self._hint()}"
                )
        self._read_header()
        self._check_sizes()

    def _hint(self) -> str:
        near = self.prefix.with_name(self.prefix.name + "_text_document.idx")
        return f"; did you mean {near.with_suffix('')}?" if near.is_file() else ""

    def _read_header(self) -> None:
        with open(self.idx_path, "rb") as file:
            header = file.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
            raise UserError(
                f"{self.idx_path} is not a Megatron index: it must begin with {MAGIC!r}, "
                f"found {header[:9]!r} in {self.idx_path.stat().st_size} bytes"
            )
        version, code, num_sequences, num_boundaries = struct.unpack("<QBQQ", header[9:])
        if version != VERSION or code not in DTYPES:
            raise UserError(
                f"{self.idx_path} has version {version} and dtype code {code}; this program reads "
                f"version {VERSION} and the integer codes {sorted(DTYPES)}"
            )
        self.dtype = np.dtype(DTYPES[code])
        self.num_documents = num_sequences
        self._num_boundaries = num_boundaries

    def _check_sizes(self) -> None:
        n, found_bytes = self.num_documents, self.idx_path.stat().st_size
        expected_bytes = HEADER_BYTES + 12 * n + 8 * self._num_boundaries
        if found_bytes not in (expected_bytes, expected_bytes + n):  # + n: multimodal mode bytes
            raise UserError(
                f"{self.idx_path} is damaged: {n} sequences and {self._num_boundaries} document "
                f"boundaries need {expected_bytes} bytes, found {found_bytes}"
            )
        identity = identity_of(self.idx_path)
        self.lengths = FileArray(self.idx_path, np.dtype(np.int32), HEADER_BYTES, n, identity)
        begins = HEADER_BYTES + 4 * n
        self._pointers = FileArray(self.idx_path, np.dtype(np.int64), begins, n, identity)
        found_bytes, item_bytes = self.bin_path.stat().st_size, self.dtype.itemsize
        end = 0
        if n:
            last_length, last_begin = self.lengths.part(n - 1, 1), self._pointers.part(n - 1, 1)
            end = int(last_begin[0]) + int(last_length[0]) * item_bytes
        self.num_tokens = end // item_bytes
        if end != found_bytes or end % item_bytes:
            raise UserError(
                f"{self.bin_path} and its .idx do not belong together: by the .idx the last "
                f"document ends at byte {end}, the .bin has {found_bytes} bytes; write the index "
                f"again"
            )

        identity = identity_of(self.bin_path)
        self._tokens = FileArray(self.bin_path, self.dtype, 0, self.num_tokens, identity)

    @property
    def lengths_D(self) -> npt.NDArray[np.int32]:
        """Tokens of every document, memory-mapped."""
        return self.lengths.array

    @cached_property
    def _roles(self) -> FileArray:
        self.require_roles("the chosen loss")
        identity = identity_of(self.roles_path)
        return FileArray(self.roles_path, np.dtype(np.uint8), 0, self.num_tokens, identity)

    def require_roles(self, what: str) -> None:
        """UserError unless the roles file is there, with one byte for every token."""
        if not self.roles_path.is_file():
            raise UserError(
                f"{what} needs the role of every token, and there is no file {self.roles_path}; "
                f"index problem/solution records with roles, or use loss: all"
            )
        if self.roles_path.stat().st_size != self.num_tokens:
            raise UserError(
                f"{self.roles_path} has {self.roles_path.stat().st_size} bytes, one for each of "
                f"the {self.num_tokens} tokens is expected; write the index again"
            )

    def check_pointers(self) -> int:
        """Read all of the .idx and return the number of empty documents.

        UserError unless each document begins where the one before ends.
        """
        begin = num_empty = 0
        for first in range(0, self.num_documents, CHECKED_TOGETHER):
            count = min(CHECKED_TOGETHER, self.num_documents - first)
            lengths = self.lengths.part(first, count).astype(np.int64)
            if (lengths < 0).any():
                wrong = first + int(np.argmax(lengths < 0))
                raise UserError(
                    f"{self.idx_path} is damaged: document {wrong} has {lengths[wrong - first]} "
                    f"tokens; write the index again"
                )
            ends = begin + np.cumsum(lengths) * self.dtype.itemsize
            expected = np.concatenate([[begin], ends[:-1]])
            differs = self._pointers.part(first, count) != expected
            if differs.any():
                raise UserError(
                    f"{self.idx_path} is damaged: document {first + int(np.argmax(differs))} "
                    f"does not begin where the one before it ends; write the index again"
                )
            begin = int(ends[-1])
            num_empty += int(np.count_nonzero(lengths == 0))
        return num_empty

    def read_runs(
        self, documents: Int64Array, starts: Int64Array, counts: Int64Array, *, with_roles: bool
    ) -> tuple[npt.NDArray, npt.NDArray[np.uint8] | None, Int64Array]:
        """(ids, their roles or None, where in these each run begins).

        A run is `counts` tokens of a document from `starts` on. Ids and roles are the mapped
        files where `.bin` is small, else arrays of the runs alone.
        """
        firsts = self._pointers.take(documents) // self.dtype.itemsize + starts
        copy = not self._tokens.is_small
        ids, begins = self._tokens.gather(firsts, counts, copy=copy)
        roles = self._roles.gather(firsts, counts, copy=copy)[0] if with_roles else None
        return ids, roles, begins

    def tokens(self, document: int, start: int, count: int) -> npt.NDArray:
        """`count` ids of a document from `start` on, a read-only view in the file's dtype."""
        first = self._first(document, start, count)
        return self._tokens.array[first : first + count]

    def roles(self, document: int, start: int, count: int) -> npt.NDArray[np.uint8]:
        """Who speaks at those tokens, as the numbers of `ROLES`."""
        first = self._first(document, start, count)
        return self._roles.array[first : first + count]

    def document(self, document: int) -> npt.NDArray:
        return self.tokens(document, 0, int(self.lengths_D[document]))

    def _first(self, document: int, start: int, count: int) -> int:
        if not 0 <= start <= start + count <= self.lengths_D[document]:
            raise IndexError(
                f"tokens {start} to {start + count} of document {document}, which has "
                f"{self.lengths_D[document]} tokens, in {self.prefix}"
            )
        return int(self._pointers.array[document]) // self.dtype.itemsize + start

    def __len__(self) -> int:
        return self.num_documents
