"""The process grid: how many ways the model is cut along each axis. Torch-free.

Reads the `parallel:` section of a road; data parallelism is never asked for, it is what is left
of the world after the model axes.
"""

from typing import Self

from pydantic import Field, model_validator

from megatron_math.base.config import Section
from megatron_math.base.errors import UserError


class Grid(Section):
    """Ways of each parallel axis; `tensor * pipeline * context` processes hold one copy."""

    tensor: int = Field(default=1, ge=1, description="ways each matrix is cut")
    pipeline: int = Field(default=1, ge=1, description="ways the stack of layers is cut")
    virtual: int = Field(
        default=1, ge=1, description="layer chunks per pipeline stage (interleaving)"
    )
    context: int = Field(default=1, ge=1, description="ways the sequence is cut")
    expert: int = Field(
        default=1,
        ge=1,
        description="ways the experts of a layer are dealt out, among all that hold the same layer",
    )
    sequence: bool = Field(
        default=False, description="cut norms and dropouts along the sequence, too"
    )

    @model_validator(mode="after")
    def _no_idle_axis(self) -> Self:
        if self.virtual > 1 and self.pipeline == 1:
            raise ValueError(
                f"virtual {self.virtual} has no effect with pipeline 1; "
                "set pipeline to 2 or more, or virtual to 1"
            )
        if self.sequence and self.tensor == 1:
            raise ValueError(
                "sequence: true has no effect with tensor 1; set tensor to 2 or more, or drop it"
            )
        return self

    @property
    def model(self) -> int:
        """Processes that hold one copy of the model together."""
        return self.tensor * self.pipeline * self.context

    @property
    def microbatch_groups(self) -> int:
        """A step is a multiple of so many micro-batches: interleaved stages work in rounds."""
        return self.pipeline if self.virtual > 1 else 1

    def data(self, world: int) -> int:
        """Data-parallel ways in a world of `world` processes.

        Raises `UserError` (with the product spelled out) when the axes do not divide the world.
        """
        product = (
            f"tensor {self.tensor} x pipeline {self.pipeline} x context {self.context} "
            f"= {self.model}"
        )
        if world < 1 or world % self.model:
            raise UserError(
                f"asked {product} does not divide world {world}; "
                f"start a multiple of {self.model} processes or change the section `parallel`"
            )
        data = world // self.model
        on_one_stage = world // self.pipeline
        if on_one_stage % self.expert:
            raise UserError(
                f"asked expert {self.expert} does not divide tensor {self.tensor} x context "
                f"{self.context} x data {data} = {on_one_stage} (world {world}, {product})"
            )
        return data
