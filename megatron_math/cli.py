"""`megatron-math VERB`: parse, call the room, turn outcomes into exit codes (0, 1, 2, 75)."""

import errno
import importlib
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer.core import TyperCommand

from megatron_math.base.config import describe_section
from megatron_math.base.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_STOPPED,
    StoppedOnRequest,
    UserError,
)
from megatron_math.base.log import log, set_up_logging
from megatron_math.base.road import Road
from megatron_math.base.shard import Shard
from megatron_math.base.stage import WouldRun, announcing
from megatron_math.inspect.app import app as inspect_app
from megatron_math.pipeline import STAGES, StageDoor, announce_road, run_road, run_stage
from megatron_math.roads import holds_roads, write_roads

app = typer.Typer(
    name="megatron-math",
    help="From problems to a measured mathematical language model, on Megatron-Core.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(inspect_app, name="inspect")
console = Console()
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)

RoadFile = Annotated[Path, typer.Argument(metavar="ROAD.yaml", help="the road file")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[section.key=value | MORE.yaml]...", help="change single keys, or lay a file over"
    ),
]
Runs = Annotated[Path, typer.Option("--runs", help="folder that holds the run folders")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would be done, do nothing")]
Part = Annotated[
    str | None,
    typer.Option("--shard", help="only part I of N, as I/N; default: the task of a SLURM array"),
]
Merge = Annotated[bool, typer.Option("--merge", help="end the stage of all shards")]
AsJson = Annotated[bool, typer.Option("--json", help="print facts as JSON")]


def _keys(*sections: tuple[str, str, str]) -> type[TyperCommand]:
    """A command whose --help ends with the keys of config sections (name, module, class).

    Their modules are imported when it is asked for: those of all verbs take half a second.
    """

    class WithKeys(TyperCommand):
        @property
        def epilog(self) -> str | None:
            texts = [
                describe_section(getattr(importlib.import_module(module), name), section)
                for section, module, name in sections
            ]
            return "**Keys in the road file**\n\n" + "\n\n".join(texts)

        @epilog.setter
        def epilog(self, given: str | None) -> None:
            assert given is None, given

    return WithKeys


def _road_with(door: StageDoor, yaml: Path, overrides: list[str] | None, runs: Path) -> Road:
    """The road, which must have a section for this stage."""
    road = Road.load(yaml, overrides or [], runs)
    if not any(road.has(section) for section in door.asked_by):
        raise UserError(f"{yaml} has no section '{door.asked_by[0]}', so there is nothing to do")
    return road


def _run_one(verb: str, yaml: Path, overrides: list[str] | None, runs: Path, dry_run: bool) -> None:
    door = next(door for door in STAGES if door.verb == verb)
    road = _road_with(door, yaml, overrides, runs)
    if dry_run:
        _print_rows(announce_road(road, verb, verb))
    else:
        with _memory_advice(road):
            run_stage(road, door)


def _run_shared(
    verb: str,
    yaml: Path,
    overrides: list[str] | None,
    runs: Path,
    shard: str | None,
    merge: bool,
    dry_run: bool,
) -> None:
    """A stage that can be shared out: all of it, a part, or its end when all parts are there."""
    if shard is not None and merge:
        raise UserError("--shard writes a part, --merge joins all parts; give one of them")
    door = next(door for door in STAGES if door.verb == verb)
    room = importlib.import_module(door.module)
    road = _road_with(door, yaml, overrides, runs)
    part = None
    if shard is not None:
        part = Shard.parse(shard)
    elif not merge and getattr(room, "has_parts", lambda road: True)(road):
        part = Shard.of_slurm_array()
    if part is None and not (merge and hasattr(room, "run_merge")):
        _run_one(verb, yaml, overrides, runs, dry_run)
        return
    with announcing() if dry_run else nullcontext():
        try:
            stage = room.run_merge(road) if part is None else room.run_shard(road, part)
        except WouldRun as answer:
            _print_rows([(door.folder, f"would run ({answer})")])
        else:
            done = "is done" if part is None else f"part {part.index} of {part.count} is done"
            log.info("%s: %s", stage.folder, done)


@contextmanager
def _memory_advice(road: Road) -> Iterator[None]:
    """Says what would have saved memory, when training inside ended because there was no more."""
    begun = time.time()
    try:
        yield
    except SystemExit:
        from megatron_math.estimate.relief import advice_after

        for folder in ("50_train", "50_train_mock"):
            if (advice := advice_after(road, road.folder(folder), begun)) is not None:
                sys.stderr.write(f"megatron-math: {advice}\n")
        raise


def _run_roads(yaml: Path, overrides: list[str], runs: Path, dry_run: bool) -> None:
    if dry_run:
        with tempfile.TemporaryDirectory() as folder:
            waiting = False
            for road in write_roads(yaml, overrides, runs, Path(folder)):
                rows = [("", "would run (after the roads before it)")]
                if not waiting:
                    rows = announce_road(road)
                    waiting = any(text != "up to date" for _, text in rows)
                _print_rows([(f"{road.name}/{stage}".rstrip("/"), text) for stage, text in rows])
        return
    roads = write_roads(yaml, overrides, runs)
    for number, road in enumerate(roads, start=1):
        log.info("road %d of %d: %s", number, len(roads), road.name)
        with _memory_advice(road):
            run_road(road)


def _print_rows(rows: list[tuple[str, str]]) -> None:
    for folder, text in rows:
        console.print(f"{folder:<14} {text}", highlight=False, soft_wrap=True)


@app.command(
    cls=_keys(
        ("synthesize", "megatron_math.synthesize.config", "TemplateConfig"),
        ("expansion: synthesize", "megatron_math.synthesize.config", "ExpansionConfig"),
        ("diversification: synthesize", "megatron_math.synthesize.config", "DiversificationConfig"),
        ("retrospective: synthesize", "megatron_math.synthesize.config", "RetrospectiveConfig"),
        ("tutorship: synthesize", "megatron_math.synthesize.config", "TutorshipConfig"),
        ("rejection: synthesize", "megatron_math.synthesize.config", "RejectionConfig"),
        ("excerpts: synthesize", "megatron_math.synthesize.excerpt_config", "ExcerptsConfig"),
        ("synthesize.sources", "megatron_math.synthesize.excerpt_config", "SourceTextConfig"),
        ("synthesize.seeds", "megatron_math.synthesize.config", "SeedsConfig"),
        ("synthesize.engine", "megatron_math.synthesize.config", "AskedConfig"),
    )
)
def synthesize(
    yaml: RoadFile,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    shard: Part = None,
    merge: Merge = False,
    dry_run: DryRun = False,
) -> None:
    """Write problems with checked solutions into 10_synthesize."""
    _run_shared("synthesize", yaml, overrides, runs, shard, merge, dry_run)


@app.command(
    cls=_keys(
        ("curate", "megatron_math.curate.config", "CurateConfig"),
        ("curate.near_duplicates", "megatron_math.curate.config", "NearDuplicatesConfig"),
        ("curate.decontaminate", "megatron_math.curate.config", "DecontaminateConfig"),
        ("curate.influence", "megatron_math.curate.config", "InfluenceConfig"),
    )
)
def curate(
    yaml: RoadFile,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    shard: Part = None,
    merge: Merge = False,
    dry_run: DryRun = False,
) -> None:
    """Drop duplicates and test items, with reasons, into 20_curate; choose by influence."""
    _run_shared("curate", yaml, overrides, runs, shard, merge, dry_run)


@app.command(cls=_keys(("index", "megatron_math.index.config", "IndexConfig")))
def index(
    yaml: RoadFile,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    shard: Part = None,
    merge: Merge = False,
    dry_run: DryRun = False,
) -> None:
    """Turn documents into tokens: Megatron .bin/.idx in 30_index."""
    _run_shared("index", yaml, overrides, runs, shard, merge, dry_run)


@app.command(cls=_keys(("blend", "megatron_math.blend.config", "BlendConfig")))
def blend(
    yaml: RoadFile,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Mix indexes into one sampling plan; --dry-run prints tokens, shares, epochs, padding."""
    from megatron_math.blend import run as room

    road = Road.load(yaml, overrides or [], runs)
    if not dry_run:
        run_stage(road, next(door for door in STAGES if door.verb == "blend"))
    table = room.dry_run(road)
    if as_json:
        typer.echo(json.dumps(table.to_json(), indent=2))
    else:
        console.print(table.render())


@app.command(
    cls=_keys(
        ("train", "megatron_math.train.config", "TrainConfig"),
        ("parallel", "megatron_math.train.config", "ParallelConfig"),
        ("precision", "megatron_math.train.config", "PrecisionConfig"),
        ("precision.fp8", "megatron_math.model.fp8_config", "Fp8Config"),
        ("checkpoint", "megatron_math.train.config", "CheckpointConfig"),
        ("watch", "megatron_math.watch.config", "WatchConfig"),
        ("guards", "megatron_math.train.guard_config", "GuardConfig"),
    )
)
def train(
    yaml: Annotated[Path | None, typer.Argument(metavar="ROAD.yaml", help="the road file")] = None,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    dry_run: DryRun = False,
    mock_data: Annotated[
        bool, typer.Option("--mock-data", help="random tokens, to price the loader: 50_train_mock")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="trace a few steps: train.profile with its defaults")
    ] = False,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="dry run: as if on so many; default: as started here")
    ] = None,
    ranks: Annotated[
        str | None, typer.Option(help="dry run: build these, as 0,7; default: one a pipeline stage")
    ] = None,
    as_json: AsJson = False,
    megatron_flags: Annotated[
        str | None,
        typer.Option(help="Megatron-LM's flags; without a road file, print the one they mean"),
    ] = None,
    as_megatron_flags: Annotated[
        bool, typer.Option("--as-megatron-flags", help="print the road as Megatron-LM's flags")
    ] = False,
) -> None:
    """Train on the plan; outside a launcher this starts the local processes of the layout.

    A dry run builds single ranks of a world of any size, without GPUs and without memory."""
    overrides = [*(overrides or []), *(["train.mock_data=true"] if mock_data else [])]
    overrides = [*(["train.profile={}"] if profile else []), *overrides]
    if megatron_flags is not None or as_megatron_flags:
        from megatron_math.megatron_flags import road as roads
        from megatron_math.megatron_flags import table

        if yaml is None and megatron_flags is not None:
            if overrides or dry_run or as_megatron_flags:
                raise UserError("--megatron-flags alone prints a road file; name one to train it")
            text = roads.as_road(table.read_flags(megatron_flags))
            roads.check_road(text)
            typer.echo(text, nl=False)
            return
        if yaml is not None and megatron_flags is not None:
            beneath = roads.settings_of(Road.load(yaml, overrides, runs))
            overrides += roads.as_overrides(table.read_flags(megatron_flags, beneath))
            log.info("the flags mean: %s", " ".join(overrides))
        if yaml is not None and as_megatron_flags:
            road = Road.load(yaml, overrides, runs)
            roads.refuse_without_flags(road)
            settings = roads.settings_of(road)
            typer.echo(shlex.join(table.write_flags(settings)))
            return
    if yaml is None:
        raise UserError("a road file is needed: megatron-math train ROAD.yaml")
    if dry_run:
        _dry_run_training(yaml, overrides, runs, gpus, ranks, as_json)
        return
    for name, given in (("--gpus", gpus), ("--ranks", ranks), ("--json", as_json or None)):
        if given is not None:
            raise UserError(f"{name} has no effect without --dry-run")
    _run_one("train", yaml, overrides, runs, dry_run)


def _dry_run_training(
    yaml: Path, overrides: list[str], runs: Path, gpus: int | None, ranks: str | None, as_json: bool
) -> None:
    from megatron_math import dry_run as door

    road = _road_with(next(door for door in STAGES if door.verb == "train"), yaml, overrides, runs)
    try:
        numbers = None if ranks is None else [int(rank) for rank in ranks.split(",")]
    except ValueError:
        raise UserError(f"--ranks {ranks}: rank numbers with commas between, as 0,7") from None
    set_up_logging(quiet=True)  # what is built is said in the table
    found = door.dry_run(road, gpus, numbers)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    if found.missing is None:
        _print_rows(announce_road(road, "train", "train"))
    console.print(door.render(found), soft_wrap=True)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Hugging Face folder, or checkpoint folder")],
    target: Annotated[Path, typer.Argument(help="the folder to make; must not exist")],
    adapter: Annotated[
        bool, typer.Option(help="of a LoRA checkpoint: PEFT's adapter, not the merged model")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Hugging Face safetensors to a Megatron-Core checkpoint, or back; the source says which."""
    from megatron_math.convert.run import convert_folder

    receipt = convert_folder(source, target, adapter=adapter)
    typer.echo(json.dumps(receipt, indent=2) if as_json else f"wrote {target}: {receipt}")


@app.command(cls=_keys(("evaluate", "megatron_math.evaluate.config", "EvaluateConfig")))
def evaluate(
    yaml: RoadFile, overrides: Overrides = None, runs: Runs = Path("runs"), dry_run: DryRun = False
) -> None:
    """Ask the models the benchmarks' questions and score the answers, before and after."""
    _run_one("evaluate", yaml, overrides, runs, dry_run)


@app.command()
def grade(
    predictions: Annotated[Path, typer.Argument(help="a predictions.jsonl")],
    against: Annotated[
        Path | None, typer.Option(help="predictions of another model for the same problems")
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="the benchmark's YAML, where it is your own")
    ] = None,
    as_json: AsJson = False,
    second_opinion: Annotated[
        bool,
        typer.Option(
            help="ask math-verify too; print where it disagrees, and leave it in disputed.jsonl"
        ),
    ] = False,
) -> None:
    """Score a saved predictions file again, under other rules too; no model is loaded."""
    from megatron_math.evaluate.compare import compare, in_words
    from megatron_math.evaluate.grade import grade as grade_file
    from megatron_math.evaluate.second_look import look_again

    scores = grade_file(predictions, benchmark=benchmark) | look_again(
        predictions, benchmark=benchmark, second_opinion=second_opinion
    )
    if against is not None:
        scores["against"] = compare(against, predictions)
    if as_json:
        typer.echo(json.dumps(scores, indent=2))
        return
    low, high = scores["interval95"]
    typer.echo(
        f"{scores['benchmark']}: {scores['correct']} of {scores['n']} right, "
        f"{scores['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}), "
        f"{scores['truncation_rate']:.1%} cut off"
    )
    if against is not None:
        typer.echo(f"  {in_words(scores['against'], (str(against), str(predictions)))}")
    for way in scores["spread"]:
        typer.echo(f"  read by {way['way']}: {way['accuracy']:.1%}, {way['found']} answers found")
    for row in scores.get("disputed", []):
        ours, theirs = ("right" if row[key] else "wrong" for key in ("correct", "math_verify"))
        typer.echo(
            f"  disputed {row['id']}: {row['extracted']!r} for {row['reference']!r}: "
            f"{ours} ({row['how']}), math-verify: {theirs}"
        )


@app.command(cls=_keys(("report", "megatron_math.report.config", "ReportConfig")))
def report(
    yaml: RoadFile, overrides: Overrides = None, runs: Runs = Path("runs"), dry_run: DryRun = False
) -> None:
    """Write one static page: of a run 80_report/index.html, of a study report/index.html."""
    from megatron_math.study.plan import holds_study

    if not holds_study(yaml):
        _run_one("report", yaml, overrides, runs, dry_run)
        return
    if dry_run:
        raise UserError("--dry-run is for roads; 'megatron-math study --dry-run' is for studies")
    from megatron_math.study.verb import report_study

    typer.echo(report_study(yaml, overrides or [], runs))


@app.command()
def run(
    yaml: RoadFile,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    first: Annotated[str | None, typer.Option("--from", help="first stage, by verb")] = None,
    last: Annotated[str | None, typer.Option("--to", help="last stage, by verb")] = None,
    dry_run: DryRun = False,
) -> None:
    """Walk the whole road of one file; stages that are up to date are left alone.

    A file with `roads` holds several, which are walked one after another."""
    if holds_roads(yaml):
        if first is not None or last is not None:
            raise UserError("--from and --to are for one road: give its road.yaml in its folder")
        _run_roads(yaml, overrides or [], runs, dry_run)
        return
    road = Road.load(yaml, overrides or [], runs)
    if dry_run:
        _print_rows(announce_road(road, first, last))
    else:
        with _memory_advice(road):
            run_road(road, first, last)


@app.command(
    cls=_keys(
        ("study", "megatron_math.study.config", "StudyConfig"),
        ("study.budget", "megatron_math.study.config", "BudgetConfig"),
        ("study.budget.available", "megatron_math.study.config", "AvailableConfig"),
        ("study.compare", "megatron_math.study.config", "CompareConfig"),
        ("study.gains", "megatron_math.study.config", "GainConfig"),
    )
)
def study(
    yaml: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="the study file")],
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    only: Annotated[
        list[str] | None, typer.Option(help="this arm and those that it needs; may be repeated")
    ] = None,
    seeds: Annotated[str, typer.Option(help="of the study's seeds only these, as 1,2,5")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="arms that are made here at the same time")] = 1,
    launch: Annotated[bool, typer.Option("--launch", help="on SLURM, jobs for every arm")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Arms x seeds from one file: equal tokens, what is missing, a table with intervals."""
    from megatron_math.study.verb import study as make

    try:
        chosen = [int(seed) for seed in seeds.split(",") if seed.strip()]
    except ValueError:
        raise UserError(f"--seeds {seeds}: numbers with commas between, as 1,2,5") from None
    code = make(
        yaml,
        overrides or [],
        runs=runs,
        only=only or [],
        seeds=chosen,
        jobs=jobs,
        launching=launch,
        dry_run=dry_run,
        as_json=as_json,
        console=console,
    )
    if code:
        raise typer.Exit(code)


@app.command()
def estimate(
    yaml: RoadFile,
    overrides: Overrides = None,
    gpu: Annotated[
        str, typer.Option(help="h100, h200, b200, a100, mi300x, ... or a YAML file of your own")
    ] = "h100",
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPUs in all; default: parallel.data, or one replica")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16, fp8 or mxfp8; default: the road's")
    ] = None,
    tokens: Annotated[str, typer.Option(help="in place of the blend's, as 100B")] = "",
    price: Annotated[
        float | None, typer.Option(min=0, help="of one GPU-hour, in any currency")
    ] = None,
    storage: Annotated[
        float | None, typer.Option(min=0.001, help="GB/s written in all; default: 2 a node")
    ] = None,
    search: Annotated[bool, typer.Option("--search", help="rank the layouts that fit")] = False,
    save_memory: Annotated[
        bool, typer.Option("--save-memory", help="what would lower a rank's memory, and how much")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Memory per rank, tokens/s, days, energy and checkpoint of a training run; needs no GPU."""
    if save_memory:
        from megatron_math.estimate.relief import advice

        typer.echo(advice(Road.load(yaml, overrides or []), gpus))
        return
    from megatron_math.estimate.verb import answer

    answer(
        Road.load(yaml, overrides or []),
        gpu_name=gpu,
        gpus=gpus,
        precision=precision,
        tokens=tokens,
        price=price,
        storage=None if storage is None else storage * 1e9,
        searching=search,
        as_json=as_json,
        console=console,
    )


@app.command()
def status(
    given: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="run folders, road files, folders of several runs"),
    ],
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """How far a run is and what restarts cost it: steps, effective time, causes, time to the end.

    Reads files and SLURM's queue only, while the run is running or after."""
    from megatron_math.status.facts import gather_all
    from megatron_math.status.find import find_runs
    from megatron_math.status.queue import read_queue
    from megatron_math.status.table import render

    found = gather_all(find_runs(given, runs), read_queue)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        console.print(render(found))


