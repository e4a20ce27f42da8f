"""Rules about what a script does: how ranks meet, what srun starts, what becomes of exit codes."""

import re
import shutil
import subprocess
from collections.abc import Iterator

from megatron_math.launch.lint.finding import Finding
from megatron_math.launch.lint.sbatch_file import DISTRIBUTED, Command, SbatchFile

_OTHER_MEETING = r"\b(mpirun|mpiexec|deepspeed)\b|--mpi\b|tcp://"
_MEETS = r"--(?:master[-_]addr|rdzv[-_]endpoint)[= ]"
_LOCAL = r"(?:MASTER_ADDR=|--master[-_]addr[= ]|--rdzv[-_]endpoint[= ])[\"']?(?:localhost|127\.)"
_RANK = r"\$\{?SLURM_(?:PROCID|NODEID|LOCALID)\b"


def no_shebang(file: SbatchFile) -> Iterator[Finding]:
    if not file.text.startswith("#!"):
        yield Finding(
            1, "no #! in the first line", "sbatch takes scripts only", "begin with #!/bin/bash"
        )


def syntax(file: SbatchFile) -> Iterator[Finding]:
    bash = shutil.which("bash")
    if bash is None or not re.match(r"#!.*\b(ba)?sh\b", file.text):
        return
    read = subprocess.run([bash, "-n"], input=file.text, capture_output=True, text=True)
    if read.returncode:
        line = re.search(r"line (\d+)", read.stderr)
        yield Finding(
            int(line[1]) if line else 1, "bash cannot read it",
            read.stderr.strip().splitlines()[0].removeprefix("bash: "), "mend that",
        )  # fmt: skip


def no_rendezvous(file: SbatchFile) -> Iterator[Finding]:
    if not file.is_distributed or file.nodes == 1 or file.mentions(_OTHER_MEETING):
        return
    local = file.mentions(_LOCAL)
    if local is not None:
        yield Finding(
            local.line, "several nodes meet at localhost", "each node waits for itself",
            'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)',
        )  # fmt: skip
    for command, _ in file.steps:
        if DISTRIBUTED.search(command.text):
            if not re.search(_MEETS, command.text) and not file.mentions("PET_(MASTER|RDZV)"):
                yield Finding(
                    command.line, "a launcher on several nodes without --master-addr",
                    "torchrun does not read MASTER_ADDR: each node meets itself",
                    'give --master-addr="$MASTER_ADDR" or --rdzv-endpoint',
                )  # fmt: skip
        elif re.search(r"\bpython", command.text):
            yield from _exported(file, command)


def _exported(file: SbatchFile, step: Command) -> Iterator[Finding]:
    for name, advice in (
        ("MASTER_ADDR", '$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)'),
        ("MASTER_PORT", "$((20000 + SLURM_JOB_ID % 10000))"),
    ):
        if not file.mentions(rf"\b{name}="):
            yield Finding(
                step.line, f"{name} is not set", "ranks of several nodes do not find each other",
                f"export {name}={advice}",
            )  # fmt: skip
        elif not file.mentions(rf"\bexport\b.*\b{name}\b|\b{name}=\S+ .*\bsrun\b|set -a"):
            yield Finding(
                file.mentions(rf"\b{name}=").line, f"{name} is set and not exported",  # type: ignore
                "no process sees it", f"export {name}",
            )  # fmt: skip


def rank_too_early(file: SbatchFile) -> Iterator[Finding]:
    for command, _ in file.steps:
        outside = re.sub(r"'[^']*'", "", command.text)
        found = re.search(r"(?<!\\)" + _RANK, outside)
        if found:
            yield Finding(
                command.line, f"{found[0]} outside of single quotes",
                "the batch shell fills it in once, so every task gets 0",
                "srun bash -c '... \"$SLURM_NODEID\" ...'",
            )  # fmt: skip


def only_the_first_node(file: SbatchFile) -> Iterator[Finding]:
    if file.nodes == 1 or file.mentions(_OTHER_MEETING):
        return
    for command in file.commands:
        if DISTRIBUTED.search(command.text) and not file.mentions(r"\b(srun|ssh|pdsh)\b"):
            yield Finding(
                command.line, "a launcher without srun", "a batch script runs on the first node",
                "srun in front of it, one task a node",
            )  # fmt: skip
            return


