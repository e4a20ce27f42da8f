"""A checkpoint's cursors as the beginning of another blend: what was consumed, what goes on where.

The streams of the new plan begin at the exact token where the run left them, whatever is changed
about shares, packing, sequence length or the list of sources.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.base.log import log
from megatron_math.blend.sources import Source
from megatron_math.checkpoint.folders import COMPLETE, faults
from megatron_math.dataset.plan import History, Standing
from megatron_math.dataset.reader import CURSOR_FORMAT, CURSOR_VERSION

DATA_STATE = "data_state.json"


def find_data_state(continue_from: str, copy: Path) -> Path:
    """The checkpoint's data_state.json; the plan's own `copy` once the checkpoint is gone."""
    folder = Path(continue_from)
    path = folder / DATA_STATE
    if path.is_file():
        damage = faults(folder, only=[DATA_STATE]) if (folder / COMPLETE).is_file() else []
        if damage:
            raise UserError(f"blend.continue_from: {folder} cannot be used: {'; '.join(damage)}")
        return path
    if copy.is_file() and read_json(copy).get("checkpoint") == continue_from:
        return copy
    inside = sorted(entry.parent.name for entry in folder.glob(f"*/{DATA_STATE}"))
    hint = f"; it holds {', '.join(inside)}, choose one" if inside else ""
    raise UserError(
        f"blend.continue_from: there is no file {path}; give the folder of one checkpoint, such "
        f"as runs/<name>/50_train/checkpoints/iter_0000500{hint}"
    )


def read_data_state(path: Path) -> dict[str, Any]:
    """What train wrote, or the copy that `run` keeps."""
    state = read_json(path)
    return state.get("data_state", state)


def read_history(
    state: Mapping[str, Any], *, checkpoint: str, seed: int, validation: float
) -> History:
    """The history that a data_state.json tells.

    UserError when it has another format, or was made with another seed or another share held out:
    then its place in an epoch means nothing here.
    """
    where = f"blend.continue_from: {checkpoint}/{DATA_STATE}"
    stages = state.get("stages") or [{}]
    for cursor in stages:
        found = (cursor.get("format"), cursor.get("version"))
        if found != (CURSOR_FORMAT, CURSOR_VERSION):
            raise UserError(
                f"{where} has cursors of format and version {found}; this program reads "
                f"{(CURSOR_FORMAT, CURSOR_VERSION)}"
            )
    begun = [cursor for cursor in stages if cursor["consumed_samples"]]
    last = begun[-1] if begun else stages[0]
    for key, asked in (("seed", seed), ("validation", validation)):
        if last[key] != asked:
            raise UserError(
                f"{where} was made with {key} {last[key]}, here it is {asked}; the order of the "
                f"documents depends on it, so set blend.{key}: {last[key]}"
            )
    sources = {name: entry["standing"] for name, entry in last["sources"].items()} | last["idle"]
    try:
        used = {name: Standing.model_validate(standing) for name, standing in sources.items()}
    except ValidationError as error:
        raise UserError(f"{where} cannot be understood: {error}") from None
    return History(
        checkpoint=checkpoint,
        iteration=state["iteration"],
        consumed_samples=state["consumed_samples"],
        stages=begun,
        sources={name: standing for name, standing in used.items() if standing.tokens},
    )


def check_sources(history: History, sources: Mapping[str, Source]) -> None:
    """UserError when a source that goes on is another corpus now."""
    corpora = {standing.bin_digest: name for name, standing in history.sources.items()}
    for name, source in sources.items():
        found = source.planned.bin.blake3
        if name not in history.sources:
            if found in corpora:
                log.warning(
                    "the source '%s' begins its first epoch, though the run used the same corpus "
                    "as '%s'; call it '%s' to go on with what is left",
                    *(name, corpora[found], corpora[found]),
                )
        elif history.sources[name].bin_digest != found:
            raise UserError(
                f"the source '{name}' is another corpus than in {history.checkpoint} (digest of "
                f".bin {found[:12]}, was {history.sources[name].bin_digest[:12]}); give the new "
                f"one another key, it begins its own epochs then"
            )
