"""The report room: facts from the run folder, one page, and the numbers behind it.

Reads the finished stages of the road. Writes 80_report/index.html and data.json.
"""

from pathlib import Path

from megatron_math.base.errors import UserError
from megatron_math.base.files import write_json, write_text
from megatron_math.base.road import Road
from megatron_math.base.stage import Stage, StageInput, finished_stage
from megatron_math.report.comparison import find_runs
from megatron_math.report.config import ReportConfig
from megatron_math.report.facts import gather_facts, stages_on

STAGE = "80_report"


def run(road: Road) -> Stage:
    """Write the page about what the road has made so far; nothing to do when it is up to date.

    Raises UserError when no stage is finished, or when files contradict each other.
    """
    config = road.section("report", ReportConfig)
    finished = stages_on(road).finished
    if not finished:
        raise UserError(
            f"{road.root} has no finished stage to report on; run the road first "
            f"('megatron-math run {road.yaml_path}')"
        )
    inputs: dict[str, StageInput | Path] = {name: road.done(name) for name in finished}
    inputs |= _compared(road, config)
    inputs |= _disputed(road)
    stage = Stage(road.folder(STAGE), config={"report": config}, inputs=inputs, seed=road.seed)
    if stage.is_done():
        return stage
    facts = gather_facts(road, config)
    stage.begin()

    from megatron_math.report.page import render_page  # jinja2 only where a page is made

    page, data = stage.folder / "index.html", stage.folder / "data.json"
    write_text(page, render_page(facts))
    write_json(data, facts)
    stage.finish(
        stats={"page_bytes": page.stat().st_size, "stages": len(finished)}, outputs=[page, data]
    )
    return stage


def _compared(road: Road, config: ReportConfig) -> dict[str, StageInput]:
    """Scores of other runs as inputs: the page is out of date when they change."""
    return {
        f"compare {name}": finished_stage(folder / "70_evaluate")
        for name, folder in find_runs(road, config.compare).items()
    }


def _disputed(road: Road) -> dict[str, Path]:
    """Second opinions come after the scores (`grade --second-opinion`), and change the page."""
    found = sorted(road.folder("70_evaluate").glob("*/*/disputed.jsonl"))
    return {f"disputed {path.parent.parent.name}/{path.parent.name}": path for path in found}
