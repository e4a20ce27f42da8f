"""The two exceptions that people are meant to meet, and the exit codes they become."""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped on request, the same command continues


class UserError(ValueError):
    """Something the user gave cannot be used. Says what was asked, what was found, what to do."""


class StoppedOnRequest(Exception):  # noqa: N818 - it is a state, not an error
    """A signal asked for a stop; everything needed to continue is on disk."""
