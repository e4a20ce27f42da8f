"""Rules about what a script asks of SLURM: its #SBATCH lines and the counts that go with them."""

import re
from collections.abc import Iterator

from megatron_math.launch.config import slurm_seconds
from megatron_math.launch.lint.finding import Finding
from megatron_math.launch.lint.sbatch_file import DISTRIBUTED, SbatchFile

_OWN_TIMER = r"--exit-duration-in-mins"
_STARTS_AGAIN = r"\bscontrol\s+requeue\b|\bsbatch\b"


def late_directive(file: SbatchFile) -> Iterator[Finding]:
    for line in file.late_directives:
        yield Finding(
            line, "an #SBATCH line behind the first command", "SLURM stops reading there",
            "move it to the top of the file",
        )  # fmt: skip


def near_directive(file: SbatchFile) -> Iterator[Finding]:
    for line in file.near_directives:
        yield Finding(
            line, "almost an #SBATCH line", "to SLURM it is a comment",
            "write #SBATCH at the line's begin; two # make a comment on purpose", is_mistake=False,
        )  # fmt: skip


def variable_in_directive(file: SbatchFile) -> Iterator[Finding]:
    for option in file.directives:
        if re.search(r"\$[{(\w]|`", option.value):
            yield Finding(
                option.line, f"--{option.name}={option.value}", "no shell reads #SBATCH lines",
                "write the value, use SLURM's %x %j %A %a, or give it to sbatch",
            )  # fmt: skip


