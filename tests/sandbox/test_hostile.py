"""502 hostile snippets: none gets out, none lasts, none eats more than it may, none harms us.

The controls take layers away on purpose: then the same snippets must be seen to get out.
"""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
from hostile_corpus import (
    LIMITS,
    SPARE_BYTES,
    Outside,
    Report,
    Snippet,
    Supervisor,
    find,
    load,
    processes,
    run_one,
)

from megatron_math.sandbox.python import ACCEPTED, PythonSandbox, layers, refusal

pytestmark = pytest.mark.skipif(
    bool(refusal(layers())), reason=f"no sandbox on this machine: {refusal(layers())}"
)
WORKERS = 2
PATIENT = replace(LIMITS, wall_seconds=20.0, cpu_seconds=20.0)


@dataclass(frozen=True)
class Campaign:
    """A run of many snippets: each one's report, and what was seen of all of them."""

    reports: list[Report]
    traces: list[str]
    at_rest_bytes: int
    most_bytes: int
    processes_before: list[int]
    processes_after: list[int]
    faults: list[str]


def run_campaign(snippets: list[Snippet], folder, workers=WORKERS) -> Campaign:
    with Outside(folder) as outside, PythonSandbox(workers, LIMITS) as sandbox:
        sandbox.run_all(["pass"] * 2 * workers)  # all of them started
        before = processes(sandbox)
        with Supervisor(sandbox) as supervisor, ThreadPoolExecutor(workers) as threads:
            found = threads.map(lambda snippet: run_one(sandbox, outside, snippet), snippets)
            reports = [report for report in found if report is not None]
        faults = [fault for report in reports for fault in second_chance(report, sandbox, outside)]
        after = processes(sandbox)
        time.sleep(0.3)  # what was sent late arrives
        return Campaign(reports, outside.traces(), supervisor.at_rest_bytes, supervisor.most_bytes,
                        before, after, faults)  # fmt: skip


def second_chance(report: Report, sandbox: PythonSandbox, outside: Outside) -> list[str]:
    """Faults of a report. A machine that was busy with other things is given another try, alone;
    what was cut off before it could show its own end gets more time. An escape gets neither."""
    faults = report.faults()
    if not faults or report.escapes:
        return faults
    if report.result.outcome == "timeout" and "timeout" not in report.snippet.outcomes:
        with PythonSandbox(1, PATIENT) as patient:
            patient.run("pass")
            again = run_one(patient, outside, report.snippet)
        limits = PATIENT
    else:
        again, limits = run_one(sandbox, outside, report.snippet), LIMITS
    assert again is not None
    return again.faults(limits)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    snippets = [snippet for snippet in load() if not snippet.is_slow]
    return run_campaign(snippets, tmp_path_factory.mktemp("campaign"))


def test_the_corpus_is_large_and_various() -> None:
    snippets = load()
    assert len({(snippet.family, snippet.name) for snippet in snippets}) == len(snippets) >= 500
    assert len({snippet.code for snippet in snippets}) > 495  # two ends of a pair may share code
    assert min(Counter(snippet.family for snippet in snippets).values()) >= 10


def test_each_has_an_outcome_that_is_right_in_time(campaign: Campaign) -> None:
    assert len(campaign.reports) > 450
    assert campaign.faults == []
    classes = {report.result.outcome for report in campaign.reports}
    assert classes == {"ok", "error", "timeout", "memory", "output", "killed", "forbidden"}


def test_nothing_outside_was_reached_or_changed(campaign: Campaign) -> None:
    assert campaign.traces == []
    assert [report.snippet for report in campaign.reports if report.escapes] == []


def test_no_process_was_lost_and_none_is_left(campaign: Campaign) -> None:
    assert campaign.processes_after == campaign.processes_before
    assert len(campaign.processes_after) == 2 * WORKERS


def test_memory_stays_within_the_limits(campaign: Campaign) -> None:
    each = LIMITS.memory_bytes + LIMITS.disk_bytes + SPARE_BYTES
    assert campaign.at_rest_bytes < campaign.most_bytes
    assert campaign.most_bytes <= campaign.at_rest_bytes + WORKERS * each


def test_one_worker_keeps_no_state_between_snippets(tmp_path) -> None:
    campaign = run_campaign(load("state"), tmp_path, workers=1)
    assert campaign.faults == []
    assert campaign.traces == []


@pytest.mark.soak
def test_the_slow_ones_too_and_all_again_in_another_order(tmp_path) -> None:
    campaign = run_campaign(load()[::-1], tmp_path)
    assert campaign.faults == []
    assert campaign.traces == []
    assert campaign.processes_after == campaign.processes_before


CONTROLS = [
    ("network", "TCP to the listener", "network seccomp landlock", "TCP was reached"),
    ("network", "UDP to the listener", "network seccomp landlock", "UDP was reached"),
    ("network", "abstract unix socket", "network seccomp landlock", "abstract was reached"),
    ("files", "canary", "mount landlock identity", "the canary was read"),
    ("disk", "write outside", "mount landlock identity", "files outside: ['canary.txt', 'planted'"),
    ("disk", "append to a file outside", "mount landlock identity", "the canary was changed"),
    ("fork", "fork", "seccomp", "it says so"),
    ("memory", "malloc until it says no", "rlimits", "it says so"),
    ("privileges", "become root", "identity seccomp", "it says so"),
    ("privileges", "real name of the machine", "uts", "it says so"),
    ("proc", "every process", "mount landlock identity", ""),
    ("signals", "kill itself", "seccomp", ""),
]


@pytest.mark.parametrize(("family", "name", "without", "sign"), CONTROLS)
def test_without_a_layer_it_is_noticed(family, name, without, sign, tmp_path) -> None:
    """The last two are controls of the controls: one layer less is no escape where others hold."""
    with (
        Outside(tmp_path) as outside,
        PythonSandbox(1, LIMITS, preload=(), without=without.split(), unprotected=ACCEPTED)
        as sandbox,
    ):  # fmt: skip
        report = run_one(sandbox, outside, find(family, name))
        deadline = time.monotonic() + 2
        while sign.endswith("reached") and not outside.reached and time.monotonic() < deadline:
            time.sleep(0.02)
        assert report is not None
        seen = [*report.escapes, *outside.traces()]
    assert any(sign in one for one in seen) if sign else seen == [], (report.result, seen)


def test_the_harness_sees_a_process_left_behind(tmp_path) -> None:
    """Without seccomp a snippet can fork; the pid namespace ends what it leaves."""
    code = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\ntime.sleep(0.5)"
    )
    limits = replace(LIMITS, threads=64)
    with PythonSandbox(1, limits, preload=(), without=["seccomp"], unprotected=ACCEPTED) as sandbox:
        sandbox.run("pass")
        before = processes(sandbox)
        thread = threading.Thread(target=sandbox.run, args=(code,))
        thread.start()
        deadline = time.monotonic() + 5
        while len(processes(sandbox)) < len(before) + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(processes(sandbox)) == len(before) + 2
        thread.join()
        assert sandbox.run("pass").outcome == "ok"
        assert processes(sandbox) == before
