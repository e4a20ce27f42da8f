"""Honest code runs as it would anywhere; what the sandbox is asked for, says and refuses."""

import os
import pwd
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_math.base.errors import UserError
from megatron_math.sandbox.isolation import LAYERS, Layer
from megatron_math.sandbox.python import (
    ACCEPTED,
    Limits,
    PythonSandbox,
    layers,
    refusal,
    run_python,
)
from megatron_math.sandbox.worker import Worker

needs_sandbox = pytest.mark.skipif(
    bool(refusal(layers())), reason=f"no sandbox on this machine: {refusal(layers())}"
)


@pytest.fixture(scope="module")
def sandbox():
    with PythonSandbox(2, Limits(wall_seconds=20.0, cpu_seconds=20.0)) as sandbox:
        yield sandbox


HONEST = [
    ("print(2 + 2)", b"4\n"),
    ("from fractions import Fraction\nprint(Fraction(1, 3) + Fraction(1, 6))", b"1/2\n"),
    ("from decimal import *\ngetcontext().prec = 30\nprint(Decimal(1) / 7)",
     b"0.142857142857142857142857142857\n"),
    ("import sympy\nx = sympy.Symbol('x')\nprint(sympy.solve(x**2 - 5*x + 6))", b"[2, 3]\n"),
    ("import sympy as s\nx = s.symbols('x')\nprint(s.integrate(s.exp(-x**2), (x, -s.oo, s.oo)))",
     b"sqrt(pi)\n"),
    ("import numpy as np\nprint(np.linalg.det(np.eye(3) * 2).round(6))", b"8.0\n"),
    ("import numpy as np\nprint(np.random.default_rng(0).integers(10, size=3).tolist())",
     b"[8, 6, 5]\n"),
    ("import mpmath\nmpmath.mp.dps = 25\nprint(mpmath.zeta(3))", b"1.202056903159594285399738\n"),
    ("from sympy import isprime\nprint(isprime(2**61 - 1))", b"True\n"),
    ("def f(n):\n    return 1 if n == 0 else n * f(n - 1)\nprint(f(500) % 1009)", b"803\n"),
    ("print('\u03c0 \u2248 3.14159 \U0001d54f')", "π ≈ 3.14159 𝕏\n".encode()),
    ("import itertools\nprint(sum(1 for _ in itertools.permutations(range(7))))", b"5040\n"),
    ("import sys\nprint('a')\nsys.exit(0)", b"a\n"),
    ("if __name__ == '__main__':\n    print('main')", b"main\n"),
    ("class A:\n    pass\nprint(A.__module__)", b"__main__\n"),
    ("from dataclasses import *\n@dataclass\nclass P:\n    x: int\nprint(P(1))", b"P(x=1)\n"),
    ("import tempfile\nwith tempfile.NamedTemporaryFile('w+') as f:\n    f.write('hi')\n"
     "    f.seek(0)\n    print(f.read())", b"hi\n"),
    ("with open('notes', 'w') as f:\n    f.write('x' * 10)\nprint(len(open('notes').read()))",
     b"10\n"),
    ("import threading\nout = []\nts = [threading.Thread(target=out.append, args=(i,)) "
     "for i in range(4)]\n[t.start() for t in ts]\n[t.join() for t in ts]\nprint(sorted(out))",
     b"[0, 1, 2, 3]\n"),
    ("import threading\nthreading.Thread(target=lambda: print('late')).start()", b"late\n"),
    ("import atexit\natexit.register(print, 'bye')\nprint('hi')", b"hi\nbye\n"),
    ("import signal\ndef stop(*_):\n    raise TimeoutError\nsignal.signal(signal.SIGALRM, stop)\n"
     "signal.setitimer(signal.ITIMER_REAL, 0.05)\ntry:\n    while True:\n        pass\n"
     "except TimeoutError:\n    print('timed out')", b"timed out\n"),
    ("import json, re, csv, io, string, textwrap, calendar, datetime, bisect, hashlib\n"
     "print(hashlib.sha256(b'').hexdigest()[:8], calendar.isleap(2024))", b"e3b0c442 True\n"),
    ("import sqlite3\nprint(sqlite3.connect(':memory:').execute('select 6 * 7').fetchone())",
     b"(42,)\n"),
    ("import os\nprint(os.getcwd(), os.listdir('.'))", b"/tmp []\n"),
    ("from contextlib import redirect_stdout\nimport io\nb = io.StringIO()\n"
     "with redirect_stdout(b):\n    print('in')\nprint(repr(b.getvalue()))", b"'in\\n'\n"),
    ("import random\nrandom.seed(0)\nprint(random.randint(1, 100))", b"50\n"),
    ("import concurrent.futures as c\nwith c.ThreadPoolExecutor(4) as p:\n"
     "    print(list(p.map(abs, [-1, -2])))", b"[1, 2]\n"),
    ("import pickle\nprint(pickle.loads(pickle.dumps({'a': 1})))", b"{'a': 1}\n"),
    ("try:\n    input()\nexcept EOFError:\n    print('no input')", b"no input\n"),
    ("import time\nt = time.monotonic()\ntime.sleep(0.05)\nprint(time.monotonic() - t >= 0.05)",
     b"True\n"),
    ("", b""),
]  # fmt: skip


