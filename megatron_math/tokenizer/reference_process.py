"""ReferenceProcess: the reference library in a process of its own, beside the fast engine.

Both take half a second or more to load a vocabulary of 128,000 and hold the interpreter meanwhile,
so that threads cannot do it at once. The process ends with the one that began it, at the latest.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from megatron_math.base.errors import UserError
from megatron_math.tokenizer.encoder import (
    Encoder,
    Int32s,
    Int64s,
    ReferenceEncoder,
    UInt8s,
    flat_texts,
    opening_texts,
)
from megatron_math.tokenizer.huggingface import HuggingFaceTokenizer

log = logging.getLogger(__name__)


class ReferenceProcess(Encoder):
    """Begins to load the tokenizer.json at `path` and does not wait; OSError where it cannot begin.

    When the process is lost, `here` gives the encoder that takes its place; whoever made it sets
    `here` before the first text.
    """

    is_reference = True
    here: Callable[[], Encoder]

    def __init__(self, path: Path) -> None:
        ours, its = socket.socketpair()
        with its:
            command = [sys.executable, "-m", __name__, str(its.fileno()), str(path)]
            process = subprocess.Popen(
                command, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, stdout=sys.stderr
            )
        self._connection = Connection(ours.detach())
        self._lock = Lock()
        self._local: Encoder | None = None
        self.close = weakref.finalize(self, _end, self._connection, process)

    def tokenizer(self) -> HuggingFaceTokenizer:
        """Waits until it is loaded there; loads it here only for what asks for more than ids.

        Raises UserError as HuggingFaceTokenizer does, EOFError or OSError when the process is lost.
        """
        answer = self._connection.recv()
        if isinstance(answer, UserError):
            raise answer
        self.name, self.why, tokenizer = answer
        return tokenizer

    def encode_flat(self, text: UInt8s, offsets: Int64s) -> tuple[Int32s, Int32s]:
        with self._lock:
            if self._local is None:
                try:
                    self._connection.send((text[offsets[0] : offsets[-1]], offsets - offsets[0]))
                    answer: tuple[Int32s, Int32s] | Exception = self._connection.recv()
                except (EOFError, OSError):
                    log.warning("%s: its process is gone; it goes on in this one", self.name)
                    self._local = self.here()
                else:
                    if isinstance(answer, Exception):
                        raise answer
                    return answer
        return self._local.encode_flat(text, offsets)


def _end(connection: Connection, process: "subprocess.Popen[bytes]") -> None:
    connection.close()
    process.wait()


def _serve(connection: Connection, path: Path) -> None:
    try:
        tokenizer = HuggingFaceTokenizer(path)
    except UserError as error:
        connection.send(error)
        return
    encoder = ReferenceEncoder(tokenizer, "")
    connection.send((encoder.name, encoder.why, tokenizer))
    expected = flat_texts(opening_texts(tokenizer))  # to be asked first, when the engine is loaded
    ready = encoder.encode_flat(*expected)
    while True:
        asked: tuple[Any, Any] = connection.recv()
        try:
            is_first = all(np.array_equal(asked[i], expected[i]) for i in (0, 1))
            connection.send(ready if is_first else encoder.encode_flat(*asked))
        except UnicodeDecodeError as error:
            connection.send(error)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks decides what to do about it
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with suppress(EOFError, OSError):  # nobody asks any more
        _serve(Connection(int(sys.argv[1])), Path(sys.argv[2]))
    sys.stderr.flush()
    os._exit(0)  # as tools/preprocess_data.py ends: the tables need not be taken apart
