"""The predictions file: whole or not there, and damage is named."""

import json
from pathlib import Path

import pytest

from megatron_math.base.errors import UserError
from megatron_math.evaluate.predictions import KEYS, read_predictions, write_predictions

NUM_ROWS = 10


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "predictions.jsonl"
    rows = [dict.fromkeys(KEYS, "x") | {"id": str(number)} for number in range(NUM_ROWS)]
    write_predictions(path, rows)
    assert read_predictions(path) == rows
    return path


def test_a_file_is_replaced_whole(whole: Path) -> None:
    before = whole.read_bytes()

    def rows():
        yield dict.fromkeys(KEYS, "y")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_predictions(whole, rows())
    assert whole.read_bytes() == before


def test_damage_is_named_by_line(whole: Path) -> None:
    lines = whole.read_text().splitlines()
    lines[6] = json.dumps({"id": "6"})
    whole.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"predictions\.jsonl, line 7"):
        read_predictions(whole)
    whole.write_text("")
    with pytest.raises(UserError, match="is empty"):
        read_predictions(whole)
