"""The peer: a process with modules loaded that forks for each code it is sent, unprotected.

Messages are a length of 8 bytes and as many bytes: code in, standard output back.
"""

import importlib
import os
import struct
import sys


def serve() -> None:
    """Until standard input ends."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    out = os.dup(1)
    os.write(out, b"+")
    while head := sys.stdin.buffer.read(8):
        code = sys.stdin.buffer.read(*struct.unpack("=Q", head))
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(write, 1)
            try:
                exec(compile(code, "snippet.py", "exec"), {"__name__": "__main__"})
                sys.stdout.flush()
            finally:
                os._exit(0)
        os.close(write)
        with open(read, "rb") as pipe:
            printed = pipe.read()
        os.waitpid(child, 0)
        os.write(out, struct.pack("=Q", len(printed)) + printed)


if __name__ == "__main__":
    serve()
