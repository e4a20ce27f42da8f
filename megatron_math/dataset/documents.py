"""One tokenized corpus on disk: Megatron's `<prefix>.bin` and `<prefix>.idx`.

A document is one sequence of the `.idx`, which is also what megatron-core's GPTDataset shuffles.
Beside them may lie `<prefix>.roles`: one byte a token, who speaks there (docs/formats.md).
"""

from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_math.base.errors import UserError
from megatron_math.dataset.file_array import FileArray, identity_of
from megatron_math.native.index_reader import (
    HEADER_BYTES,
    bin_pieces,
    check_index,
    parse_index_header,
)

MAGIC, VERSION = b"MMIDIDX\x00\x00", 1  # how an .idx begins
CHECKED_TOGETHER = 1 << 20  # documents
ROLES = {"prompt": 0, "solution": 1, "tool_output": 2, "other": 3}

Int64Array = npt.NDArray[np.int64]


class IndexedDocuments:
    """Documents of one index.

    Opening reads the header and where the last document ends: it costs the same for any number.

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
        self._open()

    def _hint(self) -> str:
        near = self.prefix.with_name(self.prefix.name + "_text_document.idx")
        return f"; did you mean {near.with_suffix('')}?" if near.is_file() else ""

    def _open(self) -> None:
        bin_bytes, identity = self.bin_path.stat().st_size, identity_of(self.idx_path)
        with open(self.idx_path, "rb") as file:
            header = file.read(HEADER_BYTES)
        try:
            facts = parse_index_header(header, self.idx_path.stat().st_size, bin_bytes)
        except ValueError as error:
            raise UserError(f"{self.idx_path} {error}; write the index again") from None
        self.dtype, self.num_documents = facts.dtype, facts.num_documents
        self.num_tokens = bin_bytes // self.dtype.itemsize

        def section(dtype: type, begins: int) -> FileArray:
            return FileArray(self.idx_path, np.dtype(dtype), begins, self.num_documents, identity)

        self.lengths = section(np.int32, facts.lengths_at)
        self._pointers = section(np.int64, facts.pointers_at)
        self._tokens = FileArray(
            self.bin_path, self.dtype, 0, self.num_tokens, identity_of(self.bin_path)
        )
        end = 0
        if last := self.num_documents:
            length, begin = self.lengths.part(last - 1, 1), self._pointers.part(last - 1, 1)
            end = int(begin[0]) + int(length[0]) * self.dtype.itemsize
        if end != bin_bytes:
            raise UserError(
                f"{self.bin_path} and its .idx do not belong together: by the .idx the last "
                f"document ends at byte {end}, the .bin has {bin_bytes} bytes; write the index "
                f"again"
            )

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
        bin_bytes, begin, num_empty = self.num_tokens * self.dtype.itemsize, 0, 0
        for first in range(0, self.num_documents, CHECKED_TOGETHER):
            count = min(CHECKED_TOGETHER, self.num_documents - first)
            lengths, pointers = self.lengths.part(first, count), self._pointers.part(first, count)
            try:
                begin, more = check_index(
                    lengths, pointers, self.dtype.itemsize, bin_bytes, first=first, begin=begin
                )
            except ValueError as error:
                raise UserError(f"{self.idx_path} {error}; write the index again") from None
            num_empty += more
        if begin != bin_bytes:
            raise UserError(
                f"{self.idx_path} is damaged: its documents end at byte {begin} of {bin_bytes}; "
                f"write the index again"
            )
        return num_empty

    def bin_pieces(self, pieces_P5: Int64Array) -> Int64Array:
        """Pieces as `rows.read_rows` takes them: first id among all of the index, ids, padding."""
        if self._pointers.is_mapped_for(len(pieces_P5)):
            return bin_pieces(self._pointers.array, self.dtype.itemsize, pieces_P5)
        documents, starts, counts, padding, _ = pieces_P5.T
        firsts = self._pointers.take(documents) // self.dtype.itemsize + starts
        return np.stack((firsts, counts, padding), axis=1)

    @property
    def ids(self) -> FileArray:
        """All ids, flat."""
        return self._tokens

    def read_runs(
        self, firsts: Int64Array, counts: Int64Array
    ) -> tuple[npt.NDArray, npt.NDArray[np.uint8], Int64Array]:
        """(ids, their roles, where in these each run of `counts` ids from `firsts` on begins).

        They are the mapped files where `.bin` is small, else arrays of the runs alone.
        """
        copy = not self._tokens.is_small
        ids, begins = self._tokens.gather(firsts, counts, copy=copy)
        return ids, self._roles.gather(firsts, counts, copy=copy)[0], begins

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
