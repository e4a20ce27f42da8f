"""Rendered scripts: bash reads them, the linter has nothing to say, and they run for real."""

import json
import subprocess
from pathlib import Path

import pytest
from example_scripts import FOLDER, SCRIPTS
from fake_slurm import FakeSlurm

from megatron_math.launch.config import LaunchConfig
from megatron_math.launch.lint.check import check_text
from megatron_math.launch.script import Script

SHAPES = ("torchrun", "task")
RUNTIMES = (None, "pyxis", "enroot", "apptainer")


def script(verb: str = "train", arguments=("road.yaml", "a b=c'd"), **launch) -> Script:
    return Script(
        verb=verb,  # type: ignore[arg-type]
        launch=LaunchConfig.model_validate(launch),
        job_name="x",
        about=["What it is."],
        log="%x_%j.log",
        venv="/nowhere",
        arguments=arguments,
        latest="latest.txt",
        crashes="crashes_$SLURM_JOB_ID",
    )


def variants() -> list[dict]:
    found: list[dict] = []
    for shape in SHAPES:
        for runtime in RUNTIMES:
            container = runtime and {"runtime": runtime, "image": "/i 1.sif", "mounts": ["/data"]}
            for more in ({}, {"chain": 3}, {"gpus_per_node": 0, "modules": ["cuda/13"]}):
                found.append({"nodes": 2, "shape": shape, "container": container, **more})
    return found


def shown(variant: dict) -> str:
    return "-".join(str(v.get("runtime") if isinstance(v, dict) else v) for v in variant.values())


@pytest.mark.parametrize("variant", variants(), ids=shown)
def test_bash_reads_it_and_the_linter_has_no_mistake(variant: dict) -> None:
    text = script(**variant).text()
    read = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert not read.stderr
    assert [str(f) for f in check_text(text, Path("x")) if f.is_mistake] == []
    assert "{{" not in text
    assert "\n\n\n" not in text
    assert text.endswith('\nexit "$code"\n')
    assert max(map(len, text.splitlines())) < 120


def test_shared_nodes_are_asked_for_cores() -> None:
    text = script(nodes=2, exclusive=False, gpus_per_node=4, cpus_per_task=6).text()
    assert "--exclusive" not in text
    assert "#SBATCH --cpus-per-task=24\n" in text
    assert (
        "#SBATCH --cpus-per-task=6\n"
        in script(exclusive=False, shape="task", cpus_per_task=6).text()
    )


@pytest.mark.parametrize("verb", ["index", "evaluate", "blend", "synthesize"])
def test_scripts_of_other_verbs_pass_too(verb: str) -> None:
    text = script(verb, container={"runtime": "apptainer", "image": "/i"}).text()
    assert not subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True).stderr
    assert [str(f) for f in check_text(text, Path("x")) if f.is_mistake] == []
    assert ("--gres=gpu:8" in text) == (verb == "evaluate")


