"""The section `guards`: what looks after a run while it trains. Without faults nothing of it
changes the result, and steps that are left out are in left_out.jsonl: so, like `watch`, it is no
part of a run's identity and is kept in no manifest and no checkpoint."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from megatron_math.base.config import Section

OUT_OF_MEMORY_FILE = "out_of_memory.json"
"""In the run folder, written by a rank whose memory was full."""


class GuardConfig(Section):
    """Heartbeats that name the rank which holds all others up, the end of the job's time, and a
    judgement of each step before it changes the weights."""

    restarts: int = Field(3, ge=0)
    """How often a start on this machine brings ranks that died back in the same job, without a new
    checkpoint in between. Those of torchrun and srun are brought back by the batch script."""
    meeting_seconds: float = Field(600.0, gt=0)
    """Ranks that are not there so long after the first are named with their hosts, and the start is
    given up; torchrun's agents wait as long (`--rdzv-conf timeout=`). Who is missing is said once a
    minute before."""
    heartbeat_seconds: Annotated[float | None, Field(gt=0)] = 1.0
    """Between two signs of life of a rank; null: none, and no rank is named."""
    frozen_seconds: float = Field(3.0, gt=0)
    """A rank that gives no sign for so long while others do is named; ten times as long before the
    first step."""
    stuck_seconds: float = Field(30.0, gt=0)
    """When no rank comes on for so long, and for 20 median steps, the one behind is named."""
    hang_seconds: Annotated[float | None, Field(gt=0)] = 300.0
    """After so long every rank writes its stacks to a file and the run ends with 1, so that a new
    start goes on from the last checkpoint; null: a rank is named, and all wait."""
    straggler_steps: Annotated[int | None, Field(ge=1)] = 20
    """Steps between two comparisons of how fast the ranks are; null: none."""
    straggler_share: float = Field(0.2, gt=0)
    """A rank that makes every step longer by this share is named."""
    end_time: Annotated[float | None, Field(gt=0)] = None
    """When the job ends, in unix seconds; left out: what SLURM says."""
    end_margin_seconds: Annotated[float | None, Field(ge=0)] = 60.0
    """Left over when the last checkpoint is on disk before the job ends; null: train on into it."""
    finite: bool = True
    """A step whose loss or gradient is NaN or infinite is computed again, and left out if it is so
    again; false: it goes into the weights."""
    spike_deviations: float | None = Field(None, gt=0)
    """So is one whose loss is so many median absolute deviations above the median; null: none."""
    spike_steps: int = Field(100, ge=10)
    """Last steps that medians are taken of; a stage begins anew."""
    replay_deviations: float | None = Field(20.0, gt=0)
    """A step with a gradient norm so far above is computed again, and taken if it is the same."""
    replay_steps: int = Field(0, ge=0)
    """Every so many steps the gradients are computed twice, and a third time where they differ: 1
    finds any fault of the computation and doubles its time, 100 a chip that always computes wrong;
    0: not."""
    digest_steps: int = Field(1, ge=0)
    """Every so many steps weights, moments and batches are looked through for flipped bits; 0: not.
    """
    roll_back_after: int = Field(3, ge=1)
    """Steps left out in a row, after which the run goes back to a checkpoint before them, and
    leaves out as many more, those before them."""
    most_left_out: int = Field(20, ge=0)
    """Steps that may be left out over the run; one more ends it."""

    def identity(self) -> dict[str, Any]:
        return {}

    @model_validator(mode="after")
    def _effective(self) -> "GuardConfig":
        given = self.model_fields_set
        for name, needs in (
            ("frozen_seconds", "heartbeat_seconds"),
            ("stuck_seconds", "heartbeat_seconds"),
            ("hang_seconds", "heartbeat_seconds"),
            ("straggler_share", "straggler_steps"),
            ("end_time", "end_margin_seconds"),
        ):
            if name in given and getattr(self, needs) is None:
                raise ValueError(f"{name} has no effect without {needs}")
        return self