@needs_sandbox
def test_honest_code_runs_as_anywhere(sandbox) -> None:
    results = sandbox.run_all([code for code, _ in HONEST])
    wrong = [
        (code, result)
        for (code, printed), result in zip(HONEST, results, strict=True)
        if (result.outcome, result.stdout, result.exit_status) != ("ok", printed, 0)
    ]
    assert wrong == []
    assert {(result.stderr, result.refused, result.is_cut) for result in results} == {
        (b"", (), False)
    }


FAULTY = [
    ("1 / 0", 1, b"ZeroDivisionError: division by zero"),
    ("raise SystemExit(7)", 7, b""),
    ("import sys\nsys.exit('no')", 1, b"no"),
    ("assert 1 == 2, 'two'", 1, b"AssertionError: two"),
    ("input()", 1, b"EOFError: EOF when reading a line"),
    ("def f(): return f()\nf()", 1, b"RecursionError: maximum recursion depth exceeded"),
    ("print(", 1, b"SyntaxError: '(' was never closed"),
    ("import torch", 1, b"ModuleNotFoundError: No module named 'torch'"),
]


@needs_sandbox
@pytest.mark.parametrize(("code", "status", "last_line"), FAULTY)
def test_faults_look_as_they_do_anywhere(sandbox, code, status, last_line) -> None:
    result = sandbox.run(code)
    assert (result.outcome, result.exit_status) == ("error", status)
    assert (result.stderr.rstrip().splitlines() or [b""])[-1] == last_line


@needs_sandbox
def test_a_traceback_shows_the_code_and_nothing_of_ours(sandbox) -> None:
    result = sandbox.run("def half(x):\n    return x / 0\nhalf(2)")
    assert result.stderr.splitlines()[:3] == [
        b"Traceback (most recent call last):",
        b'  File "snippet.py", line 3, in <module>',
        b"    half(2)",
    ]
    assert b"megatron" not in result.stderr


