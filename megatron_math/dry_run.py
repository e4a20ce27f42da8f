"""`train --dry-run`: the run that would start, on as many processes as asked, checked in one.

The layout, the batch and the plan meet the same checks as in training, and chosen ranks of the
world are built one after the other, without memory for weights. Writes nothing.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.blend.config import BlendConfig, Leaf, resolve
from megatron_math.checkpoint.folders import complete_checkpoints
from megatron_math.convert.base_model import shape_of_base
from megatron_math.dataset.plan import Plan
from megatron_math.dataset.reader import PlanReader
from megatron_math.device.start import launched_ranks
from megatron_math.model.config import ModelConfig
from megatron_math.train.config import (
    CheckpointConfig,
    ParallelConfig,
    PrecisionConfig,
    TrainConfig,
)
from megatron_math.train.run import (
    check_batch,
    check_fp8,
    check_stages,
    check_world,
    local_world,
    read_order,
    refuse_other_run,
)
from megatron_math.train.stages import check_names


@dataclass(frozen=True)
class Stage:
    """A stage of the plan, or of the road's `blend` where nothing is planned yet."""

    name: str
    sequence_length: int
    num_samples: int | None
    """None where only the blend stage will know."""


@dataclass(frozen=True)
class Rank:
    """One rank of the world, as built."""

    rank: int
    data_rank: int
    pipeline_stage: int
    context_rank: int
    tensor_rank: int
    num_layers: int
    num_parameters: int
    first_samples: list[int]
    """Of the first step's micro-batches: each begins at this sample of the first stage."""
    first_sources: dict[str, int]
    """Samples of this replica in the first step by source; empty where nothing is planned."""


