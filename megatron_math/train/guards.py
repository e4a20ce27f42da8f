"""Each step is judged between its gradients and its update, so that nothing wrong gets into the
weights.

What is wrong: a loss or a gradient norm that is no number or far from the usual; a bit that flipped
in what the step began with, in its batch, or in the weights of one replica (`device/digests.py`).
One message carries what every rank found, so that all ranks judge alike.

Then: changed state is loaded anew from the newest checkpoint. All else is computed once more, from
a batch read anew. If it is well now, the fault was transient, and the step is taken. If it is the
same again, the data is at fault: the step is left out (`train/left_out.py`), and after several of
these in a row the run goes back to a checkpoint before them, and leaves out as many steps more,
those right before them, which may have spoiled the weights (PaLM, section 5.1: go back and skip).

A flip that leaves loss and norm in their range shows only where a step is computed twice, which
costs as much again: `replay_steps` says how often.
"""

import collections
import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron_math.base.log import log
from megatron_math.device.digests import (
    Named,
    OutputDigests,
    digests,
    gradient_tensors,
    state_tensors,
)
from megatron_math.device.open import Device
from megatron_math.train.feed import Feed, MicroBatch, batch_digest
from megatron_math.train.gauge import Phases
from megatron_math.train.guard_config import GuardConfig
from megatron_math.train.left_out import LeftOut
from megatron_math.train.nonfinite import leaves, origins
from megatron_math.watch.rules import Usual

T = TypeVar("T")
_STATE, _BATCH = 1, 2
_TIMES_ON_ONE_RANK = 2
_ALIKE = 1e-3
"""Of loss and norm: kernels that are not deterministic add up in another order, and differ by less.
"""


class GuardStop(RuntimeError):  # noqa: N818 - not an error of the program
    """A fault that the guards cannot mend."""


class RollBack(Exception):  # noqa: N818
    """The state is not to be trusted: go back to a checkpoint of `iteration` or before."""

    def __init__(self, iteration: int, leave_out: Sequence[int], why: str) -> None:
        super().__init__(why)
        self.iteration, self.leave_out, self.why = iteration, list(leave_out), why


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a step, known to all ranks alike."""

    kind: Literal["state", "batch", "values", "spike", "norm", "once"]
    message: str
    ranks: tuple[int, ...] = ()
    """That hold what is wrong, where that is known."""


class StepRefused(Exception):  # noqa: N818
    """Raised inside the optimizer's step, before it changes anything."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.message)
        self.verdict = verdict


