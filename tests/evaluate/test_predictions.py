"""The predictions file after kills and damage."""

import json
from pathlib import Path

import pytest

from megatron_math.base.errors import UserError
from megatron_math.evaluate.predictions import (
    KEYS,
    append_predictions,
    keep_whole_blocks,
    read_predictions,
)

NUM_ROWS, BLOCK_ROWS = 10, 4
EXPECTED = [(str(i), f"prompt {i}") for i in range(NUM_ROWS)]


def row(number: int) -> dict[str, object]:
    return dict.fromkeys(KEYS, "x") | {"id": str(number), "prompt": f"prompt {number}"}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "predictions.jsonl"
    for start in range(0, NUM_ROWS, BLOCK_ROWS):
        append_predictions(path, [row(i) for i in range(NUM_ROWS)][start : start + BLOCK_ROWS])
    return path


def test_every_cut_leaves_whole_blocks(whole: Path) -> None:
    content = whole.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    cuts = {end + shift for end in ends for shift in (-2, -1, 0, 1) if end + shift <= len(content)}
    for cut in sorted(cuts | set(range(0, len(content), 50))):
        whole.write_bytes(content[:cut])
        whole_lines = sum(end <= cut for end in ends)
        kept = NUM_ROWS if whole_lines == NUM_ROWS else whole_lines // BLOCK_ROWS * BLOCK_ROWS
        assert keep_whole_blocks(whole, EXPECTED, BLOCK_ROWS) == kept
        assert whole.read_bytes() == content[: ends[kept - 1] if kept else 0]


def test_what_answers_another_question_is_cut_off(whole: Path) -> None:
    content = whole.read_bytes()
    changed = [*EXPECTED[:5], ("5", "another prompt"), *EXPECTED[6:]]
    assert keep_whole_blocks(whole, changed, BLOCK_ROWS) == 4
    whole.write_bytes(content)
    assert keep_whole_blocks(whole, EXPECTED[:6], BLOCK_ROWS) == 6
    assert len(read_predictions(whole)) == 6, "rows beyond a smaller limit are gone"
    assert keep_whole_blocks(whole.parent / "none.jsonl", EXPECTED, BLOCK_ROWS) == 0


def test_damage_is_named_by_line(whole: Path) -> None:
    lines = whole.read_text().splitlines()
    lines[6] = json.dumps({"id": "6"})
    whole.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"predictions\.jsonl, line 7"):
        read_predictions(whole)
    whole.write_text("")
    with pytest.raises(UserError, match="is empty"):
        read_predictions(whole)
