"""Solutions with Python: read the one block of code, run it isolated, put its output behind it."""

import re
from contextlib import ExitStack
from dataclasses import dataclass

from megatron_math.answers.equal import equal
from megatron_math.sandbox.python import Limits, PythonSandbox, Result
from megatron_math.synthesize.excerpt_config import SandboxConfig
from megatron_math.synthesize.solved_examples import CODE
from megatron_math.synthesize.tags import Unusable

_CLAIMED_OUTPUT = re.compile(r"\n*```output[ \t]*\n.*?(?:\n```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class ToolSolution:
    """What a model wrote before its code, the code, and behind it; what it says the code prints is
    left out."""

    before: str
    code: str
    behind: str

    @property
    def prose(self) -> str:
        return f"{self.before}\n{self.behind}".strip()

    def with_output(self, output: str) -> str:
        """The solution with what the code printed."""
        parts = [self.before, f"```python\n{self.code}\n```\n```output\n{output}\n```", self.behind]
        return "\n".join(part for part in parts if part)


def read_tool_solution(text: str) -> ToolSolution:
    """Raises Unusable where there is not one block of Python and something behind it."""
    text = _CLAIMED_OUTPUT.sub("", text)
    blocks = list(CODE.finditer(text))
    if len(blocks) != 1 or text.count("```") != 2:
        fault = "no Python code" if not blocks else "more than one block of code"
        raise Unusable(fault, text[-80:])
    [block] = blocks
    if not block[1].strip():
        raise Unusable("no Python code")
    behind = text[block.end() :].strip()
    if not behind:
        raise Unusable("nothing behind the code")
    return ToolSolution(text[: block.start()].strip(), block[1], behind)


class Runner:
    """Runs code in a sandbox that is made at the first need. A context."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._stack = ExitStack()
        self._sandbox: PythonSandbox | None = None

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *error: object) -> None:
        self._sandbox = None
        self._stack.close()

    def run(self, code: str) -> Result:
        """Run it. Raises UserError where this machine cannot isolate it."""
        if self._sandbox is None:
            config = self._config
            limits = Limits(
                wall_seconds=config.seconds,
                cpu_seconds=config.seconds,
                memory_bytes=config.memory_bytes,
                output_bytes=8 * config.output_characters,
            )
            self._sandbox = self._stack.enter_context(PythonSandbox(1, limits))
        return self._sandbox.run(code)

    def output(self, result: Result) -> str:
        """What a snippet printed. Raises Unusable where nobody could learn from it."""
        text = result.stdout.decode("utf-8", "replace").strip("\n").rstrip()
        if not text:
            raise Unusable("the code prints nothing")
        if len(text) > self._config.output_characters:
            raise Unusable("the code prints too much", f"{len(text):,} characters")
        if "```" in text or "\0" in text:
            raise Unusable("the code prints what breaks its fence", text[:80])
        return text


def answer_is_printed(output: str, answer: str | None) -> bool | None:
    """Whether the last line of an output is the answer, or ends with it; None without one."""
    if answer is None:
        return None
    last = output.rstrip().rpartition("\n")[2]
    ends = (last, re.split(r"[:=]\s*", last)[-1], re.split(r"\s", last)[-1].rstrip("."))
    return any(equal(end, answer).correct for end in dict.fromkeys(ends))
