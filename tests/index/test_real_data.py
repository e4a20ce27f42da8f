"""Real files with 1 % of their bytes replaced at random go through, every line accounted for."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_jobs import ByteTokenizer, make_job

from megatron_math.base.errors import UserError
from megatron_math.dataset.documents import IndexedDocuments
from megatron_math.index.documents import make_texts, scan_block
from megatron_math.index.encode import encode_files
from megatron_math.index.recipes import Recipe

CORPORA = {
    "gsm8k/test.jsonl": Recipe(key="question"),
    "gsm8k/train.jsonl": Recipe(key="answer"),
    "jiuzhang3/tool_pretrain_data_sampled.jsonl": Recipe(),
    "eval/math-oai.jsonl": Recipe(template="{problem} {solution}"),
    "eval/svamp.jsonl": Recipe(key="Body"),
}


def corrupted(path: Path, seed: int) -> bytes:
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    rng = np.random.default_rng(seed)
    places = rng.choice(len(content), len(content) // 100, replace=False)
    content[places] = rng.integers(0, 256, len(places), dtype=np.uint8)
    return content.tobytes()


def is_a_row(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.decode("utf-8")), dict)
    except (ValueError, RecursionError):
        return False


@pytest.mark.parametrize("name", CORPORA)
def test_corrupted_files_are_accounted_for(shared_data: Path, tmp_path: Path, name: str) -> None:
    recipe = CORPORA[name]
    path = tmp_path / "x.jsonl"
    (control,) = encode_files(
        make_job(tmp_path / "clean", [shared_data / name], recipes={"text": recipe})
    )
    assert control["accounting"]["quarantined"] == 0
    path.write_bytes(corrupted(shared_data / name, 1))
    job = make_job(tmp_path / "out", [path], recipes={"text": recipe})
    with pytest.raises(UserError, match="lines cannot be used, more than the share of 0.001"):
        encode_files(job)
    (sidecar,) = encode_files(job, num_workers=2, max_bad=1.0)
    counts = sidecar["accounting"]
    content = path.read_bytes()
    lines = content.split(b"\n")[: None if not content.endswith(b"\n") else -1]
    aside = [json.loads(row) for row in (tmp_path / "out" / "x_quarantine.jsonl").open("rb")]
    assert counts["lines"] == len(lines)
    assert counts["quarantined"] == len(aside)
    assert counts["lines"] == counts["written"] + counts["empty"] + counts["quarantined"]
    refused = {row["line"] for row in aside}
    assert len(refused) == len(aside)
    for number, line in enumerate(lines, start=1):
        if line.strip() and not is_a_row(line):
            assert number in refused, line[:80]
    for row in aside:
        line = lines[row["line"] - 1]
        assert content[row["byte"] : row["byte"] + row["bytes"]] == line
        assert row["begins"] == line[:200].decode("utf-8", "backslashreplace")
    kept = [line for number, line in enumerate(lines, start=1) if number not in refused]
    texts = make_texts(scan_block(b"\n".join(kept), [recipe]), recipe, ByteTokenizer())
    index = IndexedDocuments(tmp_path / "out" / "x_text_document")
    decode = ByteTokenizer().decode
    assert [decode(index.document(i).tolist()) for i in range(len(index))] == list(texts.strings())
