"""The corpora scripts: what becomes a document, what does not, and that nothing scored is read."""

import importlib.util
import json
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest

from megatron_math.base.records import read_records

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LONG = "A sentence that is long enough to be kept as a document of its own, number {}, and more."


def load(example: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("corpora", EXAMPLES / example / "corpora.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def planted_source(tmp_path: Path) -> Path:
    """A tree with every case: nested definitions, a side effect, faults, folders to skip."""
    root = tmp_path / "tree"
    (root / "b" / "tests").mkdir(parents=True)
    (root / "site-packages").mkdir()
    (root / "b" / "module.py").write_text(
        f'"""{LONG.format(1)}"""\n'
        "raise SystemExit('imported')\n"
        "class A:\n"
        f'    """{LONG.format(2)}\n\n        >>> 1 + 1\n        2\n    """\n'
        "    def f(self):\n"
        '        """Too short."""\n'
        "try:\n"
        "    def g():\n"
        f'        """{LONG.format(1)}"""\n'
        "except ImportError:\n    pass\n"
    )
    (root / "a.py").write_text(f'"""{LONG.format(3)}"""\n')
    (root / "python2.py").write_text(f'"""{LONG.format(4)}"""\nprint "x"\n')
    for skipped in ("b/tests/case.py", "site-packages/other.py"):
        (root / skipped).write_text(f'"""{LONG.format(5)}"""\n')
    return root


def test_docstrings_become_documents(planted_source: Path) -> None:
    counts: Counter[str] = Counter()
    records = list(load("00_quickstart_cpu").collect(planted_source, "general", counts))
    assert [(r.id, r.meta["name"]) for r in records] == [
        ("a.py:0", ""),
        ("b/module.py:0", ""),
        ("b/module.py:1", "A"),
    ]
    assert records[2].text == LONG.format(2) + "\n\n>>> 1 + 1\n2"
    del counts["characters"]
    assert counts == {
        "documents": 3, "files": 2, "too short": 1, "seen before": 1, "unreadable files": 1
    }  # fmt: skip


def test_the_installed_packages_give_enough_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Megabytes of both kinds; what was left out is counted aloud; the same again next time."""
    script = load("00_quickstart_cpu")
    script.main([str(tmp_path)])
    assert capsys.readouterr().out.count("too short") == 2
    assert (tmp_path / "mathtext.jsonl").stat().st_size > 3e6
    general = list(read_records(tmp_path / "general.jsonl"))
    assert sum(len(record.text or "") for record in general) > 1e6
    root = Path(script.sysconfig.get_paths()["stdlib"])
    again = script.collect(root, "general", Counter())
    assert list(islice(again, 500)) == general[:500]


def copy_training_files(data: Path, target: Path) -> None:
    for name in ("general", "math", "jiuzhang3"):
        shutil.copytree(data / name, target / name, symlinks=False)
    (target / "gsm8k").mkdir()
    shutil.copy(data / "gsm8k" / "train.jsonl", target / "gsm8k")


def test_real_data_becomes_four_corpora(shared_data: Path, tmp_path: Path) -> None:
    """Only training files are there: the script would fail if it read a file that is scored on."""
    copy_training_files(shared_data, tmp_path / "data")
    arguments = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    load("10_gsm8k_cpu").main(arguments)
    rows = {
        name: [json.loads(line) for line in (tmp_path / "out" / f"{name}.jsonl").open()]
        for name in ("general", "mathtext", "problems", "jiuzhang")
    }
    assert {name: len(part) for name, part in rows.items()} == {
        "general": 120, "mathtext": 309, "problems": 7473, "jiuzhang": 3000
    }  # fmt: skip
    assert all(row["text"].startswith("= ") for row in rows["general"])
    assert not any("@-@" in row["text"] or "@,@" in row["text"] for row in rows["general"])
    assert all(row["text"].startswith("\\section{") for row in rows["mathtext"])
    first = rows["problems"][0]
    assert first["solution"] == (
        "Natalia sold 48/2 = 24 clips in May.\n"
        "Natalia sold 48+24 = 72 clips altogether in April and May.\n"
        "The answer is 72."
    )
    for row in rows["problems"]:
        assert "<<" not in row["solution"]
        assert row["solution"].endswith(f"\nThe answer is {row['answer']}.")
    for row in rows["jiuzhang"]:
        assert not row["problem"].startswith("## ")
        assert not row["problem"].endswith("Solution")
    original = json.loads(
        (shared_data / "jiuzhang3/tool_pretrain_data_sampled.jsonl").open().readline()
    )
    tool = next(row for row in rows["jiuzhang"] if row["meta"]["kind"] == "tool_pretrain")
    assert original["input"] == f"## Question\n{tool['problem']}\n\n## Code Solution\n"
    assert original["output"] == tool["solution"]


def test_a_missing_mark_stops_the_script(tmp_path: Path) -> None:
    module = load("10_gsm8k_cpu")
    (tmp_path / "gsm8k").mkdir()
    good = {"question": "q", "answer": "a <<1+1=2>>2\n#### 2"}
    rows = [good, {"question": "q", "answer": "no mark"}]
    (tmp_path / "gsm8k" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    records = module.gsm8k_train(tmp_path)
    assert next(records).solution == "a 2\nThe answer is 2."
    with pytest.raises(module.UserError, match="line 2: no '#### '"):
        next(records)
