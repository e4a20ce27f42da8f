"""Training speed beside peers: same model, first weights, tokens, batch, optimizer and threads.

    python tests/bench/train [--case NAME] [--dtype bf16] [--peers NAME ...] [--pairs N] [--quick]
                             [--record]

Sides run by turns as processes of their own. One run of ours stands between two peers and is
paired with both; every second round goes backwards. A peer whose losses are not ours is refused.
--record writes docs/benchmarks/train.json and the page; without it results are printed and kept in
the work folder.
"""

import argparse
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import results
from cases import REPOSITORY, SHAPES, Shape, make_case
from environments import ACCELERATE, LITGPT, Skip, python_with
from sides import Side, Steps, difference, median_and_interval, our_python, run

from megatron_math.model.config import ModelConfig

WARM_UP = 2
PEERS = (
    "hf-trainer", "litgpt", "litgpt-plain", "bare", "bare-compiled", "core-local", "core-ours",
)  # fmt: skip


def side(name: str, work: Path) -> Side:
    """Raises Skip for a peer that cannot be had here."""
    own = our_python()
    if name == "hf-trainer":
        python = python_with(work / "hf-trainer", ACCELERATE)
        return Side("Hugging Face Trainer", python, "hf_trainer.py", (), 1.15, 1.5)
    if name.startswith("litgpt"):
        python = python_with(work / "litgpt", LITGPT)
        plain = ("--plain",) if name == "litgpt-plain" else ()
        title = "litgpt's pretrain" + (" without torch.compile" if plain else "")
        return Side(title, python, "litgpt_pretrain.py", plain, 1.1, 1.3)
    return {
        "bare": Side("bare PyTorch loop", own, "bare.py", (), 1.0, 1.3),
        "bare-compiled": Side("bare PyTorch loop, torch.compile", own, "bare.py", ("--compiled",)),
        "core-local": Side("Megatron-Core's local layers, bare loop", own, "core.py", ("--local",)),
        "core-ours": Side("our model, bare Megatron-Core loop", own, "core.py", (), 0.97, 0.99),
    }[name]


def main() -> int:
    parser = argparse.ArgumentParser(description="Training speed beside peers.")
    add = parser.add_argument
    add("--case", choices=SHAPES, default="nano-d6")
    add("--dtype", choices=("fp32", "bf16"), default="fp32")
    add("--peers", nargs="+", choices=PEERS, default=PEERS, metavar="NAME", help=", ".join(PEERS))
    add("--pairs", type=int, default=5)
    add("--steps", type=int, default=6, help=f"timed steps of a run, behind {WARM_UP} others")
    add("--quick", action="store_true", help="a tiny model, few steps, one pair: does it work?")
    add("--work", type=Path, default=REPOSITORY / "runs" / "bench" / "train")
    add("--record", action="store_true", help="write docs/benchmarks/train.{json,md}")
    args = parser.parse_args()
    if args.quick and args.record:
        parser.error("a quick run is a smoke test; its figures are not for the page")
    if args.quick:
        args.case, args.pairs, args.steps = "tiny", 1, 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a side's process ends too
    begun, described = time.perf_counter(), results.describe_run()
    work = args.work.resolve()
    peers, refused = {}, {}
    for name in args.peers:
        try:
            peers[name] = side(name, work / "environments")
        except Skip as reason:
            refused[name] = str(reason)
    shape = SHAPES[args.case]
    case = make_case(work / args.case, shape, WARM_UP + args.steps)
    record = described | campaign(case, shape, args.dtype, peers, args.pairs, refused)
    record |= {"start": start_up(case, peers, args.pairs)}
    path = results.RESULTS if args.record else work / "results.json"
    everything = results.load(path) | {f"{args.case} {args.dtype}": record}
    results.save(path, everything)
    print(results.table({f"{args.case} {args.dtype}": record}))
    print(f"({time.perf_counter() - begun:.0f} s)")
    if args.record:
        results.write_page(everything)
    return 1 if refused else 0


def campaign(
    case: Path,
    shape: Shape,
    dtype: str,
    peers: dict[str, Side],
    pairs: int,
    refused: dict[str, str],
) -> dict[str, Any]:
    """Rounds of all peers; `refused` takes in those whose losses are not ours, or that fail."""
    ours = Side("ours", our_python(), "ours.py")
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in peers}
    differences: dict[str, float] = {}
    shares: list[float] = []
    rates: list[float] = []
    tokens = shape.batch * shape.sequence_length
    flops = tokens * ModelConfig(**shape.model(), max_sequence_length=shape.sequence_length
                                 ).flops_per_token(shape.sequence_length)  # fmt: skip
    for number in range(pairs):
        names = [name for name in peers if name not in refused]
        names = names if number % 2 == 0 else names[::-1]
        for first in range(0, len(names), 2):
            told: dict[str, Steps] = {}
            around = names[first : first + 2]
            for name in (around[0], "ours", *around[1:]):
                one = ours if name == "ours" else peers[name]
                try:
                    told[name] = run(one.command(case, dtype), case)
                except RuntimeError as failure:
                    if name == "ours":
                        raise
                    refused[name] = str(failure)
                    continue
                step = told[name].seconds_a_step(WARM_UP)
                print(f"round {number + 1}: {name} {step:.3f} s a step", file=sys.stderr)
            own = told.pop("ours")
            own_seconds = own.seconds_a_step(WARM_UP)
            rate = statistics.mean(own.matmul.values())
            rates.append(rate)
            shares.append(flops / own_seconds / rate)
            for name, steps in told.items():
                reason = difference(steps, own, dtype)
                if reason is not None:
                    refused[name] = f"does not compute the same: {reason}"
                    continue
                seconds[name].append((steps.seconds_a_step(WARM_UP), own_seconds))
                off = max(abs(a / b - 1) for a, b in zip(steps.losses, own.losses, strict=True))
                differences[name] = max(off, differences.get(name, 0.0))
    rows = {
        name: {
            "title": peers[name].title,
            "floor": peers[name].floor,
            "aim": peers[name].aim,
            "ratio": median_and_interval([theirs / own for theirs, own in values]),
            "seconds": values,
            "largest_loss_difference": differences[name],
        }
        for name, values in seconds.items()
        if values and name not in refused
    }
    return {
        "shape": vars(shape),
        "parameters": ModelConfig(
            **shape.model(), max_sequence_length=shape.sequence_length
        ).num_parameters(),
        "dtype": dtype,
        "tokens_per_step": tokens,
        "flops_per_step": flops,
        "peers": rows,
        "refused": refused,
        "matmul_share": median_and_interval(shares) if shares else None,
        "matmul_flops": rates,
    }


def start_up(case: Path, peers: dict[str, Side], pairs: int) -> dict[str, Any] | None:
    """From the command to the end of the first step, fp32: Trainer's script and `train`."""
    if "hf-trainer" not in peers:
        return None
    theirs = peers["hf-trainer"].command(case, "fp32")
    own = [str(our_python()), "-m", "megatron_math.cli", "train", str(case / "road.yaml")]
    own += ["--runs", str(case / "runs")]
    values = [
        (run(theirs, case, until=1).ends[0], run(own, case, until=1).ends[0]) for _ in range(pairs)
    ]
    return {"ratio": median_and_interval([a / b for a, b in values]), "seconds": values}


if __name__ == "__main__":
    sys.exit(main())
