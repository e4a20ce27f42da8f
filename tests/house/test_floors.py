"""Imports go down only, functions included; outside names stay in the rooms that own them."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "megatron_math"
FLOORS = (
    ("base", "sandbox", "answers"),
    (
        "device", "native", "tokenizer", "engine", "benchmarks", "dataset", "checkpoint", "model",
        "watch",
    ),
    ("synthesize", "curate", "index", "blend", "train", "convert", "evaluate", "report"),
    (
        "pipeline", "inspect", "estimate", "dry_run", "megatron_flags", "doctor", "gpu_check",
        "launch", "status", "roads", "study", "cli",
    ),
)  # fmt: skip
# On the same floor: who may import whom (DESIGN: each tool wraps exactly one outside thing).
SAME_FLOOR = {
    ("sandbox", "base"), ("answers", "base"), ("answers", "sandbox"),
    ("model", "device"), ("dataset", "native"), ("checkpoint", "device"),
    ("engine", "model"), ("engine", "checkpoint"), ("engine", "device"), ("engine", "tokenizer"),
    ("cli", "pipeline"), ("cli", "inspect"), ("cli", "estimate"),
    ("cli", "dry_run"), ("cli", "megatron_flags"),
    ("cli", "doctor"), ("cli", "status"), ("cli", "roads"),
    ("cli", "launch"), ("launch", "pipeline"),
    ("cli", "study"), ("study", "pipeline"), ("study", "roads"), ("study", "launch"),
    ("gpu_check", "estimate"),
}  # fmt: skip
CORE_ROOMS = {"device", "dataset", "checkpoint", "model", "engine", "train", "convert"}
DEVICE_WORDS = ("cuda", "nccl", "gloo")
DEVICE_WORDS_TOO = {"device", "doctor"}


def floor_of(room: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if room in rooms:
            return number
    raise AssertionError(f"'{room}' stands on no floor; name it in FLOORS")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_in(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "relative imports hide the room; write them out"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def breaches(room: str, source: str) -> list[str]:
    """What `source`, standing in `room`, imports against the rules."""
    found = []
    for name in imports_in(ast.parse(source)):
        if name == "megatron.core" or name.startswith("megatron.core."):
            if room not in CORE_ROOMS:
                found.append(f"{room} imports {name}")
        elif name.startswith("megatron_math."):
            other = name.split(".")[1]
            if other in ("__version__", "_native", room):
                if other == "_native" and room != "native":
                    found.append(f"{room} imports the extension past native/")
                continue
            up = floor_of(other) > floor_of(room)
            aside = floor_of(other) == floor_of(room) and (room, other) not in SAME_FLOOR
            if up or aside:
                found.append(f"{room} imports {other}")
    return found


def test_imports_go_down_only() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent == PACKAGE and path.name == "__init__.py":
            continue
        found += [f"{path.name}: {b}" for b in breaches(room_of(path), path.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("base", "from megatron_math.train.run import run"),
        ("train", "def f():\n    from megatron_math.convert.run import run"),
        ("blend", "import megatron.core"),
        ("dataset", "from megatron_math.tokenizer import load"),
        ("blend", "from megatron_math._native import sample_index"),
    ],
)
def test_a_breach_is_seen(room: str, source: str) -> None:
    assert breaches(room, source)


def test_device_words_stay_in_device() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if room_of(path) in DEVICE_WORDS_TOO:
            continue
        tree = ast.parse(path.read_text())
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            text = ""
            if isinstance(node, ast.Name):
                text = node.id
            elif isinstance(node, ast.Attribute):
                text = node.attr
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = "" if id(node) in docstrings else node.value
            words = text.lower().replace("_", " ").replace(":", " ").split()
            found += [
                f"{path.relative_to(PACKAGE)}:{node.lineno}: {word}"  # type: ignore[attr-defined]
                for word in DEVICE_WORDS
                if word in words
            ]
    assert not found, "\n".join(found)


def test_no_rooms_for_odds_and_ends() -> None:
    for path in PACKAGE.rglob("*"):
        assert path.stem not in ("utils", "common", "helpers", "misc", "util"), path
