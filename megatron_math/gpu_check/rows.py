"""What a part reports: one row for each thing that it looked at."""

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
"""`what`, and either `skipped` (the reason) or figures; `ok` where there is a limit to keep."""
Save = Callable[[list[Row]], None]
"""To be called with all rows so far, so that a crash behind them does not lose them."""


def compared(what: str, error: float, limit: float, **more: Any) -> Row:
    """A relative error against its limit; NaN is a failure."""
    return {"what": what, "error": error, "limit": limit, "ok": bool(error <= limit), **more}


def skipped(what: str, reason: str) -> Row:
    return {"what": what, "skipped": reason}


def faults(rows: list[Row]) -> list[Row]:
    """Those that broke their limit."""
    return [row for row in rows if row.get("ok") is False]
