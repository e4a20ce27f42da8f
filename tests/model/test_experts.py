"""A Mixtral's balance loss by definition, without padding; its documents; what does not fit it."""

import pytest
import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.moe.moe_utils import (
    clear_aux_losses_tracker,
    get_moe_layer_wise_logging_tracker,
)
from megatron.core.transformer.moe.router import TopKRouter

from megatron_math.base.errors import UserError
from megatron_math.device.grid import Grid
from megatron_math.model.build import check_grid
from megatron_math.model.config import ModelConfig
from megatron_math.model.experts import Router

ROWS, LENGTH, COEFFICIENT = 3, 16, 0.1


@pytest.fixture
def mixtral(tiny) -> ModelConfig:
    change = {"family": "mixtral", "num_experts": 4, "experts_per_token": 2, "init_std": 0.3}
    return ModelConfig(**(tiny.model_dump() | change))


@pytest.fixture
def rows():
    """Tokens, which of them have a loss, which are padding, each [3, 16]; no row like another."""
    generator = torch.Generator().manual_seed(3)
    tokens_BS = torch.randint(0, 100, (ROWS, LENGTH), generator=generator)
    padding_BS = torch.arange(LENGTH) >= torch.tensor([16, 9, 5])[:, None]
    loss_mask_BS = (torch.rand((ROWS, LENGTH), generator=generator) < 0.4) & ~padding_BS
    return tokens_BS, loss_mask_BS.float(), padding_BS


def position_ids(tokens_BS):
    return torch.arange(tokens_BS.shape[1]).expand(tokens_BS.shape)


def routers(model) -> list[Router]:
    return [module for module in model.modules() if isinstance(module, Router)]


def by_hand(logits_SE, padding_S, k):
    """Balance loss of one row: E / (k n^2) * sum over experts of c_e P_e, token by token."""
    experts = logits_SE.shape[1]
    counts, probabilities, real = [0] * experts, [0.0] * experts, 0
    for logits_E, is_padding in zip(logits_SE, padding_S.tolist(), strict=True):
        if is_padding:
            continue
        real += 1
        for expert in logits_E.topk(k).indices.tolist():
            counts[expert] += 1
        for expert, share in enumerate(logits_E.softmax(0)):
            probabilities[expert] = probabilities[expert] + share
    products = [count * share for count, share in zip(counts, probabilities, strict=True)]
    return experts / (k * real**2) * sum(products)


@pytest.mark.parametrize("micro_batch", [3, 1])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_gradient_is_that_of_the_mean_loss_and_the_mean_balance_loss(
    build, mixtral, rows, micro_batch, recompute
):
    """Through core's schedule, divided by the tokens with a loss, against autograd by hand."""
    tokens_BS, loss_mask_BS, padding_BS = rows
    full = {
        "recompute_granularity": "full",
        "recompute_method": "uniform",
        "recompute_num_layers": 1,
    }
    model = build(mixtral, balance_coefficient=COEFFICIENT, **(full if recompute else {}))
    group = torch.distributed.group.WORLD
    model.balance.begin_step(loss_mask_BS.sum(), (~padding_BS).sum(), group)

    def forward_step(iterator, model):
        tokens, loss_mask, padding = next(iterator)
        loss_BS = model(
            tokens, position_ids(tokens), labels=tokens.roll(-1, 1), padding_mask=padding,
            loss_mask=loss_mask,
        )  # fmt: skip
        return loss_BS, lambda loss_BS: (
            (loss_BS * loss_mask).sum(), loss_mask.sum().int(), torch.zeros(1),
        )  # fmt: skip

    parts = zip(*(part.split(micro_batch) for part in rows), strict=True)
    get_forward_backward_func()(
        forward_step_func=forward_step, data_iterator=parts, model=model,
        num_microbatches=ROWS // micro_batch, seq_length=LENGTH, micro_batch_size=micro_batch,
        forward_only=False,
    )  # fmt: skip
    ours = {name: p.grad / loss_mask_BS.sum() for name, p in model.named_parameters()}
    reported = model.balance.mean(mixtral.num_layers)

    plain = build(mixtral, balance_coefficient=0.0)
    plain.load_state_dict(model.state_dict())
    seen = []
    for router in routers(plain):
        gating = router.gating
        router.gating = lambda hidden, gating=gating: seen.append(gating(hidden)) or seen[-1]
    labels_BS = tokens_BS.roll(-1, 1)
    loss_BS = plain(tokens_BS, position_ids(tokens_BS), labels=labels_BS, loss_mask=loss_mask_BS)
    real_B = (~padding_BS).sum(1)
    balance = sum(
        by_hand(logits_SBE[:, row], padding_BS[row], 2) * real_B[row] / real_B.sum()
        for logits_SBE in seen
        for row in range(ROWS)
    )
    ((loss_BS * loss_mask_BS).sum() / loss_mask_BS.sum() + COEFFICIENT * balance).backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=2e-4, atol=1e-6, msg=name)
    assert reported == pytest.approx(balance.item() / mixtral.num_layers, rel=1e-5)
    # Control: the balance loss is no rounding error in what was compared.
    weight = routers(plain)[0].weight.grad
    plain.zero_grad()
    loss_BS = plain(tokens_BS, position_ids(tokens_BS), labels=tokens_BS.roll(-1, 1))
    ((loss_BS * loss_mask_BS).sum() / loss_mask_BS.sum()).backward()
    assert (routers(plain)[0].weight.grad - weight).norm() > 1e-2 * weight.norm()


