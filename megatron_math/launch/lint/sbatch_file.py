"""An sbatch file as the linter sees it: directives, commands, and the line of each."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LONG = {
    "A": "account", "a": "array", "C": "constraint", "c": "cpus-per-task", "D": "chdir",
    "d": "dependency", "e": "error", "G": "gpus", "J": "job-name", "N": "nodes", "n": "ntasks",
    "o": "output", "p": "partition", "q": "qos", "t": "time", "w": "nodelist",
}  # fmt: skip
_HEREDOC = re.compile(r"(?<!<)<<(?!<)-?\s*['\"]?(\w+)['\"]?")
# A word that begins a command: at the start, behind ; & | ( { and the words that take a command.
_COMMAND = r"(?:^|[;&|({{`]|\$\(|\b(?:if|then|else|do|exec|time|command|!))\s*{}(?=\s|$)"
DISTRIBUTED = re.compile(
    r"\b(torchrun|torch\.distributed\.(?:run|launch)|device\.torchrun|accelerate\s+launch"
    r"|deepspeed|ft_launcher)\b(?!\.log)"
)


@dataclass(frozen=True)
class Option:
    """`--name=value` or `-n value`; value "" for a flag."""

    line: int
    name: str
    value: str

    @property
    def number(self) -> int | None:
        """None for what only the shell will know."""
        return int(self.value) if self.value.isdigit() else None


@dataclass(frozen=True)
class Command:
    """One logical line of the script: continued and quoted lines joined, comments gone."""

    line: int
    text: str

    def runs(self, program: str) -> bool:
        return re.search(_COMMAND.format(re.escape(program)), self.text, re.MULTILINE) is not None


class SbatchFile:
    """Parsed once; `option` answers what was given last, as SLURM does."""

    def __init__(self, text: str, path: Path) -> None:
        self.path, self.text = path, text
        self.lines = text.splitlines()
        self.directives: list[Option] = []
        self.late_directives: list[int] = []
        self.near_directives: list[int] = []
        self.commands = list(_commands(text))
        first = self.commands[0].line if self.commands else len(self.lines) + 1
        for number, line in enumerate(self.lines, 1):
            if re.match(r"#SBATCH\s", line):
                if number > first:
                    self.late_directives.append(number)
                else:
                    self.directives += options(line.removeprefix("#SBATCH"), number)
            elif re.match(r"\s*#\s+SBATCH\s+-|\s+#SBATCH\s+-|#sbatch\s+-", line):
                self.near_directives.append(number)

    def option(self, *names: str) -> Option | None:
        found = [option for option in self.directives if option.name in names]
        return found[-1] if found else None

    def number(self, *names: str) -> int | None:
        option = self.option(*names)
        return None if option is None else option.number

    def mentions(self, pattern: str) -> Command | None:
        """The first command in which `pattern` is found."""
        return next((c for c in self.commands if re.search(pattern, c.text)), None)

    @property
    def steps(self) -> list[tuple[Command, list[Option]]]:
        """Every srun with the options that it is given before its program."""
        found = []
        for command in self.commands:
            if command.runs("srun"):
                behind = re.split(r"\bsrun\b", command.text, maxsplit=1)[1]
                found.append((command, options(behind, command.line, stop_at_program=True)))
        return found

    @property
    def nodes(self) -> int | None:
        option = self.option("nodes")
        if option is None:
            return 1
        return option.number

    @property
    def gpus_per_node(self) -> int | None:
        """None where it is not said, or only the shell will know."""
        for name in ("gres", "gpus-per-node"):
            option = self.option(name)
            if option is not None:
                match = re.search(r"(?:^|,)(?:gpu:)?(?:[\w.-]+:)?(\d+)", option.value)
                return (
                    int(match[1]) if match and (name != "gres" or "gpu" in option.value) else None
                )
        gpus, per_task = self.number("gpus"), self.number("gpus-per-task")
        if gpus is not None and self.nodes:
            return gpus // self.nodes
        tasks = self.tasks_per_node
        return per_task * tasks if per_task is not None and tasks is not None else None

    @property
    def tasks_per_node(self) -> int | None:
        option = self.option("ntasks-per-node")
        if option is not None:
            return option.number
        tasks = self.option("ntasks")
        if tasks is None:
            return 1
        if tasks.number is None or not self.nodes:
            return None
        return -(-tasks.number // self.nodes)

    @property
    def is_distributed(self) -> bool:
        """Several processes that belong together, or GPUs: a training job as a rule."""
        wide = (self.nodes or 2) > 1 or (self.tasks_per_node or 2) > 1
        asks = any(self.option(n) for n in ("gres", "gpus", "gpus-per-node", "gpus-per-task"))
        launches = self.mentions(DISTRIBUTED.pattern) is not None
        return launches or (self.option("array") is None and (wide or asks))


def options(text: str, line: int, *, stop_at_program: bool = False) -> list[Option]:
    """Options as sbatch and srun write them."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # quotes of a larger construct
        words = text.split()
    found: list[Option] = []
    takes_value = False
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found.append(Option(line, name, value))
            takes_value = not equals
        elif re.match(r"-[A-Za-z]", word):
            name = _LONG.get(word[1], word[1])
            found.append(Option(line, name, word[2:].removeprefix("=")))
            takes_value = len(word) == 2
        elif takes_value and found and found[-1].name not in _FLAGS:
            found[-1] = Option(line, found[-1].name, word)
            takes_value = False
        elif stop_at_program:
            break
    return found


_FLAGS = ("exclusive", "requeue", "no-requeue", "label", "l", "unbuffered", "u", "overlap", "hold",
          "H", "contiguous", "overcommit", "O", "oversubscribe", "s", "exact", "k", "no-kill",
          "K", "kill-on-bad-exit", "wait-all-nodes", "parsable", "verbose", "v")  # fmt: skip


def _commands(text: str) -> Iterator[Command]:
    """Logical lines: quotes and backslashes join, comments and here-documents go."""
    begun, parts, quote, until = 0, "", "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if until:
            until = "" if line.strip() == until else until
            continue
        begun = begun or number
        piece, quote = _without_comment(line, quote)
        parts += piece
        if quote:
            parts += "\n"
            continue
        if parts.endswith("\\"):
            parts = parts[:-1] + " "
            continue
        document = _HEREDOC.search(piece)
        until = document[1] if document else ""
        if parts.strip():
            yield Command(begun, parts.strip())
        begun, parts = 0, ""
    if parts.strip():
        yield Command(begun, parts.strip())


def _without_comment(line: str, quote: str) -> tuple[str, str]:
    """The line up to its comment, and the quotation mark that is open at its end."""
    escaped = False
    for place, sign in enumerate(line):
        if escaped:
            escaped = False
        elif sign == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign == "#" and (place == 0 or line[place - 1].isspace()):
            return line[:place].rstrip(), quote
    return line, quote
