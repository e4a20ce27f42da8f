"""Load a benchmark: its YAML, its rows, its prompts.

Rows are looked for in this order: the path given by the caller; below the data folder given by the
caller; below the folder that the environment variable MEGATRON_MATH_DATA names. Nothing is fetched:
where they are missing, the error says what to get and where to put it.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_math.answers.extract import extract_answer, last_boxed
from megatron_math.base.config import load_yaml, parse_section
from megatron_math.base.errors import UserError
from megatron_math.base.files import sha256_file
from megatron_math.base.records import enumerate_rows
from megatron_math.benchmarks.config import (
    LIKELIHOOD_WAYS,
    BenchmarkConfig,
    Example,
    OptionsMapping,
    ReferenceMapping,
    Way,
)

FOLDER = Path(__file__).parent
DATA_VARIABLE = "MEGATRON_MATH_DATA"
LETTERS = "ABCDEFGHIJ"
MARKED = re.compile(r"(?:^|(?<=\s))\(?[A-J][).](?=\s)")
"""What an option begins with, where all of them are one text."""


@dataclass(frozen=True)
class Row:
    """One problem of a benchmark.

    options: of a choice, as shown. choices: their texts without letters, where they come one by
    one. groups: name -> value as text, for scores reported apart.
    """

    id: str
    problem: str
    reference: str
    groups: dict[str, str]
    options: str = ""
    choices: tuple[str, ...] = ()

    @property
    def asked(self) -> str:
        """The problem with its options."""
        return f"{self.problem}\n{self.options}" if self.options else self.problem


@dataclass(frozen=True)
class Benchmark:
    """A benchmark with its rows in file order; `rows_sha256` is the digest of their file."""

    config: BenchmarkConfig
    rows: list[Row]
    rows_path: Path
    rows_sha256: str

    @property
    def name(self) -> str:
        return self.config.name

    def prompt(self, row: Row, shots: int = 0, way: Way = "plain") -> str:
        """The text sent for `row`, behind the first `shots` worked examples.

        way: plain for a model that continues texts; chat and tool chat give the user's words to a
        model that is talked to, the worked examples before them; tool is a text to be continued
        with programs; letters and options end where an option is to follow.
        """
        examples = self.config.examples
        if not 0 <= shots <= len(examples):
            raise UserError(
                f"benchmark {self.name}: {shots} worked examples are asked for and it has "
                f"{len(examples)}; ask for 0 to {len(examples)}"
            )
        if way in LIKELIHOOD_WAYS:
            filled = [self._chosen(example, way) for example in examples[:shots]]
        else:
            filled = [
                self.config.example.format(problem=example.problem, solution=example.solution)
                for example in examples[:shots]
            ]
        template = {
            "plain": self.config.prompt, "chat": self.config.chat, "tool": self.config.tool,
            "tool chat": self.config.tool,
        }.get(way, self.config.choice)  # fmt: skip
        return "".join([*filled, template.format(problem=row.asked)])

    def _chosen(self, example: Example, way: Way) -> str:
        """A worked example without its work: the letter alone."""
        letter = extract_answer(example.solution, self.config.answer_rules).answer
        if way == "options" or letter is None or letter not in LETTERS:
            raise UserError(
                f"benchmark {self.name}: its worked examples end in letters, so they go with the "
                f"way 'letters' alone; ask with 0 shots, or in that way"
            )
        return f"{self.config.choice.format(problem=example.problem)} {letter}\n\n"


def benchmark_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_config(name: str) -> BenchmarkConfig:
    """The benchmark's YAML. `name` is one of `benchmark_names()` or the path of a YAML file."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UserError(
            f"there is no benchmark '{name}'; known are {', '.join(benchmark_names())}, "
            f"or give the path of a YAML file"
        )
    raw = load_yaml(path.read_text(encoding="utf-8"), str(path))
    config = parse_section(BenchmarkConfig, raw, path.name)
    if config.examples_of is None:
        return config
    if config.examples:
        raise UserError(f"{path.name}: give 'examples' or 'examples_of', not both")
    return config.model_copy(update={"examples": load_config(config.examples_of).examples})


def has_rows(name: str, data: Path | str | None = None) -> bool:
    """Whether the rows of a benchmark lie below the data folder."""
    folder = data if data is not None else os.environ.get(DATA_VARIABLE)
    return folder is not None and (Path(folder) / load_config(name).rows).is_file()


def load_benchmark(
    name: str,
    rows: Path | str | None = None,
    data: Path | str | None = None,
    config: BenchmarkConfig | None = None,
) -> Benchmark:
    """A benchmark with all its rows.

    rows: the rows' file itself. data: the folder below which the YAML's `rows` lies. config: in
    place of the benchmark's own, where a protocol asks otherwise. Raises UserError naming file and
    line for a row that cannot be read, and for a wrong number of rows (which is checked for the
    benchmark's own file, not for one given by `rows`).
    """
    config = config or load_config(name)
    path = Path(rows) if rows is not None else _find_rows(config, data)
    found = [_read_row(config, row, number, path) for number, row in enumerate_rows(path)]
    if rows is None and config.expected_rows not in (None, len(found)):
        raise UserError(
            f"benchmark {config.name}: {path} has {len(found)} rows where {config.expected_rows} "
            f"are expected; get the whole file, or give another one as `rows`"
        )
    if not found:
        raise UserError(f"benchmark {config.name}: {path} has no rows")
    identities = {row.id for row in found}
    if len(identities) != len(found):
        raise UserError(
            f"benchmark {config.name}: the {len(found)} rows of {path} have only "
            f"{len(identities)} different ids; name another field as `id`"
        )
    return Benchmark(config, found, path, sha256_file(path))


