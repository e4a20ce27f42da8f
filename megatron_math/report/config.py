"""What the `report` section of a road holds."""

from megatron_math.base.config import Section


class ReportConfig(Section):
    """The page has few settings on purpose: it shows what is there."""

    title: str | None = None
    """The page's title. Left out: the road's name."""
