"""Training speed beside peers: same model, first weights, tokens, batch, optimizer and threads.

    python tests/bench/train [--case NAME] [--dtype bf16] [--peers NAME ...] [--rounds N] [--quick]
                             [--record]

Two peers, ours, and torch.mm are processes of their own that take their steps by turns: only one
of them runs at any time. A pair is two steps of one turn; every second turn goes backwards. A peer
whose losses are not ours is refused.
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
from environments import ACCELERATE, LITGPT, Skip, python_with, versions
from sides import Side, Steps, difference, median_and_interval, our_command, running

WARM_UP = 2
MATMUL = "torch.mm"
PEERS = (
    "hf-trainer", "litgpt", "litgpt-plain", "bare", "bare-compiled", "core-local", "core-ours",
)  # fmt: skip


def side(name: str, work: Path) -> Side:
    """Raises Skip for a peer that cannot be had here."""
    own = Path(sys.executable)
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
    add("--rounds", type=int, default=1)
    add("--steps", type=int, default=8, help=f"timed, of a round, behind {WARM_UP}")
    add("--quick", action="store_true", help="a tiny model, few steps, one round: does it work?")
    add("--work", type=Path, default=REPOSITORY / "runs" / "bench" / "train")
    add("--record", action="store_true", help="write docs/benchmarks/train.{json,md}")
    args = parser.parse_args()
    if args.quick and args.record:
        parser.error("a quick run is a smoke test; its figures are not for the page")
    if args.quick:
        args.case, args.rounds, args.steps = "tiny", 1, 2
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
    described["versions"] |= versions()
    record = described | campaign(
        case, shape, args.dtype, WARM_UP + args.steps, peers, args.rounds, refused
    )
    record |= {"start": start_up(case, peers, args.steps)}
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
    num_steps: int,
    peers: dict[str, Side],
    rounds: int,
    refused: dict[str, str],
) -> dict[str, Any]:
    """Rounds of all peers; `refused` takes in those whose losses are not ours, or that fail."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in [*peers, MATMUL]}
    differences: dict[str, float] = {}
    for number in range(rounds):
        names = [name for name in peers if name not in refused][:: -1 if number % 2 else 1]
        for first in range(0, len(names), 2):
            together = names[first : first + 2]
            try:
                told = steps_by_turns(
                    case, dtype, num_steps, {name: peers[name] for name in together}
                )
            except RuntimeError as failure:
                for name in together:
                    if str(failure).startswith(peers[name].shown(case, dtype) + " ended"):
                        refused[name] = str(failure)
                        break
                else:
                    raise
                continue
            own = told.pop("ours")
            for name, steps in told.items():
                reason = None if name == MATMUL else difference(steps, own, dtype)
                if reason is not None:
                    refused[name] = f"does not compute the same: {reason}"
                    continue
                seconds[name] += zip(steps.seconds[WARM_UP:], own.seconds[WARM_UP:], strict=True)
                off = max(abs(a / b - 1) for a, b in zip(steps.losses, own.losses, strict=True))
                differences[name] = max(off, differences.get(name, 0.0))
                ratios = [theirs / ours for theirs, ours in seconds[name]]
                ratio = statistics.median(ratios)
                print(f"round {number + 1}: {name} {ratio:.3f}", file=sys.stderr)
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
        if values and name != MATMUL and name not in refused
    }
    products = seconds[MATMUL]
    return {
        "shape": vars(shape),
        "parameters": shape.config().num_parameters(),
        "dtype": dtype,
        "tokens_per_step": shape.batch * shape.sequence_length,
        "flops_per_step": shape.flops(),
        "peers": rows,
        "refused": refused,
        "matmul_share": median_and_interval([theirs / own for theirs, own in products]),
        "matmul_seconds": products,
    }


def steps_by_turns(
    case: Path, dtype: str, num_steps: int, peers: dict[str, Side]
) -> dict[str, Steps]:
    """All steps of the case from each peer, from ours and from torch.mm, a turn at a time."""
    first, *rest = [(name, peer.command(case, dtype)) for name, peer in peers.items()]
    matmul = Side("", Path(sys.executable), "matmul.py").command(case, dtype)
    commands = dict([first, ("ours", our_command(case, dtype)), *rest, (MATMUL, matmul)])
    with running(commands, case) as sides:
        for number in range(1, num_steps):
            for side in list(sides.values())[:: -1 if number % 2 else 1]:
                side.step()
        return {name: side.told for name, side in sides.items()}


def start_up(case: Path, peers: dict[str, Side], pairs: int) -> dict[str, Any] | None:
    """From the command to the end of the first step, fp32: Trainer's script and `train`."""
    if "hf-trainer" not in peers:
        return None
    commands = peers["hf-trainer"].command(case, "fp32"), our_command(case, "fp32")
    values = []
    for number in range(pairs):
        told = {}
        for command in commands[:: -1 if number % 2 else 1]:
            with running({"": command}, case) as sides:
                told[command is commands[1]] = sides[""].told.seconds[0]
        values.append((told[False], told[True]))
    return {"ratio": median_and_interval([a / b for a, b in values]), "seconds": values}


if __name__ == "__main__":
    sys.exit(main())