@dataclass(frozen=True)
class DryRun:
    """Everything that is printed. `missing` says why there is no plan; None where there is one."""

    model: ModelConfig
    parallel: ParallelConfig
    precision: PrecisionConfig
    train: TrainConfig
    checkpoint: CheckpointConfig
    world: int
    stages: list[Stage]
    missing: str | None
    ranks: list[Rank]
    reads: list[str]
    writes: list[str]

    @property
    def data_size(self) -> int:
        return self.parallel.grid.data(self.world)

    def settings(self, stage: Stage) -> dict[str, int]:
        """The batch of a stage, in samples and tokens, and its micro-batches on one replica."""
        train = self.train.of_stage(stage.name)
        return {
            "global_batch_size": train.global_batch_size,
            "micro_batch_size": train.micro_batch_size,
            "micro_batches": train.global_batch_size // (train.micro_batch_size * self.data_size),
            "tokens_per_step": train.global_batch_size * stage.sequence_length,
        }

    def iterations(self, stage: Stage) -> int | None:
        if stage.num_samples is None:
            return None
        return -(-stage.num_samples // self.train.of_stage(stage.name).global_batch_size)

    def to_json(self) -> dict[str, Any]:
        counts = [self.iterations(stage) for stage in self.stages]
        return {
            "world": self.world,
            **self.parallel.grid.model_dump(),
            "data": self.data_size,
            "parameters": self.model.num_parameters(),
            "iterations": None if None in counts else sum(count or 0 for count in counts),
            "stages": [
                vars(stage) | {"iterations": count} | self.settings(stage)
                for stage, count in zip(self.stages, counts, strict=True)
            ],
            "no_plan": self.missing,
            "ranks": [vars(rank) for rank in self.ranks],
            "reads": self.reads,
            "writes": self.writes,
        }


def dry_run(road: Road, world: int | None = None, ranks: Sequence[int] | None = None) -> DryRun:
    """Check the road's training on `world` processes and build `ranks` of them.

    world: default what the launcher gave, or a local start would take. ranks: default one of the
    first, of a middle and of the last pipeline stage. Raises UserError for what training would
    refuse. Loads torch.
    """
    train = road.section("train", TrainConfig)
    parallel = road.section("parallel", ParallelConfig)
    launched = launched_ranks()
    world = world or (launched[1] if launched else local_world(parallel))
    check_world(parallel, world)
    model, stages, plan, missing = _planned(road)
    precision = road.section("precision", PrecisionConfig)
    if plan is not None:
        check_stages(train, plan, parallel.grid, world)
    else:
        check_names(train, [stage.name for stage in stages])
    for stage in stages:
        settings_there = train.of_stage(stage.name)
        check_batch(settings_there, parallel.grid, world)
        check_fp8(precision, settings_there, model, parallel.grid, stage.sequence_length)
    settings = {
        "precision": precision,
        "checkpoint": road.section("checkpoint", CheckpointConfig),
        "parallel": parallel,
        "train": train,
    }
    found = DryRun(
        model=model,
        world=world,
        stages=stages,
        missing=missing,
        ranks=[],
        reads=_reads(road, plan),
        writes=_writes(road, train),
        **settings,  # type: ignore[arg-type]
    )
    for rank in _asked(ranks, parallel, world):
        found.ranks.append(_build(found, plan, rank))
    return found


def _planned(road: Road) -> tuple[ModelConfig, list[Stage], Plan | None, str | None]:
    """Model, stages, plan (None: none yet), and the reason why there is none."""
    undone = [
        name for name in ("00_base", "40_blend") if not (road.folder(name) / "DONE").is_file()
    ]
    if not undone:
        order = read_order(road)
        refuse_other_run(order)
        stages = [Stage(s.name, s.sequence_length, s.num_samples) for s in order.plan.stages]
        return order.model, stages, order.plan, None
    if not road.has("blend"):
        raise UserError(f"{road.yaml_path} has no section 'blend', and {road.root} has no plan")
    stages = [
        Stage(s.name, s.sequence_length, tokens and -(-tokens // s.sequence_length))
        for s in resolve(road.section("blend", BlendConfig))
        for tokens in [s.tokens or _quota(list(s.mix.leaves()))]
    ]
    return shape_of_base(road), stages, None, f"{' and '.join(undone)} not done yet"


def _quota(leaves: list[Leaf]) -> int | None:
    """Tokens of a stage whose sources say how many; None where they count epochs."""
    if any(leaf.kind != "tokens" for leaf in leaves):
        return None
    return int(sum(leaf.amount for leaf in leaves))


def _asked(ranks: Sequence[int] | None, parallel: ParallelConfig, world: int) -> list[int]:
    if ranks is None:  # pipeline changes slowest: rank = stage x (processes of one stage)
        stages = sorted({0, min(1, parallel.pipeline - 1), parallel.pipeline - 1})
        return [stage * (world // parallel.pipeline) for stage in stages]
    beyond = [rank for rank in ranks if not 0 <= rank < world]
    if beyond:
        raise UserError(f"--ranks {beyond[0]}: a world of {world} has ranks 0 to {world - 1}")
    return list(ranks)


def _build(run: DryRun, plan: Plan | None, rank: int) -> Rank:
    """Be this rank for a moment."""
    import torch

    from megatron_math.device.pretend import pretended_device, without_memory
    from megatron_math.model.build import build_model, check_context
    from megatron_math.train.feed import Feed

    check_context(run.precision.spec, run.parallel.grid)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    with pretended_device(run.parallel.grid, rank, run.world) as device:
        with without_memory():
            models = build_model(
                run.model,
                grid=run.parallel.grid,
                dtype=dtypes[run.precision.dtype],
                spec="torch",  # the same weights as te's, and no GPU is needed to count them
                sequence_length=max(stage.sequence_length for stage in run.stages),
                stage_layers=(run.parallel.first_stage_layers, run.parallel.last_stage_layers),
                recompute=run.parallel.recompute,
                perform_initialization=False,
            )
        first_samples: list[int] = []
        sources: Counter[str] = Counter()
        if plan is not None:
            feed = Feed(
                plan,
                run.train,
                data_rank=device.data_rank,
                data_size=device.data_size,
                torch_device=device.torch_device,
            )
            first_samples = feed.first_samples(feed.first_iteration)
            reader, rows = feed.readers[0], feed.stages[0].train.micro_batch_size
            assert isinstance(reader, PlanReader), "mock data takes the plan's samples, too"
            for first in first_samples:
                for sample in range(first, first + rows):
                    if sample < reader.num_samples:
                        sources[reader.sources[reader.locate(sample)[0]]] += 1
        return Rank(
            rank=rank,
            data_rank=device.data_rank,
            pipeline_stage=rank // (run.world // run.parallel.pipeline),
            context_rank=device.context_rank,
            tensor_rank=rank % run.parallel.tensor,
            num_layers=sum(len(model.decoder.layers) for model in models),
            num_parameters=sum(p.numel() for model in models for p in model.parameters()),
            first_samples=first_samples,
            first_sources=dict(sources),
        )


def _reads(road: Road, plan: Plan | None) -> list[str]:
    kept = complete_checkpoints(road.folder("50_train") / "checkpoints")
    if kept:
        found = [f"{kept[-1].folder} (training continues there)"]
    elif plan is not None and plan.history is not None:
        found = [f"{plan.history.checkpoint} (blend.continue_from)"]
    else:
        found = [f"{road.folder('00_base') / 'checkpoint'} (weights)"]
    found.append(str(road.folder("40_blend")))
    if plan is not None:
        for source in dict.fromkeys(s.name for stage in plan.stages for s in stage.sources):
            size = sum(path.stat().st_size for path in plan.files(source).values())
            found.append(f"{_shown(plan.prefix(source))}.* ({size / 1e9:,.3f} GB, {source})")
    return found


def _shown(path: Path) -> Path:
    return path.resolve()


def _writes(road: Road, train: TrainConfig) -> list[str]:
    if train.mock_data:
        folder = road.folder("50_train_mock")
        return [f"{folder}/{name}" for name in _logs(train)]
    folder = road.folder("50_train")
    return [f"{folder}/{name}" for name in ("checkpoints/", "validation.jsonl", *_logs(train))]


def _logs(train: TrainConfig) -> Iterator[str]:
    yield from ("metrics.jsonl", "launches.jsonl", "log.txt", "manifest.json, stats.json, DONE")
    if train.tensorboard:
        yield "tensorboard/"


def render(run: DryRun) -> Lines:
    """The dry run for a terminal."""
    grid = run.parallel.grid
    lines = [
        f"world {run.world:,} = tensor {grid.tensor} x pipeline {grid.pipeline} x context "
        f"{grid.context} x data {run.data_size}"
        + (f"; virtual {grid.virtual}" if grid.virtual > 1 else ""),
        f"model {run.model.num_parameters():,} parameters, {run.precision.dtype}",
    ]
    if run.missing is not None:
        lines.append(f"no plan yet ({run.missing}): samples are the tokens asked, without padding")
    known = "{:,}".format
    stages = _table("stage", "sequence length", "samples", "iterations", "samples a step",
                    "tokens a step", "micro-batches of a replica")  # fmt: skip
    for stage in run.stages:
        count, samples, batch = run.iterations(stage), stage.num_samples, run.settings(stage)
        stages.add_row(
            stage.name,
            known(stage.sequence_length),
            "?" if samples is None else known(samples),
            "?" if count is None else known(count),
            known(batch["global_batch_size"]),
            known(batch["tokens_per_step"]),
            f"{batch['micro_batches']:,} x {batch['micro_batch_size']}",
        )
    ranks = _table(
        "rank", "data", "pipeline", "context", "tensor", "layers", "parameters", "first step"
    )
    for rank in run.ranks:
        shown = ", ".join(f"{name} {count}" for name, count in rank.first_sources.items())
        starts = rank.first_samples
        if starts:
            shown = f"{shown}; samples from {', '.join(map(str, starts[:3]))}"
            shown += f" ... {starts[-1]}" if len(starts) > 3 else ""
        ranks.add_row(
            *map(str, (rank.rank, rank.data_rank, rank.pipeline_stage, rank.context_rank)),
            *map(known, (rank.tensor_rank, rank.num_layers, rank.num_parameters)),
            shown or "-",
        )
    keeps = f"every {run.checkpoint.interval} iterations, {run.checkpoint.keep} kept"
    ends = [f"reads  {path}" for path in run.reads]
    ends += [f"writes {path}" + (f"  ({keeps})" if path.endswith("checkpoints/") else "")
             for path in run.writes]  # fmt: skip
    return Lines(Text("\n".join(lines)), stages, ranks, Text("\n".join(ends)))


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        words = column in ("stage", "first step")
        table.add_column(column, justify="left" if words else "right", no_wrap=not words)
    return table
