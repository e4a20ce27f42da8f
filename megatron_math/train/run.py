"""Build everything, top to bottom, and train.

Reads 00_base (weights, model.json, tokenizer) and 40_blend (the plan; where that continues another
run, weights and optimizer state come from the checkpoint it names). Writes 50_train:
checkpoints, metrics.jsonl, validation.jsonl, launches.jsonl, tensorboard, log.txt; on mock data
50_train_mock, which no other stage reads, without checkpoints. Outside a launcher this starts the
processes that the layout needs; each of them comes through here again as a rank.
"""

import math
import sys
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_math.base.errors import EXIT_STOPPED, StoppedOnRequest, UserError
from megatron_math.base.files import read_json
from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.base.stage import Stage
from megatron_math.checkpoint.folders import (
    COMPLETE,
    Checkpoint,
    complete_checkpoints,
    folder_name,
    newest_good,
    open_checkpoint,
    sweep,
)
from megatron_math.dataset.plan import Plan, load_plan, read_plan
from megatron_math.device.grid import Grid
from megatron_math.device.start import (
    gpus_here,
    launched_ranks,
    rank_environment,
    start_processes,
)
from megatron_math.model.config import ModelConfig
from megatron_math.model.flops import training_flops_per_token
from megatron_math.model.lora_config import LORA_FILE, checkpoint_lora
from megatron_math.tokenizer import load_tokenizer
from megatron_math.train.config import (
    DEFAULT_BALANCE_COEFFICIENT,
    CheckpointConfig,
    ParallelConfig,
    PrecisionConfig,
    TrainConfig,
)
from megatron_math.train.guard_config import GuardConfig
from megatron_math.train.stages import stages_of, stop_iteration
from megatron_math.watch.config import WatchConfig
from megatron_math.watch.launches import rows_behind

if TYPE_CHECKING:  # loads torch
    from megatron_math.checkpoint.copies import Copies
    from megatron_math.checkpoint.saver import Extras, Saver
    from megatron_math.device.open import Device


@dataclass(frozen=True)
class Order:
    """What is asked, checked as far as that goes without torch."""

    stage: Stage
    train: TrainConfig
    parallel: ParallelConfig
    precision: PrecisionConfig
    checkpoint: CheckpointConfig
    model: ModelConfig
    plan: Plan
    start: Path
    tokenizer: Path | None
    watch: WatchConfig
    guards: GuardConfig

    @property
    def save_folder(self) -> Path:
        return self.stage.folder / "checkpoints"

    def last_save(self) -> float | None:
        """When the newest checkpoint was sealed, in unix seconds."""
        newest = complete_checkpoints(self.save_folder)[-1:]
        return (newest[0].folder / COMPLETE).stat().st_mtime if newest else None


def run(road: Road) -> Stage:
    """Train the road's model; returns the finished stage.

    Raises UserError for an order that cannot be carried out, StoppedOnRequest when a signal (or
    train.stop_after) ended it early with a checkpoint on disk.
    """
    order = read_order(road)
    if order.stage.is_done():
        return order.stage
    refuse_other_run(order)
    launched = launched_ranks()
    world = launched[1] if launched else local_world(order.parallel)
    check_world(order.parallel, world)
    check_stages(order.train, order.plan, order.parallel.grid, world)
    if order.precision.fp8 is not None and order.guards.replay_steps:
        raise UserError(
            "guards.replay_steps compares two computations of a step, and with precision.fp8 the "
            "second begins with other scales: leave one of them out"
        )
    for planned in order.plan.stages:
        settings = order.train.of_stage(planned.name)
        grid, length = order.parallel.grid, planned.sequence_length
        check_fp8(order.precision, settings, order.model, grid, length)
    if launched is None:
        order.stage.begin()
        _start_ranks(road, order)
        return read_order(road).stage
    train_rank(road, order)
    return order.stage


