"""A blend's plan on disk: `plan.json` and one `order_<stage>.npy` a stage (docs/formats.md).

Written by the blend room; read here, and checked against the indexes before anything is used.
"""

from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from megatron_math.base.config import Section, parse_section
from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.dataset.documents import IndexedDocuments
from megatron_math.dataset.fingerprint import probe_index

PLAN_FORMAT: Final = "megatron-math plan"
PLAN_VERSION: Final = 1


class FileDigest(Section):
    bytes: int
    sha256: str


class PlanIndex(Section):
    """One index as it was when the plan was made. `prefix` is relative to the plan's folder."""

    prefix: str
    probe: str
    bin: FileDigest
    idx: FileDigest
    tokenizer: str | None  # fingerprint; None where the index has no sidecar
    documents: int
    empty_documents: int
    tokens: int
    training_documents: int
    training_tokens: int
    validation_documents: int
    validation_tokens: int


class PlanSource(Section):
    """One source in one stage."""

    name: str
    groups: list[str]  # the mix's groups around it, outermost first
    pack: Literal["concat", "whole"]
    align: int
    attend: Literal["inside", "across"]
    loss: list[str] | Literal["all"]
    share: str | None  # of the stage's tokens, as a fraction; None where no budget is shared
    end_epoch: int | None  # the source ends before this epoch of the run
    after: tuple[int, int] | None  # goes on where that stage left it: (stage, samples used there)
    samples: int
    tokens: int  # without padding
    epoch_samples: list[int]  # pack: whole only; samples of each epoch, from the first one used


class PlanStage(Section):
    name: str
    sequence_length: int
    num_samples: int
    tokens: int  # without padding
    order: str  # file name of the order array
    sources: list[PlanSource]

    def source_number(self, name: str) -> int:
        return [source.name for source in self.sources].index(name)


class PlanFile(Section):
    """The content of plan.json."""

    format: Literal["megatron-math plan"]
    version: Literal[1]
    seed: int
    validation: float
    pad_id: int
    tokenizer: dict[str, Any] | None
    indexes: dict[str, PlanIndex]  # by source name
    stages: list[PlanStage]


class Plan:
    """A checked plan. `tokenizer` is the sidecars' entry, one for all sources; None if unknown."""

    def __init__(self, folder: Path, content: PlanFile) -> None:
        self.folder = Path(folder)
        self.content = content
        self.stages = content.stages
        self.tokenizer = content.tokenizer
        self._indexes: dict[str, IndexedDocuments] = {}

    def stage_number(self, stage: str | int) -> int:
        """Its number by name or number. UserError when there is none."""
        names = [s.name for s in self.stages]
        if stage in names:
            return names.index(str(stage))
        if isinstance(stage, int) and 0 <= stage < len(names):
            return stage
        raise UserError(f"{self.folder} has no stage {stage!r}; its stages are {', '.join(names)}")

    def prefix(self, source: str) -> Path:
        return self.folder / self.content.indexes[source].prefix

    def index(self, source: str) -> IndexedDocuments:
        if source not in self._indexes:
            self._indexes[source] = IndexedDocuments(self.prefix(source))
        return self._indexes[source]

    def order(self, stage: int) -> npt.NDArray[np.integer]:
        """Source number of every sample of the stage, memory-mapped."""
        path = self.folder / self.stages[stage].order
        if not path.is_file():
            raise UserError(f"{path} is missing; run blend again")
        order = np.load(path, mmap_mode="r", allow_pickle=False)
        if order.shape != (self.stages[stage].num_samples,):
            raise UserError(
                f"{path} has {order.shape} samples, plan.json says "
                f"{self.stages[stage].num_samples}; run blend again"
            )
        return order

    def verify(self) -> None:
        """UserError when an index is not the one that was planned with; milliseconds each."""
        for name, planned in self.content.indexes.items():
            index = self.index(name)
            with_roles = any(
                source.name == name and source.loss != "all"
                for stage in self.stages
                for source in stage.sources
            )
            if with_roles:
                index.require_roles(f"source '{name}'")
            if probe_index(index, with_roles=with_roles) != planned.probe:
                raise UserError(
                    f"the index {index.prefix} of source '{name}' has changed since the plan in "
                    f"{self.folder} was made: planned with {planned.tokens} tokens, found "
                    f"{index.num_tokens}, or other bytes; run blend again"
                )


def load_plan(folder: Path | str) -> Plan:
    """Read and check the plan in `folder`. UserError when it is missing, foreign or stale."""
    path = Path(folder) / "plan.json"
    if not path.is_file():
        raise UserError(f"there is no blend plan at {path}; run blend first")
    raw = read_json(path)
    found = (raw.get("format"), raw.get("version")) if isinstance(raw, dict) else raw
    if found != (PLAN_FORMAT, PLAN_VERSION):
        raise UserError(
            f"{path} has format and version {found}; this program reads "
            f"{(PLAN_FORMAT, PLAN_VERSION)}; run blend again"
        )
    plan = Plan(Path(folder), parse_section(PlanFile, raw, str(path)))
    plan.verify()
    return plan