def _find_rows(config: BenchmarkConfig, data: Path | str | None) -> Path:
    folder = data if data is not None else os.environ.get(DATA_VARIABLE)
    if folder is None:
        raise UserError(
            f"benchmark {config.name} needs the rows {config.rows}; set evaluate.data (or the "
            f"environment variable {DATA_VARIABLE}) to the folder that holds them"
        )
    path = Path(folder) / config.rows
    if not path.is_file():
        raise UserError(
            f"benchmark {config.name}: there is no file {path}; check the data folder"
            f"{_how_to_get(config, path)}"
        )
    return path


def _how_to_get(config: BenchmarkConfig, path: Path) -> str:
    """What to download and where to put it, behind a message that the rows are missing."""
    source = config.source
    if source is None:
        return ""
    text = f". {source.note.rstrip('.')}" if source.note else ""
    if source.hub is None:
        return text
    named = f", '{source.config}'" if source.config else ""
    return (
        f", or get the rows of {source.hub} where the network is (nothing is fetched here): "
        f'pip install datasets; python -c "from datasets import load_dataset; '
        f"load_dataset('{source.hub}'{named}, split='{source.split}').to_json('{path}')\"{text}"
    )


def _read_row(config: BenchmarkConfig, row: Any, number: int, path: Path) -> Row:
    where = f"benchmark {config.name}: {path}, line {number}"
    parts = []
    for name in config.problem.fields:
        part = _as_text(_look_up(row, name, where), name, where).strip()
        if config.problem.close_sentences and part[-1:] not in ".?!":
            part += "."
        parts.append(part)
    reference = "" if config.reference is None else _read_reference(config.reference, row, where)
    if (config.reference is not None and not reference) or not all(parts):
        raise UserError(f"{where}: an empty problem or reference answer")
    identity = number - 1 if config.id is None else _look_up(row, config.id, where)
    groups = {
        group: ", ".join(_as_text(_look_up(row, name, where), name, where) for name in names)
        for group, names in config.groups.items()
    }
    options: str = ""
    choices: tuple[str, ...] = ()
    if config.options is not None:
        options, choices = _read_options(config.options, row, where)
    problem = config.problem.join.join(parts)
    return Row(str(identity), problem, reference, groups, options, choices)


def _read_reference(mapping: ReferenceMapping, row: Any, where: str) -> str:
    value = _look_up(row, mapping.field, where)
    if mapping.lettered:
        if not isinstance(value, int) or not 0 <= value < len(LETTERS):
            raise UserError(f"{where}: the number of an option is expected, found {value!r:.80}")
        return LETTERS[value]
    parts = value if isinstance(value, list) and mapping.joined else [value]
    reference = ", ".join(_as_text(part, "reference", where) for part in parts)
    if mapping.boxed:
        boxed = last_boxed(reference)
        if boxed is None:
            raise UserError(f"{where}: no boxed answer in {reference[-80:]!r}")
        return boxed
    if mapping.pattern is not None:
        match = re.search(mapping.pattern, reference)
        if match is None:
            raise UserError(
                f"{where}: the answer pattern {mapping.pattern!r} is not found in "
                f"{reference[-80:]!r}"
            )
        reference = match.group(1)
    return reference.strip()


def _read_options(mapping: OptionsMapping, row: Any, where: str) -> tuple[str, tuple[str, ...]]:
    """The options as shown, and their texts without letters where they can be told apart."""
    value = _look_up(row, mapping.field, where)
    if value is None:
        return "", ()
    options = value if isinstance(value, list) else [value]
    texts = [_as_text(option, "option", where).strip() for option in options]
    if not isinstance(value, list):
        return texts[0], tuple(part.strip() for part in MARKED.split(texts[0])[1:])
    choices = tuple(texts)
    if mapping.lettered:
        texts = [f"{letter}) {text}" for letter, text in zip(LETTERS, texts, strict=False)]
    else:
        choices = tuple(re.sub(r"^\(?[A-J][).:]\s*", "", text) for text in choices)
    return "\n".join(texts), choices


def _look_up(row: Any, path: str, where: str) -> Any:
    value = row
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            found = sorted(value) if isinstance(value, dict) else type(value).__name__
            raise UserError(f"{where}: no field '{path}'; found {found}")
        value = value[key]
    return value


def _as_text(value: Any, name: str, where: str) -> str:
    """A field as text: 145.0 reads 145, true reads true."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value)
    raise UserError(f"{where}: '{name}' must be text or a number, found {value!r:.80}")