@app.command()
def doctor(
    yaml: Annotated[
        Path | None, typer.Argument(metavar="[ROAD.yaml]", help="look for what this road asks")
    ] = None,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """What this machine can do, which kernels will be used and why, and what to mend.

    Exit code 1 when something would stop training here."""
    from megatron_math.doctor.run import examine, render

    findings = examine(None if yaml is None else Road.load(yaml, overrides or [], runs), runs)
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        console.print(render(findings))
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(EXIT_FAILED)


@app.command(cls=_keys(("launch", "megatron_math.launch.config", "LaunchConfig")))
def launch(
    yaml: Annotated[
        Path, typer.Argument(metavar="ROAD.yaml", help="the road file; with --lint an sbatch file")
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[VERB] [section.key=value | MORE.yaml]...",
            help="what to run (default: train), and changed keys; with --lint more files",
        ),
    ] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="launch.nodes")] = None,
    runs: Runs = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the script only")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="show log and state until the jobs have ended")
    ] = False,
    lint: Annotated[
        bool, typer.Option("--lint", help="look for mistakes in sbatch files, yours or others'")
    ] = False,
    step_seconds: Annotated[
        float | None,
        typer.Option(min=0, help="lint: of one iteration, to check the time for a checkpoint"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a stage on SLURM: a script that you can read, jobs, arrays, chains, requeues.

    With --lint exit code 1 when a mistake was found."""
    from megatron_math.launch import verb as door

    if lint:
        for name, given in (("--nodes", nodes), ("--dry-run", dry_run), ("--follow", follow)):
            if given:
                raise UserError(f"{name} has no effect with --lint")
        code = door.lint([yaml, *map(Path, words or [])], step_seconds, as_json)
    elif step_seconds is not None:
        raise UserError("--step-seconds has no effect without --lint")
    else:
        code = door.launch(
            yaml,
            words or [],
            runs=runs,
            nodes=nodes,
            dry_run=dry_run,
            following=follow,
            as_json=as_json,
        )
    if code:
        raise typer.Exit(code)


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns the exit code. Errors for people become one sentence."""
    set_up_logging()
    try:
        app(args=arguments)
    except UserError as error:
        sys.stderr.write(f"megatron-math: {error}\n")
        return EXIT_BAD_INPUT
    except StoppedOnRequest as stopped:
        log.info("%s", stopped)
        return EXIT_STOPPED
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        sys.stderr.write(f"megatron-math: {error}; mend that and give the same command again\n")
        return EXIT_FAILED
    except SystemExit as leaving:  # how typer ends: 0, 2 for bad usage, or a rank's own code
        return leaving.code if isinstance(leaving.code, int) else EXIT_DONE
    return EXIT_DONE


def program() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    program()
