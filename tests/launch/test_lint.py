"""The linter: every seeded mistake is found on its line and nothing else is."""

from pathlib import Path

import pytest

from megatron_math.cli import main
from megatron_math.launch.lint import asked, done
from megatron_math.launch.lint.check import check_file, check_text
from megatron_math.launch.lint.sbatch_file import SbatchFile, options

MISTAKES = sorted((Path(__file__).parent / "mistakes").glob("*.sbatch"))
RULES = {rule.__name__.replace("_", "-") for rule in (*asked.RULES, *done.RULES)}
HINTS = {"no-account", "near-directive", "kill-on-bad-exit"}


def rule_of(path: Path) -> str:
    """The longest rule that the file's name begins with."""
    return max((rule for rule in RULES if path.stem.startswith(rule)), key=len, default="")


def marked(path: Path) -> int:
    """The line of the mistake: with the mark, below it, or the first."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if "HERE" in line:
            return number + line.startswith("# HERE, the line below")
    return 1


@pytest.mark.parametrize("path", MISTAKES, ids=lambda path: path.stem)
def test_a_seeded_mistake_is_found_and_nothing_else(path: Path) -> None:
    found = [(finding.rule, finding.line) for finding in check_file(path)]
    if path.stem.startswith("good"):
        assert found == []
    elif path.stem == "syntax":  # bash says where it noticed
        assert [rule for rule, _ in found] == ["syntax"]
    else:
        assert found == [(rule_of(path), marked(path))]


def test_every_rule_has_a_seeded_mistake() -> None:
    assert {rule_of(path) for path in MISTAKES} - {""} == RULES


@pytest.mark.parametrize("path", MISTAKES, ids=lambda path: path.stem)
def test_the_exit_code_says_whether_there_is_a_mistake(path: Path, capsys) -> None:
    clean = path.stem.startswith("good") or rule_of(path) in HINTS
    assert main(["launch", "--lint", str(path)]) == (0 if clean else 1)
    shown = capsys.readouterr().out
    if not path.stem.startswith("good"):
        assert shown.startswith(f"{path}:")
        assert "; " in shown


def test_a_checkpoint_longer_than_the_job(tmp_path: Path, capsys) -> None:
    good = str(MISTAKES[0].with_stem("good-torchrun"))  # --save-interval 500, 12 hours
    assert main(["launch", "--lint", good, "--step-seconds", "80"]) == 0
    assert main(["launch", "--lint", good, "--step-seconds", "90"]) == 1
    assert "time-short: 43200 s of time, and a checkpoint every 45000 s" in capsys.readouterr().out


def test_the_interval_of_a_road_is_read(tmp_path: Path) -> None:
    road = tmp_path / "road.yaml"
    road.write_text("checkpoint: {interval: 50}\n")
    text = f"#!/bin/bash\n#SBATCH --time=10\nsrun -c 4 python -m megatron_math.train {road}\n"
    assert not [f for f in check_text(text, road, 12) if f.rule == "time-short"]
    assert [f.line for f in check_text(text, road, 13) if f.rule == "time-short"] == [2]


def test_several_files_and_what_cannot_be_read(tmp_path: Path, capsys) -> None:
    bad, good = (str(MISTAKES[0].with_stem(name)) for name in ("srun-cpus", "good-tasks"))
    assert main(["launch", "--lint", good, bad, "--json"]) == 1
    assert '"rule": "srun-cpus"' in capsys.readouterr().out
    assert main(["launch", "--lint", str(tmp_path / "none.sbatch")]) == 2
    assert main(["launch", "--lint", good, "--dry-run"]) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [("--nodes=4 --exclusive", [("nodes", "4"), ("exclusive", "")]),
     ("-N 4 -t1:00", [("nodes", "4"), ("time", "1:00")]),
     ('--comment="a b"  # --nodes=2', [("comment", "a b")]),
     ("--label -n 8 python -c x", [("label", ""), ("ntasks", "8")]),
     ("--exclusive python -n 9", [("exclusive", "")]),
     ("--gres gpu:8 -u prog --x", [("gres", "gpu:8"), ("u", "")])],
)  # fmt: skip
def test_options_as_sbatch_and_srun_read_them(text: str, expected: list) -> None:
    found = options(text, 1, stop_at_program=True)
    assert [(option.name, option.value) for option in found] == expected


def test_commands_are_whole_whatever_lines_they_have() -> None:
    text = (
        "#!/bin/bash\n#SBATCH -N 2\n# a comment's quote\nx=1 # more\nsrun a \\\n  b 'c\n"
        "# no comment\nd' || code=$?\ncat <<EOF >f\nsrun not me\nEOF\n"
        "[ $# -gt 0 ] && exit\nwc <<<word\n"
    )
    file = SbatchFile(text, Path("f"))
    assert [(c.line, c.text) for c in file.commands] == [
        (4, "x=1"),
        (5, "srun a    b 'c\n# no comment\nd' || code=$?"),
        (9, "cat <<EOF >f"),
        (12, "[ $# -gt 0 ] && exit"),
        (13, "wc <<<word"),
    ]
    assert len(file.steps) == 1
    assert file.nodes == 2
