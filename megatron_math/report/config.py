"""What the `report` section of a road holds."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from megatron_math.base.config import Section


class ReportConfig(Section):
    """The page has few settings on purpose: it shows what is there."""

    title: str | None = None
    """The page's title. Left out: the road's name."""
    compare: list[Path] = []
    """Other runs, by folder or by name, whose last scores stand beside this one's."""
    examples: Annotated[int, Field(ge=0)] = 48
    """Problems of each benchmark that are shown with every answer to them."""