class Guards:
    """Of one rank, over a launch."""

    def __init__(
        self,
        config: GuardConfig,
        device: Device,
        models: Sequence[Any],
        optimizer: Any,
        feed: Feed,
        left_out: LeftOut,
        *,
        overlap: bool,
        replays: bool,
        tell: Callable[[str, str], None],
        phases: Phases,
    ) -> None:
        """overlap: weights are fetched in the forward pass, and until then not all there.

        replays: a step computed again from the same state has the same result. tell(event,
        message): of this run, to those outside.
        """
        self.left_out = left_out
        self.num_usual = config.spike_steps
        self._config, self._device, self._feed = config, device, feed
        self._models, self._optimizer = models, optimizer
        self._overlap, self._replays, self.tell = overlap, replays, tell
        self._loss: float | None = None
        self.samples: int | None = None
        """Which samples the step was of, over all ranks (`dataset/digest.py`)."""
        self._batches: Sequence[MicroBatch] = ()
        self._step = 0
        self._tensors: list[Named] = []
        self._rests = self._are_weights_2 = torch.tensor([])
        self._at_rest: torch.Tensor | None = None
        self._first_values: tuple[float, float] | None = None
        """Of a step that is computed again."""
        listened = (leaf for model in models for leaf in leaves(model))
        self._outputs = OutputDigests(listened if config.replay_steps else ())
        self._results: list[np.ndarray] = []
        """Digests of outputs and gradients that this step's computations gave, of each rank."""
        self._given: torch.Tensor | None = None
        """Of each output of this rank's first computation."""
        self._stage = ""
        self._losses, self._norms = Usual(config.spike_steps), Usual(config.spike_steps)
        self._spoilt: collections.Counter[int] = collections.Counter()
        # The lowest rank with the same weights, and with the same experts, for each rank.
        experts = parallel_state.get_expert_data_parallel_group()
        # One rank speaks for the samples of its replica.
        self._counts_samples = (
            device.is_first_stage
            and device.context_rank == 0
            and parallel_state.get_tensor_model_parallel_rank() == 0
        )
        own = [min(dist.get_process_group_ranks(g)) for g in (device.data_group, experts)]
        self._replicas_W2 = self._gathered(own)
        norm = optimizer.get_grad_norm  # core's step asks for it, with all gradients ready

        def judged_norm() -> float:
            grad_norm = norm()
            with phases("guards"):
                self._judge(float(grad_norm))
            return grad_norm

        optimizer.get_grad_norm = judged_norm

    def remember(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """What was usual before this launch or a roll-back: rows of metrics.jsonl."""
        self._losses.clear()
        self._norms.clear()
        for row in rows:
            self._enter(row["stage"])
            if not row.get("skipped"):
                self._losses.add(row["lm loss"])
                self._norms.add(row["grad-norm"])

    def forget(self) -> None:
        """The state was loaded or changed by others than the optimizer's step."""
        self._tensors, self._at_rest = [], None

    def take(self, step: int, attempt: Callable[[bool], T]) -> T | None:
        """Run `attempt` (its argument: is it the second time?) for a step, counted from 0.

        None where the step is left out. Raises RollBack, and GuardStop where nothing helps.
        """
        self._step = step
        self._enter(self._feed.stage_at(step).name)
        if self._at_rest is None and self._is_due(step):  # the first of a launch or stage
            self._rest()
        self._first_values, self._results = None, []
        if self._is_replayed(step):
            attempt = partial(self._listening, attempt)
        try:
            return attempt(False)
        except StepRefused as refused:
            first = refused.verdict
        if first.kind == "state":
            raise self._spoilt_state(first) from None
        if first.kind == "once":
            return self._until_two_are_alike(attempt)
        if not self._replays and first.kind != "batch":
            self._leave_out(first)
            return None
        self._say(f"{first.message}; computing the step again")
        own: list[str] = []
        with contextlib.ExitStack() as naming:
            if first.kind == "values":
                own = naming.enter_context(origins(self._models))
            try:
                result = self._again(attempt)
            except StepRefused as refused:
                second = refused.verdict
            else:
                if self._first_values is not None:  # not taken for what it is by `_judge`
                    self.tell("transient", f"{first.message}; the second time it was well")
                return result
        if second.kind == "state":
            raise self._spoilt_state(second)
        if second.kind in ("batch", "norm"):
            raise GuardStop(f"{first.message}, and again: {second.message}")
        self._leave_out(second, self._named(own) if second.kind == "values" else "")
        return None

    def _is_replayed(self, step: int) -> bool:
        every = self._config.replay_steps
        return every > 0 and step % every == 0

    def _listening(self, attempt: Callable[[bool], T], is_again: bool) -> T:
        self._outputs.begin()
        return attempt(is_again)

    def _again(self, attempt: Callable[[bool], T]) -> T:
        try:
            return attempt(True)
        except StepRefused as refused:
            if refused.verdict.kind != "once":
                raise
            return self._until_two_are_alike(attempt)

    def _until_two_are_alike(self, attempt: Callable[[bool], T]) -> T:
        """Of three computations; the first is done and looked well."""
        faults: list[str] = []
        while len(faults) < 2:
            try:
                result = attempt(True)
            except StepRefused as refused:
                if refused.verdict.kind == "state":
                    raise self._spoilt_state(refused.verdict) from None
                faults.append(refused.verdict.message)
                continue
            if faults:
                self.tell("transient", f"{faults[0]}; the third time it was as once before")
            return result
        raise GuardStop(
            f"{faults[-1]}: three computations, three results. Either the machine computes wrong, "
            "or its kernels are not deterministic: then set guards.replay_steps=0"
        )

    def measured(self, loss: float | None, batches: Sequence[MicroBatch]) -> None:
        """What the forward and backward passes of the step gave."""
        self._loss, self._batches = loss, batches
        self.samples = None

    def stepped(self) -> None:
        """The optimizer has changed the state, or has found that a gradient overflowed in fp16."""
        if self.samples is None:  # nobody asked for the gradient norm
            self._gather([0, 0, 0], 0.0)
        self._at_rest = None
        if self._is_due(self._step + 1):
            self._rest()

    def _is_due(self, step: int) -> bool:
        every = self._config.digest_steps
        return every > 0 and step % every == 0

    def _rest(self) -> None:
        """Take the digests of what lies there until the next step's judgement."""
        if not self._tensors:
            self._tensors = state_tensors(self._models, self._optimizer)
            kinds = [one.kind for one in self._tensors]
            place = self._device.torch_device
            weights = [[kind == which for kind in kinds] for which in ("weights", "expert weights")]
            self._are_weights_2 = torch.tensor(weights, dtype=torch.int64, device=place)
            in_flight = self._are_weights_2.any(0) if self._overlap else torch.zeros(len(kinds))
            self._rests = ~in_flight.bool().to(place)
        self._at_rest = digests(self._tensors)

    def _enter(self, stage: str) -> None:
        if stage != self._stage:
            self._stage = stage
            self._losses.clear()
            self._norms.clear()

    def _judge(self, grad_norm: float) -> None:
        found_W6 = self._gather(self._examined(), grad_norm)
        loss, grad_norm = found_W6[-1, 3:5].view(np.float64).tolist()
        verdict = self._fault(found_W6) or self._strange(loss, grad_norm) or self._unlike()
        if verdict is not None:
            if verdict.kind != "once":
                self._first_values = (loss, grad_norm)
            raise StepRefused(verdict)
        self._losses.add(loss)
        self._norms.add(grad_norm)

    def _gather(self, examined: list[int], grad_norm: float) -> np.ndarray:
        """A row of each rank: what it examined, loss and gradient norm as bits, its samples."""
        loss = math.nan if self._loss is None else self._loss
        values = np.array([loss, grad_norm], np.float64).view(np.int64).tolist()
        own = sum(batch.samples for batch in self._batches) if self._counts_samples else 0
        own_bits = int(np.array(own % 2**64, np.uint64).view(np.int64))
        found_W6 = self._gathered([*examined, *values, own_bits])
        self.samples = sum(found_W6[:, 5].tolist()) % 2**64
        return found_W6

    def _examined(self) -> list[int]:
        """Flags, and the digests of dense weights and of experts."""
        if self._at_rest is None or not self._is_due(self._step):
            return [0, 0, 0]
        now = digests(self._tensors)
        changed = (now != self._at_rest) & self._rests
        sums = (now * self._are_weights_2).sum(1)
        batches = torch.stack([batch_digest(batch) for batch in self._batches])
        read = torch.tensor([batch.digest for batch in self._batches], device=batches.device)
        is_misread = (batches != read).any()
        found = torch.cat([changed.any().long()[None], is_misread.long()[None], sums]).tolist()
        if found[0]:
            names = [self._tensors[i].name for i in changed.nonzero().flatten().tolist()]
            log.error("rank %d: changed since the last step: %s", self._device.rank, names)
        return [found[0] * _STATE + found[1] * _BATCH, *found[2:]]

    def _fault(self, found_W6: np.ndarray) -> Verdict | None:
        step = self._step + 1
        if spoilt := np.flatnonzero(found_W6[:, 0] & _STATE).tolist():
            what = "weights, master weights or moments changed where they lay"
            return Verdict("state", f"step {step}: {what}, on rank(s) {spoilt}", tuple(spoilt))
        for column, what in enumerate(("weights", "experts")):
            odd = _minority(found_W6[:, 1 + column], self._replicas_W2[:, column])
            if odd:
                text = f"step {step}: {what} of rank(s) {odd} are not those of their replicas"
                return Verdict("state", text, tuple(odd))
        if misread := np.flatnonzero(found_W6[:, 0] & _BATCH).tolist():
            text = f"step {step}: the batch changed after it was read, on rank(s) {misread}"
            return Verdict("batch", text, tuple(misread))
        return None

    def _strange(self, loss: float, grad_norm: float) -> Verdict | None:
        config, step = self._config, self._step + 1
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            if not config.finite:
                return None
            return Verdict("values", f"step {step}: loss {loss}, gradient norm {grad_norm}")
        if config.spike_deviations is not None and (found := self._losses.away(loss)):
            away, words = found
            if away > config.spike_deviations:
                return Verdict("spike", f"step {step}: loss {words}")
        if not self._replays or config.replay_deviations is None:
            return None
        if (found := self._norms.away(grad_norm)) is None or found[0] <= config.replay_deviations:
            return None
        first = self._first_values
        if first is not None and np.allclose(first, (loss, grad_norm), rtol=_ALIKE, atol=0):
            self._first_values = None  # the data's own: what is computed twice alike is no fault
            return None
        return Verdict("norm", f"step {step}: gradient norm {found[1]}")

    def _unlike(self) -> Verdict | None:
        """Of a step to be computed twice: outputs or gradients that no earlier computation had."""
        if not self._is_replayed(self._step):
            return None
        given = self._outputs.end()
        own = [int(given.sum()), int(digests(gradient_tensors(self._models)).sum())]
        result_W2 = self._gathered(own)
        before, self._results = self._results, [*self._results, result_W2]
        if any((result_W2 == earlier).all() for earlier in before):
            return None
        step = self._step + 1
        if not before:
            self._given = given
            return Verdict("once", f"step {step}: to be computed again")
        assert self._given is not None
        ranks = np.flatnonzero((result_W2 != before[0]).any(1)).tolist()
        first = (given != self._given).nonzero().flatten()[:1].tolist()
        where = self._named([self._outputs.names[place] for place in first])
        text = f"step {step}: not the same again on rank(s) {ranks}, from "
        return Verdict("once", text + (where or "the backward pass on"))

    def _leave_out(self, verdict: Verdict, origin: str = "") -> None:
        step, most = self._step, self._config.most_left_out
        why = verdict.message + (f"; first in {origin}" if origin else "")
        if len(self.left_out.steps) >= most:
            raise GuardStop(f"{why}; guards.most_left_out = {most} steps were left out before it")
        self.left_out.add([step], [self._samples(step)], why)
        self.tell("left_out", f"{why}; left out")
        row = self.left_out.refused_up_to(step + 1)
        if len(row) >= self._config.roll_back_after:
            first = max(self._feed.stage_at(row[0]).first, row[0] - len(row))
            raise RollBack(first, range(first, step + 1), f"{len(row)} steps in a row, now {why}")

    def _spoilt_state(self, verdict: Verdict) -> RollBack:
        self._spoilt.update(verdict.ranks)
        often = [rank for rank in verdict.ranks if self._spoilt[rank] > _TIMES_ON_ONE_RANK]
        if often and len(verdict.ranks) < 1 + len(often):
            raise GuardStop(
                f"{verdict.message}, for the {_TIMES_ON_ONE_RANK + 1}rd time in this launch: no "
                f"chance; take the machine of rank {often[0]} ({self._host(often[0])}) out"
            )
        return RollBack(self._step, [], verdict.message)

    def _host(self, rank: int) -> str:
        import platform

        hosts: list[str] = [""] * self._device.world
        dist.all_gather_object(hosts, platform.node())
        return hosts[rank]

    def _named(self, own: Sequence[str]) -> str:
        """Where NaN began on each rank. Collective."""
        found: list[Any] = [None] * self._device.world
        dist.all_gather_object(found, list(own))
        each = [f"rank {rank}: {', '.join(names)}" for rank, names in enumerate(found) if names]
        return "; ".join(each)

    def leave_out_more(self, steps: Sequence[int], why: str, rolled_back_to: int) -> None:
        """Write down what a roll-back leaves out."""
        self.left_out.add(steps, [self._samples(step) for step in steps], why, rolled_back_to)

    def _samples(self, step: int) -> tuple[str, int, int]:
        """Stage, and the first and last sample of a step, counted in it."""
        stage = self._feed.stage_at(step)
        size = stage.train.global_batch_size
        first = (step - stage.first) * size
        return stage.name, first, first + size - 1

    def _say(self, text: str) -> None:
        if self._device.is_last_rank:
            log.warning("%s", text)

    def _gathered(self, own: Sequence[int]) -> np.ndarray:
        """One row of int64 for each rank."""
        if self._device.world == 1:
            return np.array([own], np.int64)
        place = self._device.torch_device
        mine = torch.tensor(own, dtype=torch.int64, device=place)
        rows = torch.empty(self._device.world * len(own), dtype=torch.int64, device=place)
        dist.all_gather_into_tensor(rows, mine)
        return rows.cpu().numpy().reshape(self._device.world, len(own))


def _minority(values_W: np.ndarray, group_W: np.ndarray) -> list[int]:
    """Ranks whose value is not that of most of their group; all of it where there is no most."""
    if (values_W == values_W[group_W]).all():
        return []
    odd = []
    for group in np.unique(group_W).tolist():
        ranks = np.flatnonzero(group_W == group)
        kinds, counts = np.unique(values_W[ranks], return_counts=True)
        most = counts.max()
        if len(kinds) > 1:
            is_clear = most * 2 > len(ranks)
            usual = kinds[counts.argmax()]
            odd += [r for r in ranks.tolist() if not is_clear or values_W[r] != usual]
    return odd
