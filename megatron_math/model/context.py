"""Context parallelism: which tokens of a sequence a rank holds, and whole sequences from parts.

Core cuts a sequence into 2c chunks and gives rank r of c the chunks r and 2c - 1 - r, so that under
a causal mask all ranks have equally many pairs of query and key. Hidden states and rotary positions
inside core follow that order; what comes in and what attends must follow it too.

Shapes: S sequence, P = S/c tokens of one rank.
"""

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region


def own_chunks(length: int, rank: int, size: int) -> list[slice]:
    """The parts of a sequence of `length` tokens that context rank `rank` of `size` holds."""
    if size == 1:
        return [slice(0, length)]
    assert length % (2 * size) == 0, (length, size)
    chunk = length // (2 * size)
    return [slice(at * chunk, (at + 1) * chunk) for at in (rank, 2 * size - 1 - rank)]


def own_tokens(whole_BS: torch.Tensor, rank: int, size: int) -> torch.Tensor:
    """Of every row, what that context rank holds: [B, P], contiguous."""
    if size == 1:
        return whole_BS
    chunks = own_chunks(whole_BS.shape[1], rank, size)
    return torch.cat([whole_BS[:, chunk] for chunk in chunks], dim=1)


def whole_sequence(part_P: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """[P, ...] of every rank to [S, ...] in the order of the sequence.

    The gradient of each rank's part is the sum over what all ranks made of it.
    """
    gathered = gather_from_sequence_parallel_region(part_P, group=group)
    chunks = gathered.unflatten(0, (group.size(), 2, -1))
    return torch.cat([chunks[:, 0], chunks[:, 1].flip(0)]).flatten(0, 1)
