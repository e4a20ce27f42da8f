"""The scripted engine keeps the same promises as a real one."""

import subprocess
import sys

import pytest

from megatron_math.base.errors import UserError
from megatron_math.engine.interface import Generation
from megatron_math.engine.scripted import ScriptedEngine


def test_answers_stops_and_limits() -> None:
    engine = ScriptedEngine({"p": "one two\nQuestion: three", "q": "a b c d"})
    assert engine.generate(["q", "p"], 3, ["\nQuestion:"]) == [
        Generation("a b c", "length", 3),
        Generation("one two", "stop", 2),
    ]
    assert engine.asked == ["q", "p"]


def test_an_unknown_prompt_is_not_answered() -> None:
    with pytest.raises(UserError, match="no answer for the prompt"):
        ScriptedEngine({}).generate(["p"], 3)


def test_importing_the_engines_loads_no_torch() -> None:
    code = (
        "import sys, megatron_math.engine.hf, megatron_math.engine.scripted;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
