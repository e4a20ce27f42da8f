"""A road: one YAML file, one run folder, the sections that each room reads from it.

Reads: the YAML file and dotted overrides. Writes nothing. Rooms ask it for their own section and
for the folders of the stages before them; they never see each other's code.
"""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_math.base.config import (
    SectionType,
    apply_override,
    expand_environment,
    load_yaml,
    parse_section,
)
from megatron_math.base.errors import UserError
from megatron_math.base.secrets import refuse_secrets
from megatron_math.base.stage import StageInput, finished_stage

SECTIONS = (
    "name", "seed", "base", "synthesize", "curate", "index", "blend", "model", "parallel",
    "precision", "train", "checkpoint", "convert", "evaluate", "report", "launch",
    "watch", "guards",
)  # fmt: skip


@dataclass(frozen=True)
class Road:
    """One run: `root` is `runs/<name>`; `raw` holds the YAML's sections, overrides applied."""

    name: str
    seed: int
    runs: Path
    root: Path
    yaml_path: Path
    overrides: tuple[str, ...]
    raw: dict[str, Any]

    @staticmethod
    def load(
        yaml_path: Path | str,
        overrides: tuple[str, ...] | list[str] = (),
        runs: Path | str = "runs",
    ) -> "Road":
        """Read a road file. Raises UserError for a missing file, a bad name, an unknown section.

        overrides: `section.key=value`, or a YAML file whose keys are laid over the road's; later
        ones win.
        """
        yaml_path = Path(yaml_path)
        raw = _sections_of(yaml_path)
        for override in overrides:
            if "=" not in override and override.endswith((".yaml", ".yml")):
                _lay_over(raw, _sections_of(Path(override)), override)
            else:
                apply_override(raw, override)
        raw = expand_environment(raw, str(yaml_path))
        refuse_secrets(raw, str(yaml_path))
        _check_sections(raw, yaml_path)
        name, seed = raw.get("name"), raw.get("seed", 1234)
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name):
            raise UserError(
                f"{yaml_path}: name must be like 'cpt' or 'study/arm' (letters, digits, . _ -), "
                f"found {name!r}"
            )
        if ".." in name.split("/") or not isinstance(seed, int) or seed < 0:
            raise UserError(f"{yaml_path}: unusable name {name!r} or seed {seed!r}")
        return Road(name, seed, Path(runs), Path(runs) / name, yaml_path, tuple(overrides), raw)

    def has(self, section: str) -> bool:
        assert section in SECTIONS, section
        return section in self.raw

    def section(self, section: str, model: type[SectionType]) -> SectionType:
        """The validated section; a missing one takes the model's defaults."""
        assert section in SECTIONS, section
        return parse_section(model, self.raw.get(section), section)

    def folder(self, stage: str) -> Path:
        return self.root / stage

    def done(self, stage: str) -> StageInput:
        """A finished stage of this road; UserError when it has not been run to its end."""
        return finished_stage(self.folder(stage))


def _sections_of(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"the road file {path} does not exist; give a YAML file's path")
    raw = load_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a mapping of sections is expected, found {raw!r}")
    return raw


def _lay_over(below: dict[str, Any], above: dict[str, Any], where: str) -> None:
    """Set every key of `above` in `below`; mappings are gone into, all else is replaced."""
    for key, value in above.items():
        if not isinstance(value, dict):
            below[key] = value
        elif isinstance(below.setdefault(key, {}), dict):
            _lay_over(below[key], value, where)
        else:
            raise UserError(f"{where}: '{key}' is a value in the road, not a section")


def _check_sections(raw: dict[str, Any], yaml_path: Path) -> None:
    for key in raw:
        if key not in SECTIONS:
            close = difflib.get_close_matches(str(key), SECTIONS, n=1, cutoff=0.5)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(SECTIONS)}"
            raise UserError(f"{yaml_path}: unknown section '{key}'; {hint}")
