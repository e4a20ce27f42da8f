"""Flips bits in memory while a small model trains, and counts what the guards find.

Usage: bit_flips.py [--at-rest 10000] [--inside 2000] [--replay] [--seed 7] [--json FILE]

At rest: one random bit of weights, moments or the batch, after the forward and backward passes of
a step and before its judgement; the bit is put back after it. Inside: one random exponent bit of
one value of one module's output, or of the gradient of a weight, in a random micro-batch of the
step; what the judgement says of loss and gradient norm, and how far they moved; with --replay, of
outputs and gradients too, beside those of a computation without a flip, as guards.replay_steps=1
does.
Controls: no flip is found where there is none, and a flip that is put back before the judgement is
not found either.
"""

import argparse
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import contextlib

from train_roads import prepare, save_hf_llama

from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.train.guards import Guards, StepRefused
from megatron_math.train.run import read_order, train_rank

WARM_STEPS = 16
HARM = 1e-3
"""Of loss or gradient norm: a flip that moves neither by so much is of no harm."""


class Over(Exception):  # noqa: N818
    """All trials are done."""


def flip(tensor: torch.Tensor, byte: int, bit: int) -> None:
    tensor.view(-1).view(torch.uint8)[byte] ^= 1 << bit


def at_rest(guards: Guards, number: int, chance: random.Random) -> Counter[tuple[str, bool]]:
    """(what was flipped, whether it was found) of `number` flips."""
    found: Counter[tuple[str, bool]] = Counter()
    batches = [
        (f"batch {field.name}", values)
        for batch in guards._batches
        for field in fields(batch)
        if isinstance(values := getattr(batch, field.name), torch.Tensor)
    ]
    resting = [(one.name.split(" of ")[0], one.tensor) for one in guards._tensors]
    log.setLevel(logging.CRITICAL)  # each find is said
    sizes = [tensor.numel() * tensor.element_size() for _, tensor in resting]
    for trial in range(number):
        many = chance.choices(resting, sizes)[0]  # any byte is as likely as any other
        name, tensor = chance.choice(batches) if trial % 5 == 0 else many
        byte, bit = chance.randrange(tensor.numel() * tensor.element_size()), chance.randrange(8)
        flip(tensor, byte, bit)
        is_found = bool(guards._examined()[0])
        flip(tensor, byte, bit)
        found[name, is_found] += 1
        if trial % 50 == 0:
            assert not guards._examined()[0], "found where there is nothing"
    return found


class Inside:
    """One flip in one output, or gradient of a weight, of the next step."""

    def __init__(self, guards: Guards, chance: random.Random) -> None:
        self._guards, self._chance = guards, chance
        model = guards._models[0].module
        self._modules = [one for one in model.modules() if not any(one.children())]
        self._weights = list(model.parameters())
        self.bit, self.done, self.kind = 0, False, ""

    def plant(self) -> Any:
        chance = self._chance
        self.bit, self.done = chance.randrange(23, 31), False  # the exponent of an fp32
        skip = chance.randrange(4)  # the micro-batch
        self.kind = chance.choice(("output", "gradient"))
        left = [skip]

        def change(tensor: torch.Tensor) -> torch.Tensor:
            changed = tensor.detach().clone()
            place = chance.randrange(changed.numel())
            changed.view(-1).view(torch.int32)[place] ^= 1 << self.bit
            self.done = True
            return tensor + (changed - tensor.detach()) if tensor.requires_grad else changed

        if self.kind == "gradient":

            def on_gradient(gradient: torch.Tensor) -> torch.Tensor:
                left[0] -= 1
                return change(gradient) if left[0] == -1 else gradient

            return chance.choice(self._weights).register_hook(on_gradient)

        def on_output(module: Any, inputs: Any, output: Any) -> Any:
            whole = output if isinstance(output, tuple) else (output,)
            if not isinstance(whole[0], torch.Tensor) or whole[0].dtype != torch.float32:
                return output
            left[0] -= 1
            if left[0] != -1:
                return output
            changed = (change(whole[0]), *whole[1:])
            return changed if isinstance(output, tuple) else changed[0]

        module = chance.choice(self._modules)
        return module.register_forward_hook(on_output, prepend=True)  # the guards see what is used


