"""Two corpora from what is installed already: docstrings, one document each.

    python examples/00_quickstart_cpu/corpora.py runs/quickstart/corpora

Reads the source files of the standard library and of SymPy (parsed, never imported). Writes
<out>/general.jsonl and <out>/mathtext.jsonl, the same bytes each time for the same installed files.
"""

import argparse
import ast
import importlib.util
import inspect
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from megatron_math.base.records import Record, write_records

# Third-party packages live below the standard library; test folders hold cases, not prose.
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
# Shorter docstrings are mostly one line such as "Return self.".
MIN_CHARACTERS = 80

Defined = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(node: ast.AST, name: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, cleaned docstring) of a parsed module and all that is defined in it."""
    if isinstance(node, ast.Module | Defined):
        text = ast.get_docstring(node, clean=False)
        if text is not None:
            yield name, inspect.cleandoc(text)
    for child in getattr(node, "body", []) + getattr(node, "orelse", []):
        if isinstance(child, Defined):
            yield from docstrings(child, f"{name}.{child.name}" if name else child.name)
        elif isinstance(child, ast.If | ast.Try | ast.With):
            yield from docstrings(child, name)


def collect(root: Path, source: str, counts: Counter[str]) -> Iterator[Record]:
    """One record a docstring of the .py files below `root`, in the order of their paths.

    counts: filled with what was kept and, by reason, what was not.
    """
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED_FOLDERS.intersection(relative.parts[:-1]):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):  # stray escapes in others' files
                module = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # files that only another Python version can read
            counts["unreadable files"] += 1
            continue
        counts["files"] += 1
        for position, (name, text) in enumerate(docstrings(module)):
            if len(text) < MIN_CHARACTERS:
                counts["too short"] += 1
            elif text in seen:
                counts["seen before"] += 1
            else:
                seen.add(text)
                counts["documents"] += 1
                counts["characters"] += len(text)
                identity = f"{relative.as_posix()}:{position}"
                yield Record(id=identity, source=source, text=text, meta={"name": name})


def package_folder(name: str) -> Path:
    """Where an installed package's files are, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package {name} is not installed; pip install {name}")
    return Path(spec.submodule_search_locations[0])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the two files")
    out = parser.parse_args(arguments).out
    standard_library = Path(sysconfig.get_paths()["stdlib"])
    corpora = {"general": standard_library, "mathtext": package_folder("sympy")}
    for name, root in corpora.items():
        counts: Counter[str] = Counter()
        path = out / f"{name}.jsonl"
        write_records(path, collect(root, name, counts))
        listed = ", ".join(f"{number:,} {what}" for what, number in sorted(counts.items()))
        print(f"{path}: {listed}")


if __name__ == "__main__":
    main()
