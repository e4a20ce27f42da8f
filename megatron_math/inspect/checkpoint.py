"""What a checkpoint holds: tensors, the step it was made at, data cursors, and whether it is whole.

Names and shapes come from torch's own reader of `.metadata`, so nothing but that file is opened;
torch is loaded only here, and megatron.core never.
"""

import math
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.checkpoint.folders import (
    COMPLETE,
    RELEASE,
    TRACKER,
    faults,
    folder_name,
    tracked,
)
from megatron_math.checkpoint.pickles import UnsafePickleError

METADATA = ".metadata"
OPTIMIZER = "optimizer."


def inspect_checkpoint(
    path: Path, *, iteration: int | None = None, deep: bool = True
) -> dict[str, Any]:
    """Facts about a checkpoint, or about the newest of a folder of them, as JSON types.

    deep: compare every file's digest. Damage does not raise: it is listed in `faults`, and
    `tensors` is None when their list is itself damaged. Raises UserError when there is no
    checkpoint at all.
    """
    folder = _choose(path, iteration)
    found = faults(folder, deep=deep)
    complete = _read_if_there(folder / COMPLETE) or {}
    files = [file for file in folder.rglob("*") if file.is_file()]
    tensors = None
    if not any(fault.startswith(METADATA) for fault in found):
        try:
            tensors = _tensors(folder)
        except UnsafePickleError as refusal:
            found.append(str(refusal))
    return {
        "folder": str(folder),
        "iteration": complete.get("iteration") if isinstance(complete, dict) else None,
        "weights_only": folder.name == RELEASE,
        "complete": bool(complete),
        "checked": "digests" if deep else "sizes",
        "faults": found,
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "parameters": tensors
        and sum(math.prod(t["shape"]) for t in tensors if not t["name"].startswith(OPTIMIZER)),
        "model": _read_if_there(folder / "model.json"),
        "data_state": _read_if_there(folder / "data_state.json"),
        "tensors": tensors,
    }


def _choose(path: Path, iteration: int | None) -> Path:
    if (path / TRACKER).is_file():
        path = path / folder_name(tracked(path) if iteration is None else iteration)
    if not (path / METADATA).is_file() and not (path / COMPLETE).is_file():
        raise UserError(
            f"no checkpoint at {path}: give a folder with {TRACKER}, or one of the "
            f"{folder_name(500)} or {RELEASE} folders in it"
        )
    return path


def _tensors(folder: Path) -> list[dict[str, Any]] | None:
    """Name, shape, dtype, bytes and number of saved pieces of every tensor, by name."""
    if not (folder / METADATA).is_file():
        return None
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    from megatron_math.checkpoint.guard import read_metadata

    entries = read_metadata(folder).state_dict_metadata
    return [
        {
            "name": name,
            "shape": list(entry.size),
            "dtype": str(entry.properties.dtype).removeprefix("torch."),
            "bytes": math.prod(entry.size) * entry.properties.dtype.itemsize,
            "pieces": len(entry.chunks),
        }
        for name, entry in sorted(entries.items())
        if isinstance(entry, TensorStorageMetadata)
    ]


def _read_if_there(path: Path) -> Any:
    try:
        return read_json(path) if path.is_file() else None
    except ValueError:  # damage that `faults` names
        return None


def render_checkpoint(facts: dict[str, Any]) -> Group:
    """The facts for a rich console; optimizer state as one line."""
    step = "weights only" if facts["weights_only"] else f"iteration {facts['iteration']}"
    parts: list[Any] = [
        f"[bold]{escape(facts['folder'])}[/]: {step}, {facts['bytes']:,} bytes in "
        f"{facts['files']} files"
    ]
    if facts["faults"]:
        parts += [f"[red]fault:[/] {escape(fault)}" for fault in facts["faults"]]
    else:
        parts.append(f"whole: all files are there, {facts['checked']} as written")
    for stage in (facts["data_state"] or {}).get("stages", []):
        given = ", ".join(
            f"{name} {row['tokens']:,} tokens ({row['epochs_done']:.2f} epochs)"
            for name, row in stage["sources"].items()
        )
        parts.append(
            escape(f"data of {stage['stage']}: {stage['consumed_samples']:,} samples; {given}")
        )
    if facts["tensors"] is None:
        parts.append("[red]the list of tensors cannot be read[/]")
        return Group(*parts)
    weights = [t for t in facts["tensors"] if not t["name"].startswith(OPTIMIZER)]
    table = Table(title=f"{facts['parameters']:,} parameters", title_justify="left")
    table.add_column("tensor")
    for name in ("shape", "type", "bytes", "pieces"):
        table.add_column(name, justify="right")
    for tensor in weights:
        shape = " x ".join(map(str, tensor["shape"]))
        table.add_row(
            escape(tensor["name"]), shape, tensor["dtype"], f"{tensor['bytes']:,}",
            str(tensor["pieces"]),
        )  # fmt: skip
    state = [t for t in facts["tensors"] if t["name"].startswith(OPTIMIZER)]
    parts.append(table)
    if state:
        size = sum(tensor["bytes"] for tensor in state)
        parts.append(f"optimizer state: {len(state)} tensors, {size:,} bytes")
    return Group(*parts)