@needs_sandbox
def test_results_keep_the_order_of_the_snippets_and_threads_may_share(sandbox) -> None:
    seen: dict[int, list[bytes]] = {}

    def ask(who: int) -> None:
        codes = [f"print({who}, {place})" for place in range(10)]
        seen[who] = [result.stdout for result in sandbox.run_all(codes)]

    threads = [threading.Thread(target=ask, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {w: [f"{w} {place}\n".encode() for place in range(10)] for w in range(4)}


@needs_sandbox
def test_bytes_come_as_they_were_written(sandbox) -> None:
    result = sandbox.run("import os\nos.write(1, bytes(range(256)))\nos.write(2, b'\\xff\\x00')")
    assert (result.stdout, result.stderr) == (bytes(range(256)), b"\xff\x00")


@needs_sandbox
def test_what_is_kept_of_a_flood_is_its_beginning() -> None:
    limits = Limits(output_bytes=1000)
    with PythonSandbox(1, limits, preload=()) as sandbox:
        flood = sandbox.run("print('start')\nwhile True:\n    print('x' * 100)")
        exact = sandbox.run("import os\nos.write(1, b'y' * 1000)\nos.write(2, b'z' * 1000)")
    assert (flood.outcome, flood.is_cut, len(flood.stdout)) == ("output", True, 1000)
    assert flood.stdout.startswith(b"start\nxxx")
    assert (exact.outcome, exact.is_cut, exact.stdout) == ("ok", False, b"y" * 1000)


@needs_sandbox
def test_a_refused_call_that_was_handled_is_told(sandbox) -> None:
    code = "import socket\ntry:\n    socket.socket()\nexcept PermissionError:\n    print('offline')"
    result = sandbox.run(code)
    assert (result.outcome, result.stdout, result.refused) == ("ok", b"offline\n", ("socket",))


@needs_sandbox
def test_a_worker_that_is_lost_is_replaced() -> None:
    with PythonSandbox(1, preload=()) as sandbox:
        assert sandbox.run("print(1)").outcome == "ok"
        (worker,) = sandbox._workers
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.wait()  # before that the one within may still answer (2026-11-24)
        lost = sandbox.run("print(2)")
        assert (lost.outcome, lost.stdout) == ("killed", b"")
        assert "the worker was lost" in lost.reason
        assert sandbox.run("print(3)").stdout == b"3\n"


@needs_sandbox
def test_an_interrupt_leaves_no_answer_to_the_next(monkeypatch) -> None:
    with PythonSandbox(1, preload=()) as sandbox:
        (worker,) = sandbox._workers
        worker.greeting()
        follow = Worker._follow

        def interrupted(*_):
            monkeypatch.setattr(Worker, "_follow", follow)
            raise KeyboardInterrupt

        monkeypatch.setattr(Worker, "_follow", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sandbox.run("import time\ntime.sleep(0.2)\nprint('first')")
        assert sandbox.run("print('second')").stdout == b"second\n"
        assert worker not in sandbox._workers


@needs_sandbox
def test_close_ends_a_snippet_that_runs() -> None:
    sandbox = PythonSandbox(1, Limits(wall_seconds=30.0), preload=())
    results = []
    thread = threading.Thread(target=lambda: results.append(sandbox.run("while True: pass")))
    thread.start()
    time.sleep(0.3)
    (worker,) = sandbox._workers
    started = time.monotonic()
    os.killpg(worker._process.pid, signal.SIGKILL)
    thread.join()
    sandbox.close()
    assert time.monotonic() - started < 5
    assert results[0].outcome == "killed"
    with pytest.raises(ValueError, match="closed"):
        sandbox.run("print(1)")


@needs_sandbox
def test_no_process_outlives_a_caller_that_is_killed(tmp_path) -> None:
    script = (
        "import sys, time\n"
        "from megatron_math.sandbox.python import PythonSandbox, Limits\n"
        "sandbox = PythonSandbox(1, Limits(wall_seconds=60.0, cpu_seconds=60.0), preload=())\n"
        "print(next(iter(sandbox._workers))._process.pid, flush=True)\n"
        "sandbox.run('while True: pass')\n"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert caller.stdout is not None
    outer = int(caller.stdout.readline())
    children = Path(f"/proc/{outer}/task/{outer}/children")
    inner = int(children.read_text().split()[0])
    time.sleep(0.3)
    caller.kill()
    caller.wait()
    caller.stdout.close()
    deadline = time.monotonic() + 10
    gone = [Path(f"/proc/{pid}/stat") for pid in (outer, inner)]
    while any(is_alive(path) for path in gone) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(is_alive(path) for path in gone)


def is_alive(stat: Path) -> bool:
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


RUN_ONE = (
    "import sys\n"
    "from megatron_math.sandbox.python import PACKAGES, Limits, PythonSandbox\n"
    "limits = Limits(wall_seconds=20.0, cpu_seconds=20.0)\n"
    "packages = sys.argv[2:] or PACKAGES\n"
    "with PythonSandbox(1, limits, packages=packages, preload=()) as sandbox:\n"
    "    print(sandbox.run(sys.argv[1]).stdout.decode(), end='')\n"
)


def run_one(snippet: str, *packages: str, path: str = "") -> str:
    """What a snippet printed in a sandbox that a new process has opened."""
    return subprocess.run(
        [sys.executable, "-c", RUN_ONE, snippet, *packages],
        stdout=subprocess.PIPE, text=True, timeout=60, check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, *filter(None, [path])])},
    ).stdout  # fmt: skip


@needs_sandbox
@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT"])
def test_a_snippet_obeys_signals_that_its_starter_ignored(name) -> None:
    """`nohup` and a shell's `&` start programs that ignore these."""
    snippet = f"print('here', flush=True)\nsignal.raise_signal(signal.{name})\nprint('unhurt')"
    number = signal.Signals[name]
    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert run_one("import signal\n" + snippet) == "here\n"
    finally:
        signal.signal(number, before)


@needs_sandbox
def test_packages_that_lie_in_tmp_are_found_whenever_they_are_imported() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        package = Path(folder, "planted_package")
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "later.py").write_text("value = 42\n")
        listing = "import os\nprint(os.listdir('/tmp'))\n"
        snippet = listing + "from planted_package.later import value\nprint(value)"
        assert run_one(snippet, "planted_package", path=folder) == "[]\n42\n"
        assert run_one(snippet, path=folder) == "[]\n"