def read_order(road: Road) -> Order:
    """Validate sections, inputs, plan and tokenizer. No torch."""
    train, watch = road.section("train", TrainConfig), road.section("watch", WatchConfig)
    guards = road.section("guards", GuardConfig)
    sections = {
        "train": train,
        "parallel": road.section("parallel", ParallelConfig),
        "precision": road.section("precision", PrecisionConfig),
        "checkpoint": road.section("checkpoint", CheckpointConfig),
    }
    base, blend = road.done("00_base"), road.done("40_blend")
    stage = Stage(
        training_folder(road, train),
        config=sections,
        inputs={"base": base, "blend": blend},
        seed=road.seed,
    )
    model = ModelConfig.model_validate(read_json(base.path / "model.json"))
    plan = read_plan(blend.path) if train.mock_data else load_plan(blend.path)
    tokenizer = next(
        (p for s in ("30_index", "00_base") if (p := road.folder(s) / "tokenizer").is_dir()), None
    )
    _check_vocabulary(plan, model, base.path)
    _balance_coefficient(train, model)
    if train.lora is not None:
        train.lora.check(model)
    return Order(stage=stage, model=model, plan=plan, start=base.path / "checkpoint",
                 tokenizer=tokenizer, watch=watch, guards=guards, **sections)  # type: ignore[arg-type]  # fmt: skip


def training_folder(road: Road, train: TrainConfig) -> Path:
    """Of this run, or of its mock."""
    return road.folder("50_train_mock" if train.mock_data else "50_train")


def train_rank(road: Road, order: Order) -> None:
    """This process's part of the run, from joining the others to the last checkpoint."""
    import torch

    from megatron_math.checkpoint.saver import Saver
    from megatron_math.checkpoint.state import load_training_state, load_weights
    from megatron_math.device.gauge import clock_of, device_peak
    from megatron_math.device.open import open_device
    from megatron_math.model.build import build_model, check_grid
    from megatron_math.model.lora import is_adapter
    from megatron_math.train.feed import Feed
    from megatron_math.train.full_memory import running_out_told
    from megatron_math.train.gauge import Phases, Profile
    from megatron_math.train.guards import Guards
    from megatron_math.train.left_out import LeftOut, read_left_out
    from megatron_math.train.lookout import Lookout
    from megatron_math.train.loop import Progress, Run, train_loop, usual_rows
    from megatron_math.train.metrics import Metrics
    from megatron_math.train.optimizer import build_optimizer, wrap_for_training
    from megatron_math.train.step import Trainee
    from megatron_math.train.watch import Deputy, noting, stop_cause, watching

    with (
        watching(order.stage.folder, road.name, order.watch, order.last_save) as watch,
        open_device(
            order.parallel.grid, road.seed, meeting_seconds=order.guards.meeting_seconds
        ) as device,
        noting(watch),
        Lookout(order.guards, device) as lookout,
        running_out_told(order.stage.folder, device, lambda: lookout.num_steps),
    ):
        phases = Phases(clock_of(device))
        profile = Profile(order.train.profile, order.stage.folder / "profile", device, phases)
        feed = Feed(
            order.plan,
            order.train,
            data_rank=device.data_rank,
            data_size=device.data_size,
            torch_device=device.torch_device,
            context_rank=device.context_rank,
            context_size=order.parallel.context,
            microbatch_groups=order.parallel.grid.microbatch_groups,
            mock_vocab_size=order.model.vocab_size if order.train.mock_data else None,
            marks_padding=order.model.num_experts is not None,
        )
        if order.train.mock_data:
            log.info(
                "mock data: random tokens in the plan's shapes; this run prices the loader, so "
                "validation, checkpoints and everything after training are left out"
            )
        for reader in feed.readers:
            check_grid(order.model, order.parallel.grid, reader.sequence_length)
        sequence_length = max(reader.sequence_length for reader in feed.readers)
        dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = dtypes[order.precision.dtype]
        models = build_model(
            order.model,
            grid=order.parallel.grid,
            dtype=dtype,
            spec=order.precision.spec,
            sequence_length=sequence_length,
            stage_layers=(order.parallel.first_stage_layers, order.parallel.last_stage_layers),
            recompute=order.parallel.recompute,
            balance_coefficient=_balance_coefficient(order.train, order.model),
            lora=order.train.lora,
            seed=road.seed,
            fp8=order.precision.fp8,
        )
        balance = models[0].balance
        if device.rank == 0:
            order.stage.begin()
            sweep(order.save_folder)
        device.barrier()

        launch = device.from_first_rank(lambda: uuid.uuid4().hex[:12])
        saver = Saver(
            order.save_folder,
            device.rank,
            device.world,
            launch,
            asynchronous=order.checkpoint.asynchronous,
            copies=_copies(order, device, launch),
        )
        newest = _newest(order, device, saver)
        resumed = newest or device.from_first_rank(lambda: _continued(order))

        def weights() -> Path:
            return device.from_first_rank(lambda: open_checkpoint(order.start).folder)

        if resumed is None:
            start = weights()
            base = None if order.train.lora is None else lambda name: not is_adapter(name)
            load_weights(models, start, part=base)
        left_out = device.from_first_rank(lambda: read_left_out(order.stage.folder))
        overlap = order.parallel.overlap and device.num_copies > 1
        fp8 = order.precision.fp8
        models = wrap_for_training(
            models,
            dtype,
            overlap=overlap,
            fp8_weights=fp8 is not None and fp8.parameters,
            phases=phases,
        )
        optimizer = build_optimizer(
            models,
            order.train,
            dtype,
            overlap=overlap,
            loss_scale=order.precision.loss_scale,
            fp8_recipe=fp8.recipe if fp8 is not None and fp8.backend == "te" else None,
        )
        progress = Progress(feed.first_iteration)
        if resumed is not None:
            load_training_state(models, optimizer, resumed.folder)
            state = resumed.read("data_state.json")
            progress = Progress(state["iteration"], state["consumed_tokens"])
            _check_cursor(feed.data_state(progress.iteration), state, resumed.folder)
            log.info("continuing from %s", resumed.folder)

        metrics = None
        if watch is not None:
            kept_to = progress.iteration if newest else -1
            before = rows_behind(order.stage.folder / "metrics.jsonl", kept_to)
            metrics = Metrics(
                order.stage.folder,
                order.train,
                kept_to=kept_to,
                num_iterations=feed.num_iterations,
                name=road.name,
                watch=watch,
            )
            source = "base" if resumed is None else _called(resumed)
            watch.loaded(
                progress.iteration, source, feed.stages, before, where=lambda: phases.inside
            )
        precision = _computed_in(order.precision)
        device_name, peak = device_peak(device, precision)
        if device.rank == 0 and peak is None:
            log.info("no MFU is given: the %s peak of this %s is not known", precision, device_name)
        guards = Guards(
            order.guards,
            device,
            models,
            optimizer,
            feed,
            LeftOut(order.stage.folder, left_out, writes=device.rank == 0),
            overlap=overlap,
            replays=fp8 is None,
            tell=watch.tell if watch is not None else lambda event, message: None,
            phases=phases,
        )
        guards.remember(usual_rows(metrics, device, guards.num_usual))
        trainee = Trainee(models, optimizer, feed, device, balance, phases, guards)
        lookout.begin(
            progress.iteration,
            phases,
            saver,
            order.stage.folder,
            overlap,
            cache(lambda: watch or Deputy(order.stage.folder, road.name, order.watch)),
        )
        finished = train_loop(
            Run(
                trainee=trainee,
                train=order.train,
                checkpoint=order.checkpoint,
                base=weights,
                saver=saver,
                metrics=metrics,
                flops_per_token=lambda length, causal: training_flops_per_token(
                    order.model, length, causal, lora=order.train.lora
                ),
                fp8=fp8,
                peak=None if peak is None else (precision, peak),
                profile=profile,
                lookout=lookout,
                extras=_extras(order),
            ),
            progress,
        )
        saver.close()
        if metrics is not None:
            metrics.phases(phases.totals)
            metrics.close()
        device.barrier()
        if saver.copies is not None:  # there is a checkpoint of the last step
            saver.copies.remove()
        if not finished:
            if watch is not None:
                watch.end(stop_cause(progress.stopped_by))
            saved = "a mock run saves nothing" if order.train.mock_data else "all is saved"
            raise StoppedOnRequest(f"stopped after iteration {progress.iteration}, {saved}")
        if device.rank == 0:
            _finish(order, feed.num_iterations)