def test_padding_does_not_count_and_in_cores_router_it_does(build, mixtral, rows):
    """Other tokens where padding is: our loss stays, core's (which nobody tells) moves."""
    tokens_BS, _, padding_BS = rows
    other_BS = torch.where(padding_BS, (tokens_BS + 31) % 100, tokens_BS)
    model = build(mixtral, balance_coefficient=COEFFICIENT)
    ours, cores = [], []
    for tokens in (tokens_BS, other_BS):
        model.balance.begin_step(*torch.ones(2), torch.distributed.group.WORLD)
        model(tokens, position_ids(tokens), padding_mask=padding_BS)
        ours.append(model.balance.mean(mixtral.num_layers))

    for router in routers(model):
        router.__class__ = CoresRouter
        router.routing_type, router.config.moe_aux_loss_coeff = "aux_loss", COEFFICIENT
    for tokens in (tokens_BS, other_BS):
        clear_aux_losses_tracker()
        model(tokens, position_ids(tokens))
        tracker = get_moe_layer_wise_logging_tracker()
        cores.append(tracker["load_balancing_loss"]["values"].mean().item())
    assert ours[0] == pytest.approx(ours[1], rel=1e-6)
    assert abs(cores[0] - cores[1]) > 1e-3 * cores[0]


class CoresRouter(Router):
    """Core's routing with our product of matrices, which core's lacks on a CPU."""

    routing = TopKRouter.routing


def test_one_is_balanced_and_all_tokens_to_the_same_is_the_worst(build, mixtral):
    (router, _) = routers(build(mixtral))
    choices = torch.tensor([[0, 1], [2, 3]]).repeat(4, 1)  # each expert as often as the others
    even = 20.0 * torch.nn.functional.one_hot(choices, 4).sum(1).float()[:, None]
    same = 20.0 * torch.tensor([1.0, 1, 0, 0]).repeat(8, 1, 1)
    for logits_SBE, expected in ((even, 1.0), (same, 2.0)):
        loss_sum = router.balance_loss(logits_SBE, logits_SBE > 0, None)
        assert loss_sum.item() / 8 == pytest.approx(expected, rel=1e-6)
    nothing_real = torch.ones(8, 1, dtype=torch.bool)
    assert router.balance_loss(same, same > 0, nothing_real) == 0


def test_packed_documents_equal_each_alone(build, mixtral):
    lengths = (5, 1, 17, 9)
    tokens_BS = torch.randint(0, 100, (1, 32), generator=torch.Generator().manual_seed(5))
    ids = torch.cat([torch.full((n,), 7 + number) for number, n in enumerate(lengths)])[None].int()
    model = build(mixtral)
    with torch.no_grad():
        together = model(tokens_BS, position_ids(tokens_BS), ids)
        alone = tokens_BS.split(lengths, dim=1)
        apart = torch.cat([model(part, position_ids(part)) for part in alone], dim=1)
        across = model(tokens_BS, position_ids(tokens_BS), torch.zeros_like(ids))
    assert (together - apart).abs().max() < 1e-5 * together.abs().max()
    assert (across - apart).abs().max() > 1e-2 * together.abs().max()


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ({"expert": 3}, "parallel.expert 3 does not divide num_experts 4"),
        ({"tensor": 2, "sequence": True}, "parallel.expert to 2 or more"),
        ({"tensor": 2, "expert": 2}, "set parallel.sequence to true"),
    ],
)
def test_a_grid_that_does_not_fit_experts(mixtral, grid, says):
    with pytest.raises(UserError, match=says):
        check_grid(mixtral, Grid(**grid), 32)


def test_fitting_grids_pass(mixtral):
    check_grid(mixtral, Grid(expert=4), 32)
    check_grid(mixtral, Grid(expert=2, tensor=2, sequence=True, pipeline=2), 32)


def test_sharded_keys_are_those_of_transformer_engine(build, mixtral):
    keys = {part.key for part in build(mixtral).sharded_state_dict().values()}
    layer = "decoder.layers."
    assert {key for key in keys if "mlp" in key and "_extra_state" not in key} == {
        f"{layer}pre_mlp_layernorm.weight",
        f"{layer}mlp.router.weight",
        f"{layer}mlp.experts.experts.linear_fc1.weight",
        f"{layer}mlp.experts.experts.linear_fc2.weight",
    }