def campaign(road: Road, arguments: argparse.Namespace) -> dict[str, Any]:
    chance = random.Random(arguments.seed)
    results: dict[str, Any] = {}
    real = Guards.take

    def take(self: Guards, step: int, attempt: Any) -> Any:
        if step < WARM_STEPS:
            return real(self, step, attempt)
        self._step = step
        if arguments.replay:
            attempt = partial(self._listening, attempt)
        judge, _batches = self._judge, [None]

        def resting(grad_norm: float) -> None:
            begin = time.perf_counter()
            results["at rest"] = at_rest(self, arguments.at_rest, chance)
            results["seconds at rest"] = round(time.perf_counter() - begin, 1)
            raise Over

        values: list[tuple[float, float]] = []

        def judged(grad_norm: float) -> None:
            values.append((self._loss or 0.0, grad_norm))
            judge(grad_norm)  # raises where it finds
            raise Over  # nothing was found, and nothing is to change

        self._judge = resting  # type: ignore[method-assign]
        with contextlib.suppress(Over):
            attempt(False)
        self._judge = judged  # type: ignore[method-assign]
        inside, found = Inside(self, chance), Counter()
        losses, norms = list(self._losses._values), list(self._norms._values)
        try:
            attempt(True)
        except Over:
            found["control", -1, ""] += 1
        except StepRefused as refused:
            if not arguments.replay or refused.verdict.kind != "once":
                raise
        sound = list(self._results)
        for trial in range(arguments.inside):
            is_control = trial % 20 == 0
            handle = contextlib.nullcontext() if is_control else inside.plant()
            self._losses._values.clear(), self._losses._values.extend(losses)
            self._norms._values.clear(), self._norms._values.extend(norms)
            self._first_values, self._results = None, list(sound)
            try:
                attempt(True)
                kind = "not reached"
            except Over:
                off = max(abs(a / b - 1) for a, b in zip(values[-1], values[0], strict=True))
                kind = "not found" if off > HARM else "no harm"
                if arguments.replay:  # it would have been refused for any bit of the gradients
                    kind = "no effect"
            except StepRefused as refused:
                kind = refused.verdict.kind
            if is_control:
                assert kind in ("no harm", "no effect"), "found where there is nothing"
                continue
            handle.remove()
            if inside.done:
                found[inside.kind, inside.bit - 23, kind] += 1
        results["inside"] = found
        raise Over

    with mock.patch.object(Guards, "take", take), contextlib.suppress(Over):
        train_rank(road, read_order(road))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at-rest", type=int, default=10_000)
    parser.add_argument("--inside", type=int, default=2_000)
    parser.add_argument("--replay", action="store_true")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_hf_llama(folder / "hf")
        prepare(folder)
        overrides = ["guards.spike_steps=10", "guards.spike_deviations=20"]
        overrides += ["guards.replay_steps=1"] if arguments.replay else []
        results = campaign(Road.load(folder / "road.yaml", overrides, folder / "runs"), arguments)
    rest: Counter[tuple[str, bool]] = results["at rest"]
    for what in sorted({what for what, _ in rest}):
        print(f"{what:24} {rest[what, True]:6} of {rest[what, True] + rest[what, False]} found")
    missed = sum(count for (_, is_found), count in rest.items() if not is_found)
    print(f"at rest: {missed} of {rest.total()} not found, {results['seconds at rest']} s")
    inside: Counter[tuple[str, int, str]] = results["inside"]
    table: dict[str, dict[str, int]] = {}
    for (kind, bit, said), count in inside.items():
        if bit >= 0:
            table.setdefault(f"{kind}, exponent bit {bit}", Counter())[said] += count
    for row in sorted(table):
        counts = table[row]
        print(f"{row:28} {sum(counts.values()):4}: {dict(counts)}")
    trials = [(said, n) for (_, bit, said), n in inside.items() if bit >= 0]
    of = Counter[str]()
    for said, n in trials:
        of[said if said in ("no effect", "no harm", "not found") else "found"] += n
    print(f"inside: {dict(of)}, of {of.total()}; no harm: loss and norm move by less than {HARM}; "
          "no effect: no bit of an output or a gradient does")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps({"missed_at_rest": missed, "at_rest": rest.total(),
            "inside": table}, indent=1))  # fmt: skip
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