@needs_sandbox
def test_run_python_gives_a_model_what_it_can_read(sandbox) -> None:
    assert run_python(sandbox, "print(6 * 7)") == "42\n"
    text = run_python(sandbox, "print('so far')\nprint(undefined)")
    assert text.startswith("so far\n")
    assert text.endswith("NameError: name 'undefined' is not defined\n[error: exit status 1]")
    assert run_python(sandbox, "print('x' * 5000)", characters=100) == "x" * 97 + "..."
    long = run_python(sandbox, "print('x' * 5000)\n1 / 0", characters=200)
    assert len(long) <= 201
    assert long.endswith("ZeroDivisionError: division by zero\n[error: exit status 1]")


def layers_without(*names: str) -> tuple[Layer, ...]:
    return tuple(Layer(name, name not in names, "planted") for name in LAYERS)


@pytest.mark.parametrize(
    ("off", "names"),
    [
        (["seccomp"], ["seccomp"]),
        (["rlimits"], ["rlimits"]),
        (["identity"], ["identity"]),
        (["mount", "landlock"], ["mount", "landlock"]),
        (["user", "mount", "pid", "network", "ipc", "uts", "cgroup"], []),
        (["landlock"], []),
        (["network", "seccomp"], ["network", "seccomp"]),
    ],
)
def test_what_is_missing_is_named(off, names) -> None:
    why = refusal(layers_without(*off))
    assert bool(why) == bool(names)
    assert all(f"{name}: planted" in why for name in names)
    assert not why or (ACCEPTED in why and "doctor" in why)


def test_every_layer_says_what_it_is() -> None:
    found = layers()
    assert sorted(layer.name for layer in found) == sorted(LAYERS)
    assert all(layer.found for layer in found)


@needs_sandbox
def test_without_protection_only_in_so_many_words() -> None:
    with pytest.raises(UserError, match="I accept that this code"):
        PythonSandbox(1, without=["seccomp"])
    with pytest.raises(UserError, match="leave it out, or write"):
        PythonSandbox(1, unprotected="yes")
    with pytest.raises(UserError, match="unknown layers"):
        PythonSandbox(1, without=["walls"], unprotected=ACCEPTED)
    with PythonSandbox(1, preload=(), without=["seccomp"], unprotected=ACCEPTED) as sandbox:
        assert not {layer.name: layer.on for layer in sandbox.layers}["seccomp"]


@needs_sandbox
def test_limits_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="wall_seconds = 0"):
        Limits(wall_seconds=0)
    with pytest.raises(UserError, match="at least"):
        PythonSandbox(1, Limits(memory_bytes=16 << 20))
    with pytest.raises(UserError, match="workers = 0"):
        PythonSandbox(0)


