"""The compiler is not loaded by an import; what is compiled late is compiled once, and right."""

import json
import subprocess
import sys

from megatron_math.device.late_compiler import compiled_late

IMPORT = """
import json, sys, torch
if sys.argv[1] == "gpu":
    torch.cuda.is_available = lambda: True
if sys.argv[1] != "plain":
    import megatron_math
from megatron.core import jit
from megatron.core.transformer.transformer_config import TransformerConfig
print(json.dumps(["torch._inductor.compile_fx" in sys.modules, jit.jit_fuser is torch.compile]))
"""


def imported(how: str) -> list[bool]:
    command = [sys.executable, "-W", "ignore", "-c", IMPORT, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_an_import_of_core_leaves_the_compiler_alone_on_a_cpu():
    assert imported("cpu") == [False, False]
    assert imported("plain") == [True, True]  # the control: core alone


def test_nothing_changes_where_there_is_a_gpu():
    assert imported("gpu") == [True, True]


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
