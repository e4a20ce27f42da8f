"""The keeper: a process that imports one function and lets forked children run it.

Run as `python -m megatron_math.sandbox.keeper module:function LIMIT_SECONDS MEMORY_BYTES`.
Reads items as lines of JSON on standard input, writes one line of JSON for each to standard
output: {"state": "done", "value": ...} or "error", "timeout", "died" with a "reason". The keeper
itself never runs the function on an item, so it stays clean; a child serves many items and is
replaced when it misses a deadline, dies, or has served `ITEMS_PER_CHILD`. A `warm_up` function in
the module is called once before the first fork.
"""

import importlib
import json
import os
import resource
import selectors
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

# A child's caches grow with what it is fed (SymPy's most of all); a fresh fork forgets them.
ITEMS_PER_CHILD = 2000


class Child:
    """A forked process that answers items one after another over two pipes."""

    def __init__(self, function: Callable[[Any], Any], memory_bytes: int) -> None:
        item_read, self.item_write = os.pipe()
        self.answer_read, answer_write = os.pipe()
        self.pid = os.fork()
        self.num_served = 0
        if self.pid == 0:
            os.close(self.item_write)
            os.close(self.answer_read)
            serve(function, memory_bytes, item_read, answer_write)
        os.close(item_read)
        os.close(answer_write)

    def ask(self, line: bytes, limit_seconds: float) -> dict[str, Any]:
        """The answer to one item, or what went wrong; after anything but an answer the child
        must be ended."""
        deadline = time.monotonic() + limit_seconds
        self.num_served += 1
        unsent, answer = memoryview(line), b""
        os.set_blocking(self.item_write, False)
        with selectors.DefaultSelector() as selector:
            selector.register(self.answer_read, selectors.EVENT_READ)
            selector.register(self.item_write, selectors.EVENT_WRITE)
            while not answer.endswith(b"\n"):
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    return {"state": "timeout", "reason": f"longer than {limit_seconds:g} s"}
                for key, _ in ready:
                    if key.fd == self.item_write:
                        try:
                            unsent = unsent[os.write(self.item_write, unsent) :]
                        except BrokenPipeError:
                            return {"state": "died", "reason": "closed its input"}
                        if not unsent:
                            selector.unregister(self.item_write)
                    elif chunk := os.read(self.answer_read, 1 << 16):
                        answer += chunk
                    else:
                        return {"state": "died", "reason": "ended without an answer"}
        result: dict[str, Any] = json.loads(answer)
        return result

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.item_write)
        os.close(self.answer_read)


def serve(
    function: Callable[[Any], Any], memory_bytes: int, item_read: int, answer_write: int
) -> None:
    """The child's whole life; never returns."""
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)  # the keeper's own pipes are not for the function to touch
        os.dup2(nothing, 1)
        with os.fdopen(item_read, "rb") as items, os.fdopen(answer_write, "wb") as answers:
            for line in items:
                answers.write(json.dumps(answer_for(function, line)).encode() + b"\n")
                answers.flush()
        status = 0
    finally:
        os._exit(status)


def answer_for(function: Callable[[Any], Any], line: bytes) -> dict[str, Any]:
    """Run one item; an exception (memory and recursion too) is an answer, not an end."""
    try:
        return {"state": "done", "value": function(json.loads(line))}
    except Exception as error:  # noqa: BLE001 - whatever the function throws is reported
        return {"state": "error", "reason": f"{type(error).__name__}: {error}"[:500]}


def main(arguments: list[str]) -> None:
    target, limit_seconds, memory_bytes = arguments[0], float(arguments[1]), int(arguments[2])
    module, _, name = target.partition(":")
    imported = importlib.import_module(module)
    function = getattr(imported, name)
    getattr(imported, "warm_up", lambda: None)()  # what it builds, every child inherits
    child: Child | None = None
    sys.stdout.write('{"state": "ready"}\n')
    sys.stdout.flush()
    try:
        for line in sys.stdin.buffer:
            child = child or Child(function, memory_bytes)
            answer = child.ask(line, limit_seconds)
            if answer["state"] in ("timeout", "died") or child.num_served >= ITEMS_PER_CHILD:
                child.end()
                child = None
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        pass  # whoever asked is gone
    finally:
        if child is not None:
            child.end()


if __name__ == "__main__":
    main(sys.argv[1:])