def _copies(order: Order, device: "Device", launch: str) -> "Copies | None":
    """Where the road asks for them. Collective."""
    local = order.checkpoint.local
    if local is None or order.train.mock_data:
        return None
    from megatron_math.checkpoint.copies import open_copies

    stage = order.stage
    return open_copies(
        Path(local.folder), local.interval, stage.folder, stage.fingerprint, device, launch
    )


def _newest(order: Order, device: "Device", saver: "Saver") -> Checkpoint | None:
    """The newest state of this run that can be used: a checkpoint, or a copy on the nodes.

    Collective. Every byte of a checkpoint is read, by one rank: a thousand of them would ask the
    file system for as much. Where a copy is newer, none is.
    """
    behind = -1
    if saver.copies is not None:
        known = device.from_first_rank(lambda: complete_checkpoints(order.save_folder)[-1:])
        behind = (known[0].iteration or 0) if known else 0
        if (found := saver.copies.newest(behind, saver.ask)) is not None:
            return found
    good = device.from_first_rank(lambda: newest_good(order.save_folder))
    reached = 0 if good is None else good.iteration or 0
    if saver.copies is not None and reached < behind:  # that one was damaged
        return saver.copies.newest(reached, saver.ask) or good
    return good


def _called(checkpoint: Checkpoint) -> str:
    """A copy's folder has the word of a launch in its name."""
    name = folder_name(checkpoint.iteration)
    return name if checkpoint.folder.name == name else f"{name} (local copy)"


