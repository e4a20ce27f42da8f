"""Everything the page says, read from a run folder: the content of data.json.

Reads what earlier stages left. A stage that the road does not have is left out; what a stage
should have left and did not is None, and prints as missing.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_math.base.files import read_json
from megatron_math.base.road import Road
from megatron_math.model.config import ModelConfig
from megatron_math.report.comparison import compare_runs, find_runs
from megatron_math.report.config import ReportConfig
from megatron_math.report.contamination import read_contamination
from megatron_math.report.corpus import read_blend, read_curation, read_indexes, read_synthesis
from megatron_math.report.examples import read_examples
from megatron_math.report.funnel import is_by_model, read_funnel
from megatron_math.report.restarts import read_restarts
from megatron_math.report.retention import read_retention
from megatron_math.report.scores import (
    WHO,
    read_reasons,
    read_scores,
    read_summaries,
    side_folder,
)
from megatron_math.report.training import read_training

FORMAT, VERSION = "megatron-math report", 1
# Stage folder -> the section that puts it on a road.
STAGE_SECTIONS = {
    "00_base": "base",
    "10_synthesize": "synthesize",
    "20_curate": "curate",
    "30_index": "index",
    "40_blend": "blend",
    "50_train": "train",
    "60_export": "train",
    "70_evaluate": "evaluate",
}
RECEIPT_KEYS = (
    "verdict", "largest_logit_difference", "tolerance", "largest_logit", "computed_in", "weights",
    "same_top_token_share", "transformers",
)  # fmt: skip


@dataclass(frozen=True)
class Sections:
    """Stages of a road, in order: those that are finished, and those still to come."""

    finished: Sequence[str]
    unfinished: Sequence[str]


def stages_on(road: Road) -> Sections:
    """Which stages the road asks for, by whether they carry their done-mark."""
    asked = [stage for stage, section in STAGE_SECTIONS.items() if road.has(section)]
    finished = [stage for stage in asked if (road.folder(stage) / "DONE").is_file()]
    return Sections(finished, [stage for stage in asked if stage not in finished])


def gather_facts(road: Road, config: ReportConfig) -> dict[str, Any]:
    """All facts of the page, as JSON values. Raises UserError for files that contradict."""
    stages = stages_on(road)
    manifests = {
        stage: read_json(road.folder(stage) / "manifest.json") for stage in stages.finished
    }

    def folder(stage: str) -> Path | None:
        return road.folder(stage) if stage in stages.finished else None

    facts: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "title": config.title or road.name,
        "road": road.name,
        "seed": road.seed,
        "code": manifests[stages.finished[-1]]["code"],
        "finished": max(manifest["finished"] for manifest in manifests.values()),
        "unfinished": list(stages.unfinished),
        "outdated": _outdated(road, manifests),
        "stages": _timeline(manifests),
        "base": _base(folder("00_base"), manifests),
        "model": _model(folder("00_base")),
        "scores": None,
        "sides": _sides(manifests),
        "retention": (at := folder("70_evaluate")) and read_retention(at),
        "summaries": {},
        "unscored": {},
        "contamination": read_contamination(_curations(road)),
        "comparison": compare_runs(road.root, find_runs(road, config.compare)),
        "examples": [],
        "synthesis": None,
        "funnel": None,
        "curation": (at := folder("20_curate")) and read_curation(at),
        "indexes": (at := folder("30_index")) and read_indexes(at),
        "blend": (at := folder("40_blend")) and read_blend(at),
        "training": (at := folder("50_train")) and read_training(at),
        "restarts": (at := folder("50_train")) and read_restarts(at),
        "export": (at := folder("60_export")) and _receipt(at),
        "configuration": {stage: manifest["config"] for stage, manifest in manifests.items()},
    }
    if written := folder("10_synthesize"):
        if is_by_model(written):
            curated = (manifests.get("20_curate") or {"config": {}})["config"].get("curate") or {}
            facts["funnel"] = read_funnel(
                written, facts["curation"], facts["indexes"], curated.get("sources") or {}
            )
        else:
            facts["synthesis"] = read_synthesis(written)
    if evaluated := folder("70_evaluate"):
        facts["scores"] = read_scores(evaluated, _benchmark_order(manifests["70_evaluate"]))
        facts["summaries"] = read_summaries(evaluated)
        facts["unscored"] = read_reasons(evaluated)
        facts["examples"] = _examples(evaluated, facts["scores"], config.examples)
    return facts


def _sides(manifests: dict[str, Any]) -> list[str]:
    """Which models were to be asked: before, after or both; another one stands for after."""
    evaluation = manifests.get("70_evaluate", {}).get("config", {}).get("evaluate") or {}
    asked = evaluation.get("who") or WHO
    return [who for who in WHO if who in asked] or ["after"]


def _examples(folder: Path, scores: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    found = []
    for name in (benchmark["benchmark"] for benchmark in scores):
        sides = {who: side_folder(folder, who) / name / "predictions.jsonl" for who in WHO}
        found.append(read_examples(name, sides, most))
    return [one for one in found if one is not None]


def _curations(road: Road) -> dict[str, Path]:
    """Where training text was curated: on this road, and on those that its base comes from."""
    folders: dict[str, Path] = {}
    root: Path | None = road.root
    while root is not None and root.name not in folders:
        folders[root.name] = root / "20_curate"
        manifest = root / "00_base" / "manifest.json"
        base = read_json(manifest)["config"].get("base") if manifest.is_file() else None
        root = Path(os.path.normpath(root / base["run"])) if base and base.get("run") else None
    return folders


def _benchmark_order(manifest: dict[str, Any]) -> list[str]:
    """Names of the benchmarks, as the road file orders them: each has its own config section."""
    prefix = "benchmark "
    return [key.removeprefix(prefix) for key in manifest["config"] if key.startswith(prefix)]


def _timeline(manifests: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {key: manifest[key] for key in ("stage", "started", "finished", "seconds")}
        for manifest in manifests.values()
    ]


def _outdated(road: Road, manifests: dict[str, Any]) -> list[dict[str, str]]:
    """Stages made from another state of an earlier stage than the one that lies there now."""
    now = {
        str(road.folder(stage).resolve()): (stage, manifest["fingerprint"])
        for stage, manifest in manifests.items()
    }
    found = []
    for stage, manifest in manifests.items():
        for item in manifest["inputs"].values():
            source, fingerprint = now.get(str(Path(item["path"]).resolve()), (None, None))
            if source and fingerprint != item["fingerprint"]:
                found.append({"stage": stage, "input": source})
    return found


def _base(folder: Path | None, manifests: dict[str, Any]) -> dict[str, Any] | None:
    if folder is None:
        return None
    return dict(manifests["00_base"]["config"].get("base") or {})


def _model(folder: Path | None) -> dict[str, Any] | None:
    """The architecture in words and its number of parameters, without padding."""
    path = folder and folder / "model.json"
    if not path or not path.is_file():
        return None
    content = read_json(path)
    parameters = ModelConfig.model_validate(content).num_parameters()
    return {"parameters": parameters, "architecture": content}


def _receipt(folder: Path) -> dict[str, Any]:
    path = folder / "receipt.json"
    receipt = read_json(path) if path.is_file() else {}
    return {key: receipt.get(key) for key in RECEIPT_KEYS}