def srun_cpus(file: SbatchFile) -> Iterator[Finding]:
    if not (file.is_distributed or file.option("cpus-per-task")):
        return
    if file.mentions(r"\bSRUN_CPUS_PER_TASK="):
        return
    for command, options in file.steps:
        works = re.search(r"\bpython|bash\b", command.text) or DISTRIBUTED.search(command.text)
        if works and not any(option.name == "cpus-per-task" for option in options):
            yield Finding(
                command.line, "srun without --cpus-per-task",
                "since SLURM 22.05 it does not take it from sbatch: a task may have one core",
                'srun --cpus-per-task="$SLURM_CPUS_PER_TASK"',
            )  # fmt: skip


def exit_code_hidden(file: SbatchFile) -> Iterator[Finding]:
    strict = file.mentions(r"\bset\s+(-[a-z]*e|-o\s+errexit)") or re.match(
        r"#!.*\s-[a-z]*e", file.text
    )
    for place, command in enumerate(file.commands):
        if not command.runs("srun"):
            continue
        after = file.commands[place + 1 :]
        asks = next((c for c in after if re.search(r"\$\?|PIPESTATUS", c.text)), None)
        piped = re.search(
            r"(?<!\|)\|(?!\|)", re.sub(r"'[^']*'|\"[^\"]*\"|\$\([^)]*\)", "", command.text)
        )
        guarded = re.search(r"\|\||&\s*$", command.text) or re.match(
            r"(if|while|!)\b", command.text
        )
        if piped and not file.mentions(r"\bpipefail\b") and not file.mentions("PIPESTATUS"):
            yield Finding(
                command.line, "srun into a pipe, without pipefail",
                "the exit code is that of the pipe's end: a crash looks like success",
                "set -o pipefail, or let --output write the log",
            )  # fmt: skip
        if strict and asks is not None and not guarded:
            yield Finding(
                asks.line, "$? behind a step, with set -e",
                "a step that fails ends the script, and this line is never reached",
                "srun ... || code=$?",
            )  # fmt: skip
        if not strict and after and asks is None and not guarded and not _ends_with_exit(file):
            yield Finding(
                command.line, "commands behind the step",
                "the job's exit code is that of the last one: a crash looks like success",
                "set -e, or srun ... || code=$? and exit $code at the end",
            )  # fmt: skip


def _ends_with_exit(file: SbatchFile) -> bool:
    last = file.commands[-1]
    return last.runs("srun") or last.runs("exit") or last.runs("wait")


def signal_and_trap(file: SbatchFile) -> Iterator[Finding]:
    signal = file.option("signal")
    if signal is None:
        return
    name = signal.value.rpartition(":")[2].partition("@")[0].removeprefix("SIG")
    to_shell = signal.value.startswith(("B:", "BR:", "RB:"))
    trap = file.mentions(rf"\btrap\b.*\b(SIG)?{re.escape(name)}\b")
    if to_shell and trap is None:
        yield Finding(
            signal.line, f"--signal={signal.value} and no trap for it",
            "B: tells the batch shell only, which dies of it",
            f"--signal={name}@120 tells the tasks; or trap {name} and hand it on",
        )  # fmt: skip
    elif to_shell and trap is not None:
        for command, _ in file.steps:
            if not re.search(r"&\s*$", command.text):
                yield Finding(
                    command.line, "srun in the foreground, with a trap for the time limit",
                    "bash runs a trap when the command before it has ended, which is too late",
                    'srun ... & and wait "$!"',
                )  # fmt: skip
    elif trap is not None:
        yield Finding(
            trap.line, f"a trap for {name}, and --signal={signal.value}",
            "without B: the tasks get the signal and the batch shell does not",
            f"--signal=B:{signal.value}, or no trap",
        )  # fmt: skip


def kill_on_bad_exit(file: SbatchFile) -> Iterator[Finding]:
    for command, options in file.steps:
        if file.option("signal") and any(o.name in ("K", "kill-on-bad-exit") for o in options):
            yield Finding(
                command.line, "--kill-on-bad-exit with a signal to save on",
                "the first rank that says 75 has the others killed while they save",
                "--wait=60", is_mistake=False,
            )  # fmt: skip


RULES = (
    no_shebang, syntax, no_rendezvous, rank_too_early, only_the_first_node, srun_cpus,
    exit_code_hidden, signal_and_trap, kill_on_bad_exit,
)  # fmt: skip
