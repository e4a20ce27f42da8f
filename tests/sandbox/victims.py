"""Functions that misbehave, for the pool's tests. Items are [what, argument]."""

import os
import time
from typing import Any


def misbehave(item: list[Any]) -> Any:
    what, argument = item
    if what == "echo":
        return argument
    if what == "sleep":
        time.sleep(argument)
    if what == "hang in C":  # one bytecode that no Python-level timeout can interrupt
        return 7 ** (7**argument) % 10
    if what == "memory":
        return len(bytearray(argument))
    if what == "exit":
        os._exit(argument)
    if what == "raise":
        raise KeyError(argument)
    if what == "noise":
        os.write(1, b'{"state": "done", "value": "forged"}\n')
        return argument
    if what == "pid":
        return os.getpid()
    return None
