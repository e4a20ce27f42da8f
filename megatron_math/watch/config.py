"""The section `watch`: who is told what about a run. Nothing of it changes the run, nor is it kept
in a manifest or a checkpoint: a command's arguments may hold what is nobody else's business."""

from typing import Annotated

from pydantic import Field, model_validator

from megatron_math.base.config import LOCATION, Section
from megatron_math.watch.progress import STALL_LEAST_SECONDS, STALL_MEDIANS


class WatchConfig(Section):
    """A Prometheus endpoint, a command for alerts, and what is worth one."""

    prometheus: Annotated[int | None, LOCATION] = Field(None, ge=0, le=65535)
    """Port of the endpoint, on the machine of the last rank; 0 takes a free one and logs it."""
    prometheus_address: Annotated[str, LOCATION] = "127.0.0.1"
    """Where it listens. It has no password: any other address shows the run to its network."""
    alert_command: Annotated[list[str] | None, LOCATION] = Field(None, min_length=1)
    """Program and arguments, run without a shell; an event is a JSON object on its input."""
    alert_limit_seconds: Annotated[float, LOCATION] = Field(20.0, gt=0)
    """After this the command is ended. The run's own end waits for it, nothing else does."""
    bad_steps: Annotated[int | None, LOCATION] = Field(3, ge=1)
    """Steps in a row, skipped or without finite loss or gradient, that are an event; null: none."""
    spike_deviations: Annotated[float | None, LOCATION] = Field(10.0, gt=0)
    """A loss so many median absolute deviations above the median is an event; null: none."""
    spike_steps: Annotated[int, LOCATION] = Field(100, ge=10)
    """Last steps that this median is taken of; a stage begins anew."""
    stall_medians: Annotated[float | None, LOCATION] = Field(STALL_MEDIANS, gt=1)
    """Silence of so many median steps is an event; null: none."""
    stall_least_seconds: Annotated[float, LOCATION] = Field(STALL_LEAST_SECONDS, gt=0)
    """No shorter silence is one."""

    @model_validator(mode="after")
    def _effective(self) -> "WatchConfig":
        given = self.model_fields_set
        for name, needs in (
            ("prometheus_address", "prometheus"),
            ("alert_limit_seconds", "alert_command"),
            ("spike_steps", "spike_deviations"),
            ("stall_least_seconds", "stall_medians"),
        ):
            if name in given and getattr(self, needs) is None:
                raise ValueError(f"{name} has no effect without {needs}")
        return self
