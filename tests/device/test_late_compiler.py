"""The compiler is not loaded by an import; what is compiled late is compiled once, and right."""

import json
import subprocess
import sys

import pytest

from megatron_math.device.late_compiler import compiled_late

IMPORTS = """
import json, os, sys, torch

def found(how):
    if how == "gpu":
        torch.cuda.is_available = lambda: True
    if how != "plain":
        import megatron_math
    from megatron.core import jit
    from megatron.core.transformer.transformer_config import TransformerConfig
    is_loaded = "torch._inductor.compile_fx" in sys.modules
    print(json.dumps({how: [is_loaded, jit.jit_fuser is torch.compile]}), flush=True)

for how in sys.argv[1:]:
    child = os.fork()  # of a process that has loaded torch alone
    if child == 0:
        found(how)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, list[bool]]:
    """Whether the compiler is loaded, and core fuses with it, by how core was imported."""
    command = [sys.executable, "-W", "ignore", "-c", IMPORTS, "cpu", "plain", "gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {
        how: told for line in done.stdout.splitlines() for how, told in json.loads(line).items()
    }


def test_an_import_of_core_leaves_the_compiler_alone_on_a_cpu(imported):
    assert imported["cpu"] == [False, False]
    assert imported["plain"] == [True, True]  # the control: core alone


def test_nothing_changes_where_there_is_a_gpu(imported):
    assert imported["gpu"] == [True, True]


def test_a_function_is_decorated_once_and_keeps_its_name_and_result():
    decorated = []

    def decorate(function, **settings):
        decorated.append(function)
        return lambda *args, **kwargs: function(*args, **kwargs) + 1

    class Owner:
        @compiled_late(decorate)
        def add(self, first, second=2):
            """Their sum."""
            return first + second

    assert decorated == []
    assert [Owner().add(1), Owner().add(1, second=5)] == [4, 7]
    assert len(decorated) == 1
    compiled_late(decorate)(len, dynamic=True)
    assert decorated[1:] == [len]  # at once
    assert (Owner.add.__name__, Owner.add.__doc__) == ("add", "Their sum.")