def _computed_in(precision: PrecisionConfig) -> str:
    """The number type of most matrix products, by the name that peaks have: fp16's is bf16's."""
    if precision.fp8 is not None and precision.fp8.backend == "te":
        return "fp8"
    return "fp32" if precision.dtype == "fp32" else "bf16"


def _finish(order: Order, num_iterations: int) -> None:
    folder = order.stage.folder
    rows = _rows(folder / "metrics.jsonl")
    validation = _rows(folder / "validation.jsonl")
    newest = complete_checkpoints(order.save_folder)[-1:]  # none of a mock run
    order.stage.finish(
        stats={
            "iterations": num_iterations,
            "samples": rows[-1]["consumed_samples"],
            "tokens": rows[-1]["consumed_tokens"],
            **_lora_stats(order),
            "first_loss": rows[0]["lm loss"],
            "last_loss": rows[-1]["lm loss"],
            "seconds": round(math.fsum(row["elapsed_ms"] for row in rows) / 1000, 1),
            "validation_first": validation[0]["loss"] if validation else None,
            "validation_last": validation[-1]["loss"] if validation else None,
        },
        outputs=[
            folder / "metrics.jsonl",
            folder / "validation.jsonl",
            *(kept.folder / "complete.json" for kept in newest),
        ],
    )


def _lora_stats(order: Order) -> dict[str, int]:
    lora = order.train.lora
    return {} if lora is None else {"trained_parameters": lora.num_parameters(order.model)}


def _rows(path: Path) -> list[dict]:
    import json

    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _extras(order: Order) -> "Extras":
    """What a checkpoint has beside the state, so that it can be used alone."""
    from megatron_math.checkpoint.saver import Extras

    adapters = order.train.lora
    files = {
        "model.json": order.model.model_dump(mode="json"),
        **({} if adapters is None else {LORA_FILE: adapters.model_dump(mode="json")}),
        "config.json": {n: c.model_dump(mode="json") for n, c in order.stage.config.items()},
    }
    return Extras(files, {} if order.tokenizer is None else {"tokenizer": order.tokenizer})


def _start_ranks(road: Road, order: Order) -> None:
    """Start the local processes of the layout and wait for them."""
    world = local_world(order.parallel)
    command = [sys.executable, "-m", "megatron_math.train.standby", str(world)]
    command += [str(road.yaml_path), "--runs", str(road.runs), *road.overrides]
    # numpy's BLAS would start threads, and a process that has some cannot be forked.
    environment = rank_environment(world) | {"OPENBLAS_NUM_THREADS": "1"}
    code = start_processes(command, 1, environment)
    if code == EXIT_STOPPED:
        raise StoppedOnRequest("training stopped on request; the same command continues it")
    if code:
        raise SystemExit(code)  # the rank has said why


