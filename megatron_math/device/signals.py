"""Signals obeyed by a thread, so that a main thread that waits in C++ cannot hold them up.

Python runs a handler only between two of its own instructions, and a rank that waits for its peers
inside gloo or NCCL runs none.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Collection


def obey_at_once(numbers: Collection[int], act: Callable[[int], None]) -> Callable[[], None]:
    """Call `act(number)` in a thread of its own for each signal of `numbers` that arrives.

    For the main thread, which gets handlers for them that do nothing: the interpreter's C handler
    is what wakes the thread. Returns what ends the listening; the handlers are the caller's to
    replace, before or after. There is one listener in a process (`signal.set_wakeup_fd`).
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    assert before == -1, "somebody listens already"
    for number in numbers:
        signal.signal(number, lambda *_: None)

    def listen() -> None:
        with contextlib.closing(os.fdopen(read, "rb", buffering=0)) as pipe:
            while byte := pipe.read(1):
                if byte[0] in numbers:
                    act(byte[0])

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()

    def end() -> None:
        signal.set_wakeup_fd(-1)
        os.close(write)
        if threading.current_thread() is not thread:
            thread.join()

    return end
