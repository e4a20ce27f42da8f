"""Rows of parquet as the columns that a scan of JSON lines gives."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from megatron_math.native.json_lines import BadLine, Column, Kind, Scanned
from megatron_math.native.texts import choose_texts, find_invalid_utf8

if TYPE_CHECKING:
    import pyarrow


def scan_batch(batch: "pyarrow.RecordBatch", keys: Sequence[str]) -> Scanned:
    """As `scan_lines`, of parquet rows: a column that is not there is ABSENT in every row.

    Bad lines ("invalid UTF-8") and spans are at byte 0 with 0 bytes: a row has no bytes of its own.
    """
    columns = {key: _arrow_column(batch, key) for key in keys}
    ids = _arrow_column(batch, "id")
    named = np.isin(ids.kinds, (Kind.STRING, Kind.NUL_STRING, Kind.NUMBER))
    wrong = np.unique(
        np.concatenate(
            [find_invalid_utf8(column.text, column.offsets) for column in (*columns.values(), ids)]
        )
    )
    rows = np.setdiff1d(np.arange(batch.num_rows), wrong, assume_unique=True)

    def kept(column: Column) -> Column:
        text, offsets = choose_texts(column.text, column.offsets, rows)
        return Column(text, offsets, column.kinds[rows])

    id_text, id_offsets = choose_texts(ids.text, ids.offsets, np.where(named[rows], rows, -1))
    return Scanned(
        num_lines=batch.num_rows,
        num_blank=0,
        rows=rows,
        spans=np.zeros((len(rows), 2), np.int64),
        columns={key: kept(column) for key, column in columns.items()},
        ids=Column(id_text, id_offsets, ids.kinds[rows]),
        bad=[BadLine(row, 0, 0, "invalid UTF-8") for row in wrong.tolist()],
    )


def _arrow_column(batch: "pyarrow.RecordBatch", key: str) -> Column:
    import pyarrow
    from pyarrow import types

    if batch.schema.get_field_index(key) < 0:
        return Column(
            np.empty(0, np.uint8),
            np.zeros(batch.num_rows + 1, np.int64),
            np.full(batch.num_rows, Kind.ABSENT, np.uint8),
        )
    values = batch.column(key)
    if types.is_dictionary(values.type):
        values = values.dictionary_decode()
    is_null = np.asarray(values.is_null())
    kind = _arrow_kind(values.type)
    if kind == Kind.NUMBER:
        values = values.cast(pyarrow.large_string())
    elif kind != Kind.STRING:
        values = pyarrow.array(
            [
                None if value is None else json.dumps(value, default=str)
                for value in values.to_pylist()
            ],
            pyarrow.large_string(),
        )
    values = values.cast(pyarrow.large_string()).fill_null("")
    _, offset_buffer, text_buffer = values.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64, len(values) + 1, 8 * values.offset)
    text = np.frombuffer(text_buffer, np.uint8)[offsets[0] : offsets[-1]]
    kinds = np.where(is_null, Kind.NULL, kind).astype(np.uint8)
    offsets = offsets - offsets[0]
    if kind == Kind.STRING and (nuls := np.flatnonzero(text == 0)).size:
        kinds[np.searchsorted(offsets, nuls, "right") - 1] = Kind.NUL_STRING
    return Column(text, offsets, kinds)


def _arrow_kind(kind: "pyarrow.DataType") -> Kind:
    from pyarrow import types

    if types.is_string(kind) or types.is_large_string(kind):
        return Kind.STRING
    if types.is_boolean(kind):
        return Kind.BOOL
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return Kind.NUMBER
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return Kind.ARRAY
    return Kind.OBJECT  # structs and maps, and all that JSON has no word for