def local_world(parallel: ParallelConfig) -> int:
    """Processes to start here: one copy of the model, times the replicas asked for or possible."""
    model = parallel.grid.model
    return model * (parallel.replicas or max(1, gpus_here() // model))


def check_world(parallel: ParallelConfig, world: int) -> None:
    """A launcher's processes must be as many replicas as were asked for. Raises UserError."""
    found = parallel.grid.data(world)
    if parallel.replicas not in (None, found):
        raise UserError(
            f"parallel.data {parallel.replicas} was asked, and {world} processes leave {found}; "
            f"drop it, or change the number of processes"
        )


def check_stages(train: TrainConfig, plan: Plan, grid: Grid, world: int) -> None:
    """The settings of every stage must fit the plan and the processes. Raises UserError."""
    stages = stages_of(train, plan)
    stop_iteration(train, stages)  # names a stage that is there
    for stage in stages:
        check_batch(stage.train, grid, world)


def check_batch(train: TrainConfig, grid: Grid, world: int) -> None:
    """The global batch must be whole micro-batches on every replica. Raises UserError."""
    data_size, groups = grid.data(world), grid.microbatch_groups
    rows = train.micro_batch_size * data_size * groups
    if train.global_batch_size % rows:
        rounds = f" x pipeline {groups}, since virtual is {grid.virtual}," if groups > 1 else ""
        raise UserError(
            f"global_batch_size {train.global_batch_size} is not a multiple of micro_batch_size "
            f"{train.micro_batch_size} x data-parallel replicas {data_size}{rounds} = {rows}; "
            f"change one of them"
        )


def check_fp8(
    precision: PrecisionConfig, train: TrainConfig, model: ModelConfig, grid: Grid, length: int
) -> None:
    """FP8 must go with the model, the adapters and a stage of such sequences. Raises UserError."""
    fp8 = precision.fp8
    if fp8 is None:
        return
    for what, found in (("train.lora", train.lora), ("experts", model.num_experts)):
        if found is not None:
            raise UserError(
                f"precision.fp8 does not go with {what} yet: nothing proves that it computes the "
                f"same; leave one of them out"
            )
    fp8.refuse_sizes(model, grid, train.micro_batch_size, length)


def refuse_other_run(order: Order) -> None:
    """A folder with checkpoints of other settings is not continued and not thrown away.

    FP8 may come, go or change at any checkpoint of a run that is not finished: it is how the same
    losses are computed.
    """
    if complete_checkpoints(order.save_folder) and not order.stage.is_started():
        changed = order.stage.changes()
        is_fp8 = changed and all(line.startswith("config.precision.fp8") for line in changed)
        if is_fp8 and not (order.stage.folder / "DONE").exists():
            log.warning("this run goes on with another precision.fp8: %s", "; ".join(changed))
            return
        changes = "; ".join(order.stage.changes()) or "the inputs"
        raise UserError(
            f"{order.stage.folder} holds checkpoints of a run with other settings ({changes}); "
            f"give this road another name, or move that folder away to train anew"
        )


def _check_vocabulary(plan: Plan, model: ModelConfig, base: Path) -> None:
    """The plan's tokenizer must be the model's."""
    tokenizer = plan.tokenizer
    if tokenizer is None:
        log.warning("the indexes have no sidecars: whether their tokenizer fits is not known")
        return
    if tokenizer["size"] > model.vocab_size:
        raise UserError(
            f"the indexes were made with a tokenizer of {tokenizer['size']} ids, and the model has "
            f"a vocabulary of {model.vocab_size}; index with the model's own tokenizer"
        )
    if (base / "tokenizer").is_dir():
        own = load_tokenizer(base / "tokenizer").fingerprint
        if own != tokenizer["fingerprint"]:
            raise UserError(
                f"the indexes were made with another tokenizer (fingerprint "
                f"{tokenizer['fingerprint'][:12]}) than the one in {base} ({own[:12]}); "
                f"index with tokenizer: base"
            )


def _balance_coefficient(train: TrainConfig, model: ModelConfig) -> float:
    """The default where the road says nothing; 0 without experts."""
    if model.num_experts is not None:
        given = train.balance_coefficient
        return DEFAULT_BALANCE_COEFFICIENT if given is None else given
    if train.balance_coefficient is not None:
        raise UserError(
            f"train.balance_coefficient {train.balance_coefficient} has no effect: the model has "
            "no experts; drop it"
        )
    return 0.0


def _continued(order: Order) -> Checkpoint | None:
    """The checkpoint of another run that the plan goes on from; None where there is none."""
    history = order.plan.history
    if history is None or order.train.mock_data:
        return None
    checkpoint = open_checkpoint(Path(history.checkpoint))
    if ModelConfig.model_validate(checkpoint.read("model.json")) != order.model:
        raise UserError(
            f"blend.continue_from: {checkpoint.folder} is of another model than 00_base; give "
            f"this road the base of the run that it continues"
        )
    found = checkpoint_lora(checkpoint.folder)
    if found != order.train.lora:
        raise UserError(
            f"blend.continue_from: {checkpoint.folder} was trained with train.lora "
            f"{found and found.identity()}, and this road asks for "
            f"{order.train.lora and order.train.lora.identity()}; take the same one, or take the "
            f"other run's export as this road's base"
        )
    return checkpoint


def _check_cursor(expected: dict, found: dict, folder: Path) -> None:
    """The checkpoint's data cursors must be the plan's at that iteration."""
    expected, found = (
        state | {"stages": [one for one in state["stages"] if one["consumed_samples"]]}
        for state in (expected, found)
    )
    differing = [key for key in expected if expected[key] != found.get(key)]
    if differing:
        raise UserError(
            f"{folder}/data_state.json does not fit the blend plan (differs in "
            f"{', '.join(differing)}); the plan was changed after training began"
        )