def tasks(slurm: FakeSlurm) -> list[dict]:
    rows = [json.loads(line) for line in slurm.lines("tasks")]
    return sorted(rows, key=lambda row: int(row["SLURM_PROCID"]))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_task_gets_ranks_rendezvous_and_arguments(
    shape: str, runtime: str | None, slurm: FakeSlurm, tmp_path: Path
) -> None:
    image = tmp_path / "an image.sif"
    image.touch()
    container = runtime and {"runtime": runtime, "image": str(image)}
    text = script(
        nodes=2, shape=shape, gpus_per_node=4, container=container, environment={"EXTRA": "x 'y'"}
    ).text()
    here = tmp_path / "here"
    here.mkdir()
    count = 2 if shape == "torchrun" else 8
    done = slurm.run(text, "more=1 2", cwd=here, tasks=count, SECRET="s3cr3t")
    assert done.returncode == 0, done.stderr
    rows = tasks(slurm)
    assert [row["SLURM_PROCID"] for row in rows] == [str(rank) for rank in range(count)]
    for row in rows:
        assert row["MASTER_ADDR"] == "gpu3"
        assert row["MASTER_PORT"] == "20007"
        assert row["HF_HUB_OFFLINE"] == "1"
        assert row["EXTRA"] == "x 'y'"
        assert row["cwd"] == str(here)
        assert row["argv"][-3:] == ["road.yaml", "a b=c'd", "more=1 2"]
        launcher = row["argv"][: -3 - 2]
        if shape == "torchrun":
            assert f"--node-rank={row['SLURM_NODEID']}" in launcher
            assert {"--nnodes=2", "--nproc-per-node=4", "--master-addr=gpu3"} < set(launcher)
        else:
            assert launcher == []
    if runtime == "pyxis":
        assert f"--container-mounts={here}:{here}" in slurm.lines("srun")[0]
        assert f"--container-image={image}" in slurm.lines("srun")[0]
    if runtime == "enroot":
        assert all("SECRET" not in row for row in rows)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("codes", "returned", "requeued"),
    [("0", 0, False), ("75", 75, True), ("138 75", 138, True), ("2", 2, False), ("127", 127, False),
     ("1", 1, True), ("137", 137, True)],
)  # fmt: skip
def test_what_becomes_of_an_exit_code(
    shape: str, codes: str, returned: int, requeued: bool, slurm: FakeSlurm, tmp_path: Path
) -> None:
    done = slurm.run(script(nodes=2, shape=shape).text(), cwd=tmp_path, codes=codes)
    assert done.returncode == returned
    assert slurm.lines("scontrol") == (["requeue 7"] if requeued else [])


def test_crashes_are_counted_from_one_checkpoint_to_the_next(
    slurm: FakeSlurm, tmp_path: Path
) -> None:
    text, count = script(nodes=2, retries=2).text(), 0
    for checkpoint, goes_on in (("", 2), ("100", 2), ("200", 2)):
        if checkpoint:
            (tmp_path / "latest.txt").write_text(checkpoint)
        for _ in range(goes_on):
            slurm.run(text, cwd=tmp_path, codes="1")
            count += 1
            assert len(slurm.lines("scontrol")) == count
    slurm.run(text, cwd=tmp_path, codes="1")  # the third from checkpoint 200
    assert len(slurm.lines("scontrol")) == count
    assert (tmp_path / "crashes_7").read_text().split() == ["none"] * 2 + ["100"] * 2 + ["200"] * 3


@pytest.mark.parametrize("codes", ["75", "1", "2", "0"])
def test_a_job_of_a_chain_leaves_the_rest_to_the_next(
    codes: str, slurm: FakeSlurm, tmp_path: Path
) -> None:
    done = slurm.run(script(nodes=2, chain=3).text(), cwd=tmp_path, codes=codes)
    assert done.returncode == int(codes)
    assert slurm.lines("scontrol") == []


def test_a_torchrun_for_every_gpu_is_refused(slurm: FakeSlurm, tmp_path: Path) -> None:
    done = slurm.run(script(nodes=2).text(), cwd=tmp_path, tasks=16)
    assert done.returncode == 2
    assert "16 tasks on 2 nodes" in done.stderr
    assert slurm.lines("tasks") == []


def test_an_array_task_runs_its_command_and_goes_on_after_the_signal(
    slurm: FakeSlurm, tmp_path: Path
) -> None:
    text = script("index", ["megatron-math", "index", "r.yaml"]).text()
    done = slurm.run(text, "--merge", cwd=tmp_path, nodes=1, tasks=1, codes="138")
    assert done.returncode == 138
    assert tasks(slurm)[0]["argv"] == ["index", "r.yaml", "--merge"]
    assert slurm.lines("scontrol") == ["requeue 7"]


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_examples_are_what_the_templates_render(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert text == SCRIPTS[name].text(), "python tests/launch/example_scripts.py writes them"
    assert [str(f) for f in check_text(text, FOLDER / name) if f.is_mistake] == []


def test_every_example_is_rendered() -> None:
    assert {path.name for path in FOLDER.glob("*.sbatch")} == set(SCRIPTS)