def tasks_times_torchrun(file: SbatchFile) -> Iterator[Finding]:
    for command, options in file.steps:
        if not DISTRIBUTED.search(command.text):
            continue
        given = {option.name: option for option in options}
        if "ntasks-per-node" in given:
            tasks = given["ntasks-per-node"].number
        elif "ntasks" in given and (count := given["ntasks"].number) is not None:
            nodes = given["nodes"].number if "nodes" in given else file.nodes
            tasks = -(-count // nodes) if nodes else None
        else:
            tasks = file.tasks_per_node
        if tasks is not None and tasks > 1:
            yield Finding(
                command.line, f"{tasks} tasks a node, and a launcher in each",
                "the launcher starts the processes of a node; so many of them start that many "
                "times too many", "--ntasks-per-node=1, or leave the launcher away",
            )  # fmt: skip


def idle_gpus(file: SbatchFile) -> Iterator[Finding]:
    gpus = file.gpus_per_node
    for command, options in file.steps:
        alone = file.tasks_per_node == 1 and not any(o.name.startswith("ntasks") for o in options)
        trains = re.search(r"\bpython[\d.]*\s.*train", command.text)
        if gpus and gpus > 1 and alone and trains and not DISTRIBUTED.search(command.text):
            yield Finding(
                command.line, f"{gpus} GPUs a node and one process", "the others stay idle",
                f"--ntasks-per-node={gpus}, or torchrun --nproc-per-node={gpus}",
            )  # fmt: skip


def counts_differ(file: SbatchFile) -> Iterator[Finding]:
    for flag, what, asked in (
        (r"--nproc[-_]per[-_]node[= ]+(\d+)", "processes a node", file.gpus_per_node),
        (r"--nnodes[= ]+(\d+)", "nodes", file.nodes),
    ):
        command = file.mentions(flag)
        if command is not None and asked is not None:
            number = int(re.search(flag, command.text)[1])  # type: ignore[index]
            if number != asked:
                yield Finding(
                    command.line, f"{number} {what}, and SLURM is asked for {asked}",
                    "ranks wait for others that nobody starts, or GPUs stay idle",
                    "take the number from the job: $SLURM_NNODES, $SLURM_GPUS_ON_NODE",
                )  # fmt: skip


def gpus_per_task(file: SbatchFile) -> Iterator[Finding]:
    option = file.option("gpus-per-task")
    if option is not None and file.tasks_per_node != 1:
        yield Finding(
            option.line, "--gpus-per-task", "each task sees its own GPU only, as number 0: local "
            "rank 3 finds no GPU 3, and the fast path inside the node is lost",
            "--gres=gpu:N or --gpus-per-node=N",
        )  # fmt: skip


def not_exclusive(file: SbatchFile) -> Iterator[Finding]:
    if file.is_distributed and file.nodes != 1 and file.option("exclusive") is None:
        yield Finding(
            _line(file, "nodes"), "several nodes without --exclusive",
            "one slow neighbour on one node slows all ranks", "#SBATCH --exclusive",
        )  # fmt: skip


def no_account(file: SbatchFile) -> Iterator[Finding]:
    if file.option("account") is None:
        yield Finding(
            1, "no --account", "clusters that bill refuse the job, or charge the wrong project",
            "#SBATCH --account=NAME where yours wants one (sacctmgr show associations user=$USER)",
            is_mistake=False,
        )  # fmt: skip


def no_time(file: SbatchFile) -> Iterator[Finding]:
    option = file.option("time")
    if option is None:
        yield Finding(
            1, "no --time", "the partition's default may be minutes, and a job that says its time "
            "starts earlier", "#SBATCH --time=24:00:00",
        )  # fmt: skip
    elif slurm_seconds(option.value) is None and "$" not in option.value:
        yield Finding(
            option.line, f"--time={option.value}", "not a time that SLURM reads",
            "write minutes, H:M:S or D-H:M:S",
        )  # fmt: skip


def no_signal(file: SbatchFile) -> Iterator[Finding]:
    if file.is_distributed and not file.option("signal") and not file.mentions(_OWN_TIMER):
        yield Finding(
            _line(file, "time"), "no --signal", "at the time limit the job is killed, with what it "
            "did since its last checkpoint", "#SBATCH --signal=USR1@120, and save on it",
        )  # fmt: skip


def no_requeue(file: SbatchFile) -> Iterator[Finding]:
    chained = file.option("dependency") or file.mentions(_STARTS_AGAIN)
    if file.is_distributed and file.option("signal") and not chained:
        yield Finding(
            _line(file, "signal"), "it stops before the time ends, and nothing starts it again",
            "SLURM requeues after node failures only",
            'scontrol requeue "$SLURM_JOB_ID" when the exit code says that there is more to do, '
            "or a chain (--dependency=singleton)",
        )  # fmt: skip


def time_of_signal(file: SbatchFile) -> Iterator[Finding]:
    time, signal = file.option("time"), file.option("signal")
    limit = slurm_seconds(time.value) if time else None
    lead = re.search(r"@(\d+)$", signal.value) if signal else None
    if time and limit and signal and (seconds := int(lead[1]) if lead else 60) + 60 >= limit:
        yield Finding(
            time.line, f"{limit} s of time, and a signal {seconds} s before its end",
            "SLURM may be a minute early, so the job is told to stop as it starts",
            "a longer --time, or a smaller number behind @",
        )  # fmt: skip


def log_overwritten(file: SbatchFile) -> Iterator[Finding]:
    again = file.option("requeue") or file.mentions(_STARTS_AGAIN.split("|")[0])
    mode = file.option("open-mode")
    if again and (mode is None or mode.value not in ("append", "a")):
        yield Finding(
            _line(file, "output", "requeue"), "a job that starts again, without --open-mode=append",
            "the new start empties the log, and the cause of the first end with it",
            "#SBATCH --open-mode=append",
        )  # fmt: skip


def one_log_for_all(file: SbatchFile) -> Iterator[Finding]:
    output = file.option("output")
    if file.option("array") and output and not re.search(r"%\d*[aj]", output.value):
        yield Finding(
            output.line, f"an array with --output={output.value}", "all tasks write into one file",
            "--output=%x_%A_%a.log",
        )  # fmt: skip


def _line(file: SbatchFile, *names: str) -> int:
    option = file.option(*names)
    return option.line if option else 1


RULES = (
    late_directive, near_directive, variable_in_directive, tasks_times_torchrun, idle_gpus,
    counts_differ, gpus_per_task, not_exclusive, no_account, no_time, no_signal, no_requeue,
    time_of_signal, log_overwritten, one_log_for_all,
)  # fmt: skip
