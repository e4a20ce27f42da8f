"""Load a benchmark: its YAML, its rows, its prompts.

Rows are looked for in this order: the path given by the caller; below the data folder given by the
caller; below the folder that the environment variable MEGATRON_MATH_DATA names.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_math.base.config import load_yaml, parse_section
from megatron_math.base.errors import UserError
from megatron_math.base.files import sha256_file
from megatron_math.base.records import enumerate_rows
from megatron_math.benchmarks.config import BenchmarkConfig

FOLDER = Path(__file__).parent
DATA_VARIABLE = "MEGATRON_MATH_DATA"


@dataclass(frozen=True)
class Row:
    """One problem of a benchmark. groups: name -> value as text, for scores reported apart."""

    id: str
    problem: str
    reference: str
    groups: dict[str, str]


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

    def prompt(self, row: Row, shots: int = 0) -> str:
        """The text sent for `row`, behind the first `shots` worked examples."""
        examples = self.config.examples
        if not 0 <= shots <= len(examples):
            raise UserError(
                f"benchmark {self.name}: {shots} worked examples are asked for and it has "
                f"{len(examples)}; ask for 0 to {len(examples)}"
            )
        filled = [
            self.config.example.format(problem=example.problem, solution=example.solution)
            for example in examples[:shots]
        ]
        return "".join([*filled, self.config.prompt.format(problem=row.problem)])


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
    return parse_section(BenchmarkConfig, raw, path.name)


def load_benchmark(
    name: str, rows: Path | str | None = None, data: Path | str | None = None
) -> Benchmark:
    """A benchmark with all its rows.

    rows: the rows' file itself. data: the folder below which the YAML's `rows` lies. Raises
    UserError naming file and line for a row that cannot be read, and for a wrong number of rows
    (which is checked for the benchmark's own file, not for one given by `rows`).
    """
    config = load_config(name)
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
        raise UserError(f"benchmark {config.name}: there is no file {path}; check the data folder")
    return path


def _read_row(config: BenchmarkConfig, row: Any, number: int, path: Path) -> Row:
    where = f"benchmark {config.name}: {path}, line {number}"
    parts = []
    for name in config.problem.fields:
        part = _as_text(_look_up(row, name, where), name, where).strip()
        if config.problem.close_sentences and part[-1:] not in ".?!":
            part += "."
        parts.append(part)
    reference = _as_text(_look_up(row, config.reference.field, where), "reference", where)
    if config.reference.pattern is not None:
        match = re.search(config.reference.pattern, reference)
        if match is None:
            raise UserError(
                f"{where}: the answer pattern {config.reference.pattern!r} is not found in "
                f"{reference[-80:]!r}"
            )
        reference = match.group(1)
    if not reference.strip() or not all(parts):
        raise UserError(f"{where}: an empty problem or reference answer")
    identity = number - 1 if config.id is None else _look_up(row, config.id, where)
    groups = {
        group: ", ".join(_as_text(_look_up(row, name, where), name, where) for name in names)
        for group, names in config.groups.items()
    }
    return Row(str(identity), config.problem.join.join(parts), reference.strip(), groups)


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