@needs_sandbox
@pytest.mark.parametrize("namespaces", ["user mount pid network ipc uts cgroup", "mount", "user"])
def test_it_protects_where_namespaces_are_refused(namespaces, tmp_path) -> None:
    """In most containers: Landlock, seccomp and limits are left, and they suffice."""
    secret = tmp_path / "secret.txt"
    secret.write_text("canary")
    secret.chmod(0o666)
    limits = replace(Limits(), wall_seconds=5.0)
    with PythonSandbox(
        1, limits, preload=(), without=namespaces.split(), unprotected=ACCEPTED
    ) as sandbox:
        assert refusal(sandbox.layers) == ""
        assert sandbox.run("import fractions\nprint(fractions.Fraction(1, 2))").stdout == b"1/2\n"
        read = sandbox.run(f"print(open({str(secret)!r}).read())")
        written = sandbox.run(f"open({str(secret)!r}, 'w').write('x')")
        listed = sandbox.run("import os\nprint(os.listdir('/proc'))")
        forked = sandbox.run("import os\nos.fork()")
        killed = sandbox.run("import os\nos.kill(os.getppid(), 9)")
        if "mount" in namespaces:  # Landlock knows nothing of these
            for change in ("chmod({}, 0)", "utime({}, (1, 1))", "truncate({}, 0)", "unlink({})",
                           "chown({}, 1, 1)", "rename({0}, {0} + 'x')"):  # fmt: skip
                changed = sandbox.run(f"import os\nos.{change.format(repr(str(secret)))}")
                assert changed.outcome == "forbidden", change
    assert (read.outcome, written.outcome, listed.outcome) == ("error", "error", "error")
    assert (forked.outcome, killed.outcome) == ("forbidden", "forbidden")
    assert secret.read_text() == "canary"
    assert secret.stat().st_mode & 0o777 == 0o666
    assert secret.stat().st_mtime > 10


AS_ANOTHER_USER = """
import ctypes, os, subprocess, sys
from megatron_math.sandbox import kernel
python, paths, script = sys.argv[1], sys.argv[2].split(":"), sys.argv[3]
kernel.unshare("mount")
kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
for folder in ("/root",):  # what lies there is shown to everybody, in this mount namespace only
    for path in paths:
        if path.startswith(folder + "/"):
            place = os.open(path, os.O_PATH)
            kernel.mount("none", folder, "tmpfs", 0, "mode=755")
            os.makedirs(path)
            kernel.mount(f"/proc/self/fd/{place}", path, None, kernel.MS_BIND | kernel.MS_REC)
            os.close(place)
            break
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
os.chdir("/")
os.execv(python, [python, "-B", "-c", script])
"""

SCRIPT = """
import os, sys
sys.path[:0] = {paths!r}
from megatron_math.sandbox.python import PythonSandbox, layers
assert os.getuid() == 65534
for layer in layers():
    print(layer.name, layer.on, layer.found)
with PythonSandbox(1, preload=("math", "numpy")) as sandbox:
    for code in ("import numpy; print(numpy.arange(3).sum())", "import os; os.fork()",
                 "open('/planted', 'w')", "import socket; socket.socket()", "bytearray(1 << 40)",
                 "import threading as t, time; [t.Thread(target=time.sleep, args=(9,), "
                 "daemon=True).start() for _ in range(99)]"):
        result = sandbox.run(code)
        print(result.outcome, result.stdout)
"""


@needs_sandbox
def test_an_ordinary_user_is_protected_as_well() -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user; this user's own tests are the same ones")
    if "nobody" not in [entry.pw_name for entry in pwd.getpwall()]:
        pytest.skip("there is no user nobody here")
    repository = str(Path(__file__).resolve().parents[2])
    paths = [path for path in sys.path if path]
    answer = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER_USER, sys.executable, sys.base_prefix,
         SCRIPT.format(paths=[repository, *paths])],
        capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([repository, *sys.path])},
    )  # fmt: skip
    rows = answer.stdout.splitlines()
    assert len(rows) > len(LAYERS), answer.stderr[-2000:]
    on = {row.split()[0] for row in rows[: len(LAYERS)] if row.split()[1] == "True"}
    if "user" not in on:
        pytest.skip(f"ordinary users get no namespaces here: {rows[0]}")
    assert on == set(LAYERS)
    outcomes = [row.split()[0] for row in rows[len(LAYERS) :]]
    assert outcomes == ["ok", "forbidden", "error", "forbidden", "memory", "error"]
