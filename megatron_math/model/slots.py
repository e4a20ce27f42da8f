"""What the slots of a layer spec are made of, in every supported megatron-core.

Core's own specs hold an MLP or a layer of experts as a ModuleSpec in 0.16, and from 0.17 on as a
functools.partial of what builds it.
"""

from functools import partial
from typing import Any


def submodules_of(slot: Any) -> Any:
    """The dataclass of submodules that the slot is built with; changes to it reach the model."""
    return slot.keywords["submodules"] if isinstance(slot, partial) else slot.submodules
