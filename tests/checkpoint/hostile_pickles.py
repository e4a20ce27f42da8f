"""Pickles that run code or eat the machine, each in its own way, and the archives around them."""

import copyreg
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROTOCOL = b"\x80\x04"
EXTENSION = 0x51EB
CODE = struct.pack("<H", EXTENSION)


class Calls:
    """Pickles to a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def live(canary: Path) -> dict[str, bytes]:
    """Name -> a pickle that makes the folder `canary` when plain pickle reads it."""
    command, program = f"mkdir {canary}", f"__import__('os').mkdir({str(canary)!r})"
    makes = Calls(os.mkdir, str(canary))
    shell, folder = text(command) + b"\x85R.", text(str(canary)) + b"\x85R."
    inner = pickle.dumps(makes)
    return {
        "os.system": pickle.dumps(Calls(os.system, command), 4),
        "os.system, protocol 2": pickle.dumps(Calls(os.system, command), 2),
        "os.system, protocol 0": pickle.dumps(Calls(os.system, command), 0),
        "os.system, text forms": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "os.system, by OBJ": b"(cos\nsystem\n" + text(command) + b"o.",
        "builtins.eval": pickle.dumps(Calls(eval, program), 4),
        "builtins.exec": pickle.dumps(Calls(exec, program), 4),
        "deep inside": pickle.dumps({"a": [1, {"b": makes}]}),
        "names out of the memo, popped": (
            PROTOCOL + text("system") + b"\x940" + text("os") + b"h\x00\x93" + shell
        ),
        "names out of the memo": (
            PROTOCOL + b"]" + text("system") + b"\x94a" + text("os") + b"h\x00\x93" + shell
        ),
        "names that came as keys": (
            PROTOCOL + b"}(" + text("system") + b"\x94K\x01" + text("os") + b"\x94K\x02u"
            + b"h\x01h\x00\x93" + shell
        ),
        "a dotted name": PROTOCOL + named("os", "path.os.mkdir") + folder,
        "getattr of an import": (
            PROTOCOL + named("builtins", "getattr") + named("builtins", "__import__")
            + text("os") + b"\x85R" + text("mkdir") + b"\x86R" + folder
        ),
        "after an honest part": (
            PROTOCOL + named("collections", "OrderedDict") + b")R" + named("os", "mkdir") + folder
        ),
        "a pickle in a pickle": (
            PROTOCOL + named("pickle", "loads") + b"C" + bytes([len(inner)]) + inner + b"\x85R."
        ),
        "copyreg._reconstructor": (
            PROTOCOL + named("copyreg", "_reconstructor") + named("builtins", "object")
            + named("builtins", "object") + b"N\x87R" + named("os", "mkdir") + folder
        ),
        "copyreg.add_extension": (
            PROTOCOL + named("copyreg", "add_extension") + text("os") + text("mkdir")
            + b"M" + CODE + b"\x87R\x83" + CODE + folder
        ),
        "operator.methodcaller": PROTOCOL + named("operator", "methodcaller") + text("mkdir")
            + text(str(canary)) + b"\x86R" + named("os", "path.os") + b"\x85R.",
    }  # fmt: skip


@contextmanager
def extension_code(canary: Path) -> Iterator[bytes]:
    """os.mkdir by a number that copyreg knows in this process, without its name."""
    copyreg.add_extension("os", "mkdir", EXTENSION)
    try:
        yield PROTOCOL + b"\x83" + CODE + text(str(canary)) + b"\x85R."
    finally:
        copyreg.remove_extension("os", "mkdir", EXTENSION)


def greedy() -> dict[str, bytes]:
    """Name -> bytes that claim far more than they are, or are no whole pickle."""
    most = struct.pack("<Q", 1 << 62)
    return {
        "a huge frame": PROTOCOL + b"\x95" + most + b"N.",
        "huge bytes": PROTOCOL + b"\x8e" + most + b"x.",
        "a huge text": PROTOCOL + b"\x8d" + most + b"x.",
        "a huge writable buffer": b"\x80\x05\x96" + most + b"x.",
        "a huge integer": PROTOCOL + b"\x8b\xff\xff\xff\x7f.",
        "a long integer": PROTOCOL + b"\x8b" + struct.pack("<I", 5000) + bytes(5000) + b".",
        "room for 4 billion values": b"\x80\x02Nr\xff\xff\xff\xff.",
        "nothing": b"",
        "no end": PROTOCOL + b"}",
        "cut in a text": PROTOCOL + b"\x8c\x10abc",
        "cut in a name": b"\x80\x02cos\nsystem",
        "two pickles": pickle.dumps(1) + pickle.dumps(2),
        "protocol 9": b"\x80\x09N.",
        "an empty stack": PROTOCOL + b".",
        "a persistent name in text": b"\x80\x02Pstorage\n.",
        "a buffer from outside": b"\x80\x05\x97.",
        "a class with keywords": PROTOCOL + named("collections", "OrderedDict") + b")}\x92.",
        "zeros": bytes(100),
    }


def archive(contents: bytes, *names: str) -> bytes:
    """What torch.save would write around `contents`, and empty files of more names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as written:
        written.writestr("archive/data.pkl", contents)
        written.writestr("archive/byteorder", b"little")
        for name in names:
            written.writestr(f"archive/{name}", b"")
        written.writestr("archive/version", b"3\n")
    return file.getvalue()
