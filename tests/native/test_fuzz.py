"""A few seconds of the fuzz targets (tests/native/fuzz), and proof that they would find a fault."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz")


def load_run():
    spec = importlib.util.spec_from_file_location("fuzz_run", FUZZ / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def order_fuzz(tmp_path_factory):
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("fuzz")
    try:
        return load_run().build("order", folder, optimize="-O0")
    except subprocess.CalledProcessError:
        empty = folder / "empty.cpp"
        empty.write_text("int main() {}\n")
        command = ["c++", "-fsanitize=address,undefined", empty, "-o", folder / "empty"]
        if subprocess.run(command, capture_output=True).returncode == 0:
            raise
        pytest.skip("this compiler has no sanitizers")


def run(program, *arguments):
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)


def test_order_builders_keep_their_bounds_and_equal_plain_code(order_fuzz):
    done = run(order_fuzz, "3", "7")
    assert done.returncode == 0, done.stderr
    assert "nothing found" in done.stdout


def test_a_planted_read_out_of_bounds_is_found(order_fuzz):
    done = run(order_fuzz, "30", "7", "planted")
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
    assert "write_tokens" in done.stderr
