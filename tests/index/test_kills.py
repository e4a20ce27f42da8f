"""A killed job goes on to the same bytes; campaigns that break the program notice it.

More kills: `python tests/soak/index_kills.py --kills 1000`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_jobs import contents, make_job, shrink_units, write_corpora

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, write_json
from megatron_math.index import encode as encode_module
from megatron_math.index.encode import encode_files


def campaign(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "tests" / "soak" / "index_kills.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_twenty_kills(repository: Path) -> None:
    result = campaign(repository, "--kills", "20", "--seed", "7")
    assert result.returncode == 0, result.stderr
    counts = json.loads(result.stdout)
    assert counts["kills"] >= 20
    assert counts["with a journal"] >= 5


def test_kills_while_names_change(repository: Path) -> None:
    result = campaign(repository, "--kills", "10", "--seed", "5", "--last", "40")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("no truncation", [], "exit code 70|other bytes than in the unbroken run"),
        ("journal ahead", [], "exit code 70|other bytes than in the unbroken run"),
        ("old sidecar stays", ["--last", "30"], "is another index's|is an older index's"),
    ],
)
def test_a_broken_program_is_noticed(
    repository: Path, name: str, options: list[str], message: str
) -> None:
    arguments = ["--kills", "100", "--seed", "3", "--sabotage", name, *options]
    result = campaign(repository, *arguments)
    assert result.returncode == 1, result.stdout
    assert any(part in result.stderr for part in message.split("|")), result.stderr


class KilledError(Exception):
    """Stands for the kill."""


def killed_at(monkeypatch: pytest.MonkeyPatch, number: int, job: encode_module.Job) -> None:
    """Run until the journal's entry `number` is written, and no further."""
    real, count = encode_module._Encoding._save, 0

    def save_and_die(self: encode_module._Encoding) -> None:
        nonlocal count
        real(self)
        count += 1
        if count == number:
            self._journal.wait()
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(encode_module._Encoding, "_save", save_and_die)
        with pytest.raises(KilledError):
            encode_files(job, max_bad=1.0)


def watched_begins(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where `encode` begins to read, as it does so, in bytes."""
    begins: list[int] = []
    real = encode_module.read_blocks

    def seen(path: Path, *, begin: int, **options: Any) -> Any:
        begins.append(begin)
        return real(path, begin=begin, **options)

    monkeypatch.setattr(encode_module, "read_blocks", seen)
    return begins


def test_less_than_a_unit_is_done_again(
    small_units: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill at the journal's entry the blocks that are read again are counted."""
    files = write_corpora(tmp_path / "in")[:1]
    encode_files(make_job(tmp_path / "whole", files), max_bad=1.0)
    job = make_job(tmp_path / "out", files)
    killed_at(monkeypatch, 3, job)
    done = read_json(tmp_path / "out" / "x.progress.json")["progress"]["position"]["byte"]
    assert 2 * 2048 < done < files[0].stat().st_size // 2
    begins = watched_begins(monkeypatch)
    encode_files(job, max_bad=1.0)
    assert begins == [done]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "change",
    [
        "tokenizer",
        "recipe",
        "file read",
        "append_eod",
        "engine",
        "partial",
        "nothing",
        "file ahead",
    ],
)
def test_only_the_same_job_is_continued(
    small_units: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """What was read already must be what it was; a file that comes later may have changed."""
    files = write_corpora(tmp_path / "in")
    killed_at(monkeypatch, 2, make_job(tmp_path / "out", files))
    job = make_job(tmp_path / "out", files)
    if change == "tokenizer":
        job.tokenizer.fingerprint = "other"
    elif change == "recipe":
        job = make_job(tmp_path / "out", files, recipes={"body": job.outputs[0].recipe})
    elif change == "file read":
        os.utime(files[0], ns=(1, 1))
    elif change == "file ahead":
        files[-1].write_bytes(b'{"body": "another"}\n')
    elif change == "engine":
        job = make_job(tmp_path / "out", files, engine="reference")
    elif change == "append_eod":
        job = make_job(tmp_path / "out", files)
        object.__setattr__(job, "append_eod", False)
    elif change == "partial":
        (tmp_path / "out" / "x_qa_document.roles.partial").write_bytes(b"")
    begins = watched_begins(monkeypatch)
    encode_files(job, max_bad=1.0)
    assert (begins[0] > 0) == (change in ("nothing", "file ahead"))
    folder = tmp_path / "whole"
    recipes = {output.prefix.name.split("_")[1]: output.recipe for output in job.outputs}
    expected = make_job(folder, files, engine=job.engine, tokenizer=job.tokenizer, recipes=recipes)
    object.__setattr__(expected, "append_eod", job.append_eod)
    encode_files(expected, max_bad=1.0)
    assert contents(tmp_path / "out") == contents(folder)


def test_a_journal_of_another_version_is_refused(
    small_units: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_corpora(tmp_path / "in")
    job = make_job(tmp_path / "out", files)
    killed_at(monkeypatch, 1, job)
    path = tmp_path / "out" / "x.progress.json"
    write_json(path, read_json(path) | {"version": 0})
    with pytest.raises(UserError, match="was left by another version"):
        encode_files(job, max_bad=1.0)


def test_bad_lines_that_stop_a_run_keep_its_work(
    small_units: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the bad lines came last: the same job with a larger limit has only the end to do."""
    files = write_corpora(tmp_path / "in")
    job = make_job(tmp_path / "out", files)
    real = encode_module._Encoding._refuse_bad

    def at_the_end(
        self: encode_module._Encoding, max_bad: float, times_more: float | None = None
    ) -> None:
        if times_more is None:
            real(self, max_bad)

    monkeypatch.setattr(encode_module._Encoding, "_refuse_bad", at_the_end)
    with pytest.raises(UserError, match="more than the share of 0.001"):
        encode_files(job)
    kept = contents(tmp_path / "out")
    assert kept["x_quarantine.jsonl"] == kept["x.quarantine.partial"]

    def unread(path: Path, **options: object) -> list[object]:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(encode_module, "read_blocks", unread)
    encode_files(job, max_bad=1.0)
    monkeypatch.undo()
    shrink_units(monkeypatch.setattr)
    encode_files(make_job(tmp_path / "whole", files), max_bad=1.0)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_small_disk_that_fills(repository: Path, tmp_path: Path) -> None:
    """On a tmpfs: ENOSPC, the earlier index is whole, and the same job goes on after a remount."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not there")
    script = repository / "tests" / "index" / "small_disk.py"
    command = ["unshare", "--mount", sys.executable, str(script), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cannot mount" in result.stderr:
        pytest.skip("file systems cannot be mounted here")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["sizes_that_failed"] >= 3
    assert told["errno"] == ["ENOSPC"]
