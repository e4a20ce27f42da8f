"""What is handed to SLURM, what is refused before, and how jobs are followed."""

import json
import logging
from pathlib import Path

import pytest
import yaml
from fake_slurm import FakeSlurm

from megatron_math.cli import main
from megatron_math.launch.config import LaunchConfig, slurm_seconds
from megatron_math.launch.follow import Submitted, follow
from megatron_math.launch.slurm import JobState, states


def done(road: Path, *stages: str) -> Path:
    """Mark stages of the road as done; returns the run folder."""
    run = road.parent / "runs" / "study" / "arm"
    for stage in stages:
        (run / stage).mkdir(parents=True)
        (run / stage / "DONE").write_text("x\n")
    return run


@pytest.fixture
def blended(road: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The road with its stages before training done; reading their files is another's test."""
    done(road, "00_base", "40_blend")
    monkeypatch.setattr(
        "megatron_math.launch.run.read_order", lambda road: type("", (), {"plan": 0})
    )
    monkeypatch.setattr("megatron_math.launch.run.check_stages", lambda *_: None)
    return road


def test_a_dry_run_prints_the_script_and_writes_nothing(road: Path, capsys) -> None:
    assert main(["launch", str(road), "--nodes", "4", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "#SBATCH --nodes=4\n" in text
    assert f"#SBATCH --chdir={road.parent}\n" in text
    assert "#SBATCH --job-name=study-arm-train\n" in text
    assert f"--output={road.parent}/runs/study/arm/launch/train_%j.log" in text
    assert f"torchrun {road} launch.nodes=4 --runs {road.parent}/runs " in text
    assert not (road.parent / "runs").exists()


def test_a_job_is_submitted_and_noted(blended: Path, slurm: FakeSlurm, capsys) -> None:
    assert main(["launch", str(blended), "train.lr=2e-3", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    script = Path(facts["script"])
    assert slurm.lines("sbatch") == [str(script)]
    assert "train.lr=2e-3" in script.read_text()
    row = json.loads((script.parent / "jobs.jsonl").read_text())
    assert (row["job"], row["verb"], row["what"]) == (101, "train", "train")
    assert row["log"] == str(script.parent / "train_101.log")


def test_a_chain_is_jobs_behind_each_other(blended: Path, slurm: FakeSlurm) -> None:
    assert main(["launch", str(blended), "launch.chain=3"]) == 0
    first, second, third = (line.split("\t") for line in slurm.lines("sbatch"))
    assert first == second[1:] == third[1:]
    assert second[0] == "--dependency=afterany:101"
    assert third[0] == "--dependency=afterany:102"


def test_an_array_has_a_merge_behind_it(road: Path, slurm: FakeSlurm) -> None:
    stages = "launch.stages={index: {shards: 8, at_once: 3, partition: cpu}}"
    assert main(["launch", str(road), "index", stages]) == 0
    array, merge = (line.split("\t") for line in slurm.lines("sbatch"))
    assert array[0] == "--array=0-7%3"
    assert merge[0] == "--kill-on-invalid-dep=yes"
    assert merge[2:] == ["--dependency=afterok:101", array[1], "--merge"]
    text = Path(array[1]).read_text()
    assert "#SBATCH --partition=cpu\n" in text
    assert "/launch/index_%A_%a.log\n" in text


def test_overrides_that_are_files_are_found_from_anywhere(road: Path, capsys) -> None:
    (road.parent / "more.yaml").write_text(yaml.safe_dump({"train": {"lr": 2e-3}}))
    assert main(["launch", str(road), "more.yaml", "--dry-run"]) == 0
    assert f"{road.parent}/more.yaml" in capsys.readouterr().out


CASES = {
    "unquoted time": (["launch.time=24:00:00"], "quot|YAML reads"),
    "no time": (['launch.time="soon"'], "a SLURM time is"),
    "hardly any time": (['launch.time="3"'], "launch.save_seconds"),
    "an unknown key": (["launch.node=3"], "did you mean 'nodes'"),
    "an unknown verb": (["trian"], "launch knows no verb 'trian'"),
    "too few GPUs": (["launch.gpus_per_node=1", "launch.nodes=1"], "tensor"),
    "other replicas": (["parallel.data=3"], "parallel.data 3 was asked"),
    "a batch that does not divide": (["train.global_batch_size=3"], "global_batch_size"),
    "no section": (["evaluate"], "no section 'evaluate'"),
    "shards of training": (["launch.stages.train.shards=2"], "are split"),
    "at once without shards": (["launch.stages.index.at_once=2"], "no effect"),
    "cores of whole nodes": (["launch.stages.train.cpus_per_task=2"], "no effect"),
    "venv in a container": (
        ["launch.container={runtime: pyxis, image: i}", "launch.venv=v"], "venv has no effect"),
    "an option that is none": (["launch.sbatch=[mem=0]"], "begins with a dash"),
    "an option that breaks the shape": (
        ["launch.sbatch=[--ntasks-per-node=8]", "launch.shape=task", "launch.sbatch="
         "[--gpus-per-task=1]"], "gpus-per-task"),
    "a variable in an option": (["launch.sbatch=[--mail-user=$USER]"], "no shell reads"),
    "stages before it not done": ([], "is not finished"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_is_one_sentence_and_nothing_is_submitted(
    case: str, road: Path, slurm: FakeSlurm, capsys
) -> None:
    words, said = CASES[case]
    assert main(["launch", str(road), *words]) == 2
    error = capsys.readouterr().err
    assert any(part in error for part in said.split("|")), error
    assert slurm.lines("sbatch") == []
    assert not (road.parent / "runs").exists()


def test_a_verb_without_shards_is_not_split(road: Path, capsys, monkeypatch) -> None:
    monkeypatch.delattr("megatron_math.index.run.run_shard")
    assert main(["launch", str(road), "index", "launch.stages.index.shards=2", "--dry-run"]) == 2
    assert "cannot be split here" in capsys.readouterr().err


def test_a_road_with_nothing_to_share_out_is_not_split(road: Path, capsys) -> None:
    words = ["launch", str(road), "synthesize", "launch.stages.synthesize.shards=2", "--dry-run"]
    assert main([*words, "synthesize={problems: 5}"]) == 2
    assert "cannot be split here" in capsys.readouterr().err
    curate = ["curate", "launch.stages.curate.shards=2", "--dry-run"]
    assert main([*words[:2], *curate, "curate={sources: {a: {path: a.jsonl}}}"]) == 0


def test_without_slurm_the_cure_is_said(blended: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["launch", str(blended)]) == 2
    assert "sbatch is not on this machine" in capsys.readouterr().err


def test_a_checkpoint_must_fit_into_the_time(blended: Path, slurm: FakeSlurm, capsys) -> None:
    folder = done(blended, "50_train") / "50_train"
    rows = [{"iteration": i, "elapsed_ms": 90_000 if i > 3 else 1} for i in range(1, 30)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"el')
    assert main(["launch", str(blended)]) == 2
    assert "90 s an iteration (this run so far) is 2.5 hours" in capsys.readouterr().err
    assert main(["launch", str(blended), "checkpoint.interval=50"]) == 0


def test_a_second_job_of_a_run_is_refused_while_one_lives(
    blended: Path, slurm: FakeSlurm, capsys
) -> None:
    assert main(["launch", str(blended)]) == 0
    slurm.state(101, "JobId=101 JobState=RUNNING Reason=None NodeList=n[1-2] ExitCode=0:0")
    assert main(["launch", str(blended)]) == 2
    assert "job 101 (train) of study/arm is RUNNING on n[1-2]" in capsys.readouterr().err
    slurm.state(101, "JobId=101 JobState=COMPLETED ExitCode=0:0")
    assert main(["launch", str(blended)]) == 0


def test_states_of_an_array_are_counted_by_task(slurm: FakeSlurm) -> None:
    slurm.state(
        101,
        "JobId=101 ArrayJobId=101 ArrayTaskId=3-6,9%2 JobState=PENDING Reason=Resources",
        "JobId=102 ArrayJobId=101 ArrayTaskId=0 JobState=RUNNING NodeList=n1 Restarts=1",
    )
    waiting, running = states(101)
    assert (waiting.tasks, running.tasks) == (5, 1)
    assert str(running) == "RUNNING on n1 restart 1"
    assert states(7) == []


def test_following_shows_log_and_states_and_ends_with_the_job(
    tmp_path: Path, caplog, monkeypatch
) -> None:
    log_file, said = tmp_path / "log", []
    pending = JobState("PENDING", "Priority")
    ended = [[JobState("COMPLETED")]] * 2
    # A requeue looks like an end for one moment.
    course = iter([[pending], [JobState("FAILED", exit_code=75)], [pending],
                   [JobState("RUNNING", nodes="n1", restarts=1)], *ended])  # fmt: skip

    def look(job: int) -> list[JobState]:
        found = next(course)
        if found[0].state == "RUNNING":
            log_file.write_text("one\ntwo\n")
        return found

    monkeypatch.setattr(logging.getLogger("megatron_math"), "propagate", True)
    with caplog.at_level(logging.INFO, "megatron_math"):
        assert follow([Submitted(5, "train", log_file)], said.append, look, 0) == 0
    assert "".join(said) == "one\ntwo\n"
    assert "job 5 (train): RUNNING on n1 restart 1" in caplog.text


@pytest.mark.parametrize(
    ("ends", "code"),
    [([JobState("COMPLETED"), JobState("FAILED", exit_code=75)], 75),
     ([JobState("FAILED", exit_code=75), JobState("COMPLETED")], 0),
     ([JobState("TIMEOUT")], 1), ([JobState("FAILED", exit_code=2)], 1)],
)  # fmt: skip
def test_the_last_job_decides_the_exit_code(ends: list[JobState], code: int) -> None:
    jobs = [Submitted(i, "chain", None) for i in range(len(ends))]
    assert follow(jobs, print, lambda job: [ends[job]], 0) == code


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30", 90), ("24:00:00", 86400), ("2-12", 216000), ("1-0:30", 88200),
     ("1-2:3:4", 93784), ("", None), ("1d", None), ("-5", None)],
)  # fmt: skip
def test_times_as_slurm_reads_them(text: str, seconds: int | None) -> None:
    assert slurm_seconds(text) == seconds


def test_a_verb_takes_its_own_settings_before_the_sections() -> None:
    config = LaunchConfig.model_validate(
        {"partition": "gpu", "gpus_per_node": 4, "account": "a", "sbatch": ["--x"],
         "stages": {"index": {"partition": "cpu", "cpus_per_task": 16, "sbatch": ["--y"]}}}
    )  # fmt: skip
    index, train = config.job("index"), config.job("train")
    assert (index.partition, index.account, index.gpus_per_node) == ("cpu", "a", 0)
    assert (index.cpus_per_task, index.sbatch) == (16, ["--y"])
    assert (train.partition, train.gpus_per_node, train.time) == ("gpu", 4, "24:00:00")
