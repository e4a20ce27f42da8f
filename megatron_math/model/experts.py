"""Mixture of experts: core's layer with a router of ours, whose balance loss skips padding.

Mixtral's routing (Jiang et al. 2024, section 2.1): the k experts of the highest logits, weighted by
the softmax over these k. No token is ever dropped.

Balance loss (Fedus et al. 2021, equations 4 to 6, with k choices a token) of one row, one layer:
E / (k n^2) * sum over experts e of c_e P_e, where n tokens are real, c_e of them chose expert e and
P_e is the sum of their softmax over all E logits; 1 when balanced, E / k when k experts get
everything. It is taken row by row, so that the micro-batch's size, a setting of place, decides
nothing, and its mean over the real tokens of a global batch, summed over layers and times the
coefficient, is added to the mean loss.

Core's own loss, besides counting padding when nobody tells it, weighs with the tokens of a
micro-batch where the gradient is divided by the tokens that have a loss: on prompts without loss it
would be too large by the ratio. Here the ratio is counted once a step.

Shapes: S sequence of this rank, B micro-batch, H hidden, E experts, k experts a token, T = S*B.
"""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.spec_utils import ModuleSpec

from megatron_math.model.config import ModelConfig


class Balance:
    """What all routers of a process share: the coefficient, the step's scale, the step's sum.

    Around each step: `begin_step`, forward and backward, `mean`.
    """

    def __init__(self, coefficient: float) -> None:
        self.coefficient = coefficient
        self.scale: torch.Tensor | float = 1.0
        """Tokens with a loss per real token, over the global batch."""
        self._num_real: torch.Tensor | float = 1.0
        self._sum: torch.Tensor | float = 0.0

    def begin_step(
        self, num_loss: torch.Tensor, num_real: torch.Tensor, group: dist.ProcessGroup
    ) -> None:
        """Counts of this rank's part of the global batch; `group`: all that hold other parts."""
        counts = torch.stack([num_loss, num_real]).double()
        dist.all_reduce(counts, group=group)
        self._num_real = counts[1].clamp(min=1)
        self.scale = (counts[0] / self._num_real).float()
        self._sum = 0.0

    def add(self, loss_sum: torch.Tensor) -> None:
        """One layer's balance loss on one micro-batch, each row times its real tokens."""
        self._sum = self._sum + loss_sum.detach().double()

    def mean(self, num_layers: int) -> float:
        """The step's balance loss, a mean over layers and real tokens. Collective."""
        total = torch.as_tensor(self._sum / self._num_real / num_layers)
        dist.all_reduce(total)  # tensor ranks hold tokens of their own, stages layers of their own
        return float(total)


class Router(TopKRouter):
    """Core's top-k router in fp32, with the balance loss above instead of core's.

    Core's padding mask (True where a token is padding) says which tokens are real; without one
    all are.
    """

    def __init__(self, *args: Any, balance: Balance, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert not self.is_aux_loss_enabled(), "the balance loss would count twice"
        self.balance = balance

    def gating(self, input: torch.Tensor) -> torch.Tensor:
        """Logits [S, B, E], fp32. Core's own needs a name that only Transformer Engine defines."""
        return F.linear(input.float(), self.weight.float())

    def routing(
        self, logits: torch.Tensor, padding_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights and choices [T, E] for logits [S, B, E] and a mask [S, B]."""
        weights_TE, chosen_TE = super().routing(logits)
        # As in core: under recomputation the loss belongs to the second pass, which has gradients.
        if self.training and torch.is_grad_enabled():
            loss_sum = self.balance_loss(logits, chosen_TE.view_as(logits), padding_mask)
            self.balance.add(loss_sum)
            if self.balance.coefficient:
                attached = loss_sum * (self.balance.coefficient * self.balance.scale)
                weights_TE = MoEAuxLossAutoScaler.apply(weights_TE, attached)
        return weights_TE, chosen_TE

    def balance_loss(
        self,
        logits_SBE: torch.Tensor,
        chosen_SBE: torch.Tensor,
        padding_mask_SB: torch.Tensor | None,
    ) -> torch.Tensor:
        """The sum over rows of balance loss times real tokens; of this rank's tokens their share.

        Ranks with other tokens of the same rows add up to the whole; a row without real tokens
        counts nothing.
        """
        probability_SBE = logits_SBE.softmax(-1, dtype=torch.float32)
        chosen_SBE = chosen_SBE.float()
        if padding_mask_SB is not None:
            real_SB1 = ~padding_mask_SB[..., None]
            probability_SBE, chosen_SBE = probability_SBE * real_SB1, chosen_SBE * real_SB1
        counts_BE = chosen_SBE.sum(0)
        if self.tp_cp_group.size() > 1:
            dist.all_reduce(counts_BE, group=self.tp_cp_group)
        choices_B1 = counts_BE.sum(1, keepdim=True).clamp(min=1)  # k times the row's real tokens
        loads_BE = counts_BE / choices_B1
        return self.num_experts * (loads_BE * probability_SBE.sum(0)).sum()


def expert_fields(config: ModelConfig, expert_ways: int) -> dict[str, Any]:
    """Fields of core's TransformerConfig for a ModelConfig with experts."""
    return {
        "num_moe_experts": config.num_experts,
        "moe_router_topk": config.experts_per_token,
        "moe_ffn_hidden_size": config.ffn_hidden_size,
        "moe_router_load_balancing_type": "none",  # `Router` has its own
        "moe_token_dispatcher_type": "alltoall",
        "moe_router_dtype": "fp32",
        "expert_model_parallel_size": expert_ways,
        "expert_tensor_parallel_size": 1,  # see `Grid.expert`
    }


def torch_experts(balance: Balance) -> ModuleSpec:
    """The slot of the MLP: a router, and experts of core's plain linear layers, one by one."""
    layers = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    return ModuleSpec(
        module=MoELayer,
        submodules=MoESubmodules(
            experts=ModuleSpec(module=SequentialMLP, submodules=layers),
            router=partial(Router, balance=balance),
        ),
    )
