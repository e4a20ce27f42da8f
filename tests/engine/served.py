"""A model's folder behind `transformers serve`, for tests with the extra `serve`."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LIMIT_SECONDS = 240
needs_serve = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("uvicorn", "fastapi", "openai")),
    reason="the extra 'serve' (transformers[serving]) is not installed",
)


@contextmanager
def served(model: Path, log_path: Path) -> Iterator[str]:
    """The URL of a server on loopback that has loaded; it is gone in the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with open(log_path, "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
    try:
        end_s = time.monotonic() + LIMIT_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None, log_path.read_text()
                assert time.monotonic() < end_s, log_path.read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
