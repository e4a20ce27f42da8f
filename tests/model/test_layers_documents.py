"""Attention stays inside documents; masks are built once, and never stale."""

import pytest
import torch

from megatron_math.model import layers
from megatron_math.model.config import ModelConfig

LENGTHS = (5, 1, 17, 9)


@pytest.fixture
def packed():
    """(tokens [1, 32], document ids [1, 32], the documents alone)."""
    tokens_BS = torch.randint(0, 100, (1, 32), generator=torch.Generator().manual_seed(5))
    ids = [torch.full((length,), 7 + number) for number, length in enumerate(LENGTHS)]
    return tokens_BS, torch.cat(ids)[None].int(), tokens_BS.split(LENGTHS, dim=1)


def positions(tokens_BS):
    return torch.arange(tokens_BS.shape[1]).expand(tokens_BS.shape)


@pytest.mark.parametrize("window", [None, 6])
def test_packed_documents_equal_each_alone(build, tiny, packed, window):
    config = ModelConfig(
        **(tiny.model_dump() | {"family": "mistral", "sliding_window": window, "init_std": 0.3})
    )
    model = build(config)
    tokens_BS, ids_BS, alone = packed
    with torch.no_grad():
        together = model(tokens_BS, positions(tokens_BS), ids_BS)
        apart = torch.cat([model(part, positions(part)) for part in alone], dim=1)
        across = model(tokens_BS, positions(tokens_BS), torch.zeros_like(ids_BS))
    assert (together - apart).abs().max() < 1e-5 * together.abs().max()
    # Control: the same test sees it when attention does leak across documents.
    assert (across - apart).abs().max() > 1e-2 * together.abs().max()
    first = LENGTHS[0]
    torch.testing.assert_close(across[:, :first], apart[:, :first], rtol=1e-4, atol=1e-5)


def test_rows_with_different_documents_do_not_mix(build, tiny, packed):
    model = build(tiny)
    tokens_BS, ids_BS, _ = packed
    two_tokens = torch.cat([tokens_BS, tokens_BS.flip(1)])
    two_ids = torch.cat([ids_BS, torch.zeros_like(ids_BS)])
    with torch.no_grad():
        both = model(two_tokens, positions(two_tokens), two_ids)
        one = model(two_tokens[:1], positions(tokens_BS), two_ids[:1])
        other = model(two_tokens[1:], positions(tokens_BS))
    torch.testing.assert_close(both, torch.cat([one, other]), rtol=1e-4, atol=1e-5)


def test_a_single_document_takes_the_causal_kernel():
    ids_BS = torch.tensor([[3, 3, 3], [4, 4, 4]])
    assert layers.same_document_mask(ids_BS, None) is None
    assert layers.same_document_mask(ids_BS, 3) is None
    assert layers.same_document_mask(ids_BS, 2) is not None


def test_mask_by_hand():
    mask = layers.same_document_mask(torch.tensor([[0, 0, 0, 1]]), 2)
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert mask.int().tolist() == [[expected]]


@pytest.mark.parametrize(
    "recompute",
    [
        {},
        {
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
        },
        {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]},
    ],
)
def test_one_mask_a_micro_batch_and_the_same_gradients_when_recomputing(
    build, tiny, packed, monkeypatch, recompute
):
    tokens_BS, ids_BS, _ = packed
    plain = build(tiny)
    plain(tokens_BS, positions(tokens_BS), ids_BS, labels=tokens_BS).sum().backward()
    model = build(tiny, **recompute)
    model.load_state_dict(plain.state_dict())
    original, built = layers.same_document_mask, []
    monkeypatch.setattr(
        layers, "same_document_mask", lambda *args: built.append(1) or original(*args)
    )
    fresh_BS = ids_BS.clone()
    model(tokens_BS, positions(tokens_BS), fresh_BS, labels=tokens_BS).sum().backward()
    assert len(built) == 1  # two layers, forward and backward
    for ours, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)


def test_memory_that_numpy_rewrote_is_not_met_by_an_old_mask():
    remember = layers._MaskOfMicroBatch()
    ids_BS = torch.tensor([[0, 0, 1, 1]], dtype=torch.int32)
    array = ids_BS.numpy()
    first = remember(ids_BS, None)
    assert remember(ids_BS.detach(), None) is first
    array[0, 1] = 1  # no version counter sees this
    second = remember(torch.from_numpy(array), None)
    assert second is not first
    assert not second[0, 0, 1, 0]


def test_packed_sequences_cut_at_rows_and_documents():
    from megatron_math.model.gpt import packed_sequences

    packed = packed_sequences(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 2]], dtype=torch.int32))
    assert packed.cu_seqlens_q.tolist() == [0, 2, 4, 7, 8]
    assert packed.cu_seqlens_q.dtype == torch.int32
    assert packed.max_seqlen_q == 3
    assert packed.qkv_format == "thd"
