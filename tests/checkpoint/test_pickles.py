"""Hostile pickles are refused by name and never run; honest ones pass."""

import contextlib
import copyreg
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import hostile_pickles
import pytest
from hostile_pickles import PROTOCOL, named, text

from megatron_math.checkpoint.allowed import ARCHIVE, EXTRA_STATE, METADATA
from megatron_math.checkpoint.pickles import UnsafePickleError, check_pickle, load_metadata

NAMES = sorted(hostile_pickles.live(Path("nowhere")))
FORMAT = "torch.distributed.checkpoint."
RULES = {"metadata": METADATA, "archive": ARCHIVE, "extra state": EXTRA_STATE}


@pytest.mark.parametrize("name", NAMES)
def test_code_is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for rules in RULES.values():
        with pytest.raises(
            UnsafePickleError, match=r"it\.pkl is refused, and nothing of it was run"
        ):
            check_pickle(hostile_pickles.live(canary)[name], rules, "it.pkl")
    with pytest.raises(UnsafePickleError):
        load_metadata(hostile_pickles.live(canary)[name], "it.pkl")
    assert not canary.exists()


@pytest.mark.parametrize("name", NAMES)
def test_plain_pickle_does_run_it(name: str, tmp_path: Path) -> None:
    """The control: these are no straw men."""
    canary = tmp_path / "canary"
    with contextlib.suppress(Exception):  # what comes after the call does not matter
        pickle.loads(hostile_pickles.live(canary)[name])
    with contextlib.suppress(ValueError):
        copyreg.remove_extension("os", "mkdir", hostile_pickles.EXTENSION)
    assert canary.is_dir()


def test_what_is_refused_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UnsafePickleError, match=r"asks for posix\.system.*from whom you trust"):
        check_pickle(hostile_pickles.live(tmp_path / "canary")["os.system"], METADATA, "it.pkl")


def test_an_extension_code_of_copyreg_is_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    with hostile_pickles.extension_code(canary) as hostile:
        with pytest.raises(UnsafePickleError, match="has the operation 0x83"):
            check_pickle(hostile, METADATA, "it.pkl")
        assert not canary.exists()
        pickle.loads(hostile)
        assert canary.is_dir()


@pytest.mark.parametrize("name", sorted(hostile_pickles.greedy()))
def test_greed_and_stumps_are_refused(name: str) -> None:
    with pytest.raises(UnsafePickleError, match=r"it\.pkl is refused, and nothing"):
        check_pickle(hostile_pickles.greedy()[name], METADATA, "it.pkl")


def record(name: str, state: bytes, module: str = "metadata") -> bytes:
    """An instance made without arguments and filled from a dict of one key."""
    return named(FORMAT + module, name) + b")\x81}" + state + b"sb."


def file(name: str) -> bytes:
    return record("_StorageInfo", text("relative_path") + text(name), "filesystem")


MISUSED = {
    "a size of a text": named("torch", "Size") + text("x") + b"\x85R.",
    "a layout of a number": named("torch.serialization", "_get_layout") + b"K\x01\x85R.",
    "a layout without arguments": named("torch.serialization", "_get_layout") + b")R.",
    "an enumeration of a text": named(FORMAT + "planner", "WriteItemType") + text("x") + b"\x85R.",
    "a path of a number": named("pathlib", "PosixPath") + text("x") + b"K\x01\x86R.",
    "a record that is called with arguments": (
        named(FORMAT + "metadata", "Metadata") + b"}\x85R."
    ),
    "a number type that is called": named("torch", "float32") + b")R.",
    "a class that is filled": named(FORMAT + "metadata", "Metadata") + b"}" + text("x") + b"Nsb.",
    "a record that is filled twice over, slots too": (
        named(FORMAT + "metadata", "Metadata") + b")\x81N}" + text("__class__") + b"Ns\x86b."
    ),
    "an attribute with underscores": record("Metadata", text("__class__") + b"N"),
    "an attribute that is a number": record("Metadata", b"K\x01N"),
    "a file above the folder": file("../x"),
    "a file at the root": file("/etc/passwd"),
    "a hidden file": file(".metadata"),
    "a file that is a number": (
        record("_StorageInfo", text("relative_path") + b"K\x01", "filesystem")
    ),
    "items set on a record": named(FORMAT + "metadata", "Metadata") + b")\x81" + text("x") + b"Ns.",
    "a record that is appended to": named(FORMAT + "metadata", "Metadata") + b")\x81Na.",
    "a method of an allowed class": named(FORMAT + "metadata", "Metadata.__init__") + b".",
    "its globals": named(FORMAT + "metadata", "Metadata.__init__.__globals__") + b".",
    "the module itself": named(FORMAT, "metadata") + b".",
    "a tensor's data in a list of tensors": text("storage") + b"Q.",
    "an ordered dict of a class": (
        named("collections", "OrderedDict") + named("torch", "Size") + b"\x85R."
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MISUSED))
def test_allowed_names_do_nothing_but_what_checkpoints_do(name: str) -> None:
    with pytest.raises(UnsafePickleError, match=r"it\.pkl is refused, and nothing"):
        check_pickle(PROTOCOL + MISUSED[name], METADATA, "it.pkl")


@pytest.mark.parametrize(
    "pid",
    ["x", ("storage",), ("module", "os", "0", "cpu", 1), ("storage", "FloatStorage", "0", "cpu", 1),
     ("storage", None, "../0", "cpu", 1)],
)  # fmt: skip
def test_only_tensors_data_lies_beside_an_archive(pid: Any) -> None:
    data = PROTOCOL + pickle.dumps(pid, 4)[2:-1] + b"Q."
    if data[2:3] == b"\x95":  # without its frame, whose length is now another
        data = PROTOCOL + data[11:]
    with pytest.raises(UnsafePickleError, match="outside of itself"):
        check_pickle(data, ARCHIVE, "it.pkl", has_tensors=True)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_pass(protocol: int) -> None:
    value: dict[Any, Any] = {
        "numbers": [1, -1, 300, 1 << 40, 1 << 600, 0.5, None, True, False],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "x" * 300: OrderedDict(k=1),
        "many": {n: str(n) for n in range(300)},
        "shared": [[]] * 3,
    }
    if protocol >= 4:  # sets have an operation of their own from there on
        value |= {"bytes": b"x" * 300, "sets": ({1, 2}, frozenset({3}))}
    check_pickle(pickle.dumps(value, protocol), ARCHIVE, "it.pkl")
