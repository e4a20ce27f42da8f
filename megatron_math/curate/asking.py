"""Asking a model about records, one request each."""

from collections.abc import Sequence

from megatron_math.base.log import log
from megatron_math.engine.interface import Engine, Generation, Request


def generations(engine: Engine, requests: Sequence[Request], what: str) -> list[Generation | None]:
    """What the engine says to each; None, and a warning, for those that it does not answer."""
    found: list[Generation | None] = [None] * len(requests)
    failures = []
    for number, answer in engine.answers(requests):
        if answer.generations:
            found[number] = answer.generations[0]
        else:
            failures.append(answer.failure)
    if failures:
        log.warning(
            "%s: %d of %d records got no answer (%s)",
            what,
            len(failures),
            len(requests),
            failures[0],
        )
    return found
