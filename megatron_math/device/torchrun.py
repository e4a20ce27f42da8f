"""torchrun for a batch system: hands SIGUSR1 on to the ranks, and gives back their 75.

    python -m megatron_math.device.torchrun --nnodes=2 ... -m megatron_math.train run.yaml

takes torchrun's own arguments and is torchrun, except in its signals and exit codes. SIGUSR1,
which plain torchrun dies of, goes to the ranks; SLURM with proctrack/cgroup signals a task's first
process only, so without this it never reaches them. And when they stopped on request the exit code
is 75, for bad input 2, where plain torchrun says 1 for every failure (both seen with torch 2.13,
2026-11-21). With --max-restarts neither of them is taken for a crash that a new start could mend.
"""

import contextlib
import os
import signal
import sys

import psutil
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous
from torch.distributed.launcher import api
from torch.distributed.run import main as torchrun

from megatron_math.base.errors import EXIT_BAD_INPUT, EXIT_STOPPED
from megatron_math.device.meeting import meeting_store
from megatron_math.device.signals import obey_at_once

STOPPED = {EXIT_STOPPED, -signal.SIGUSR1}
"""A rank that died of the signal was still loading, before it could catch it."""


class Agent(LocalElasticAgent):
    """torchrun's own starts ranks again that say 75 or 2, too, and does not say which node it waits
    for."""

    def _rendezvous(self, worker_group):
        handler = worker_group.spec.rdzv_handler
        if isinstance(handler, StaticTCPRendezvous) and handler._store is None:
            handler._store = meeting_store(
                handler.master_addr, handler.master_port, rank=handler.rank,
                world=handler.world_size, timeout=handler.timeout, what="node",
            )  # fmt: skip
        super()._rendezvous(worker_group)

    def _monitor_workers(self, worker_group):
        result = super()._monitor_workers(worker_group)
        if {failure.exitcode for failure in result.failures.values()} & {*STOPPED, EXIT_BAD_INPUT}:
            self._remaining_restarts = 0
        return result


def main() -> int:
    """Run torchrun with this process's arguments. Returns 0, 2 or 75; other failures raise."""
    obey_at_once({signal.SIGUSR1}, _hand_on)
    api.LocalElasticAgent = Agent  # type: ignore[misc]
    try:
        torchrun()
    except ChildFailedError as error:
        # One that died of SIGTERM had it from torchrun, which ends what runs a moment longer than
        # the first.
        _, first = error.get_first_failure()
        codes = {failure.exitcode for failure in error.failures.values()}
        if first.exitcode in STOPPED and codes <= STOPPED | {-signal.SIGTERM}:
            return EXIT_STOPPED
        if first.exitcode == EXIT_BAD_INPUT:  # a rank has said what; no new start mends it
            return EXIT_BAD_INPUT
        raise
    return 0


def _hand_on(number: int) -> None:
    """The ranks are torchrun's only children. None yet: nothing has begun that could be saved."""
    ranks = psutil.Process().children()
    if not ranks:
        os._exit(EXIT_STOPPED)
    for child in ranks:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(number)


if __name__ == "__main__":
    sys.exit(main())
