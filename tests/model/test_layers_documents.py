"""Attention stays inside documents, by a call each or under a mask; nothing is found twice."""

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.transformer.enums import AttnMaskType

from megatron_math.model import layers
from megatron_math.model.config import ModelConfig
from megatron_math.model.context import own_chunks, own_tokens

LENGTHS = (5, 1, 17, 9)
BY_DOCUMENT, BY_MASK = 0, 1 << 60


@pytest.fixture
def packed():
    """(tokens [1, 32], document ids [1, 32], the documents alone)."""
    tokens_BS = torch.randint(0, 100, (1, 32), generator=torch.Generator().manual_seed(5))
    ids = [torch.full((length,), 7 + number) for number, length in enumerate(LENGTHS)]
    return tokens_BS, torch.cat(ids)[None].int(), tokens_BS.split(LENGTHS, dim=1)


def positions(tokens_BS):
    return torch.arange(tokens_BS.shape[1]).expand(tokens_BS.shape)


@pytest.mark.parametrize("way", [BY_DOCUMENT, BY_MASK])
@pytest.mark.parametrize("window", [None, 6])
def test_packed_documents_equal_each_alone(build, tiny, packed, monkeypatch, window, way):
    monkeypatch.setitem(layers.MULTIPLICATIONS_A_CALL, "cpu", way)
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


def core_attention(window, *, heads=4, groups=2):
    config = SimpleNamespace(
        attention_dropout=0.0,
        window_size=None if window is None else (window - 1, 0),
        num_attention_heads=heads,
        num_query_groups=groups,
    )
    return layers.DocumentAttention(config, 1, AttnMaskType.causal, "self")


def by_hand(query_SBND, key_SBGD, value_SBGD, ids_BS, window):
    """Softmax over the allowed keys of each query, in double precision, in this many words."""
    length, batch, heads, size = query_SBND.shape
    group = heads // key_SBGD.shape[2]
    query, key, value = (part.double() for part in (query_SBND, key_SBGD, value_SBGD))
    key, value = (part.repeat_interleave(group, dim=2) for part in (key, value))
    scores = torch.einsum("sbnd,tbnd->bnst", query, key) / size**0.5
    for b in range(batch):
        for s in range(length):
            for t in range(length):
                near = 0 <= s - t < (window or length)
                if not (near and ids_BS[b, s] == ids_BS[b, t]):
                    scores[b, :, s, t] = float("-inf")
    return torch.einsum("bnst,tbnd->sbnd", scores.softmax(-1), value).flatten(2)


rows_of_documents = st.integers(1, 24).flatmap(
    lambda length: st.lists(
        st.lists(st.integers(0, 1), min_size=length, max_size=length), min_size=1, max_size=3
    )
)


@settings(max_examples=60, deadline=None)
@given(
    changes=rows_of_documents,
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    window=st.none() | st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_both_ways_equal_the_definition_with_gradients(changes, heads, window, seed):
    """Any documents in any row, padding included; groups of heads as tensor ranks see them."""
    ids_BS = torch.tensor(changes, dtype=torch.int32).cumsum(1, dtype=torch.int32)
    batch, length = ids_BS.shape
    generator = torch.Generator().manual_seed(seed)
    attention = core_attention(window)
    shapes = [(length, batch, number, 8) for number in (heads[0], heads[1], heads[1])]
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    weight = torch.randn(length, batch, heads[0] * 8, generator=generator)
    results = {}
    for way in (BY_DOCUMENT, BY_MASK, "by hand"):
        leaves = [part.clone().requires_grad_() for part in inputs]
        if way == "by hand":
            out = by_hand(*leaves, ids_BS, window)
        else:
            with mock.patch.dict(layers.MULTIPLICATIONS_A_CALL, {"cpu": way}):
                out = attention(*leaves, ids_BS)
            assert out.is_contiguous()
        (out * weight).sum().backward()
        results[way] = [out.detach().float(), *(leaf.grad for leaf in leaves)]
    for way in (BY_DOCUMENT, BY_MASK):
        for ours, expected in zip(results[way], results["by hand"], strict=True):
            torch.testing.assert_close(ours, expected, rtol=2e-5, atol=2e-5)


@settings(max_examples=60, deadline=None)
@given(
    chunk=st.integers(1, 5),
    size=st.sampled_from([1, 2, 3]),
    batch=st.integers(1, 2),
    change=st.sampled_from([0.0, 0.1, 0.5]),
    window=st.none() | st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_the_parts_of_context_ranks_make_up_the_whole(chunk, size, batch, change, window, seed):
    """Each rank's queries with the keys before them, put back in their places."""
    generator = torch.Generator().manual_seed(seed)
    length = 2 * size * chunk
    changes_BS = torch.rand((batch, length), generator=generator) < change
    ids_BS = changes_BS.cumsum(1, dtype=torch.int32)
    inputs = [torch.randn((length, batch, number, 8), generator=generator) for number in (4, 2, 2)]
    attention = core_attention(window)
    whole = attention(*inputs, ids_BS).transpose(0, 1)
    query, key, value = (part.transpose(0, 1) for part in inputs)
    for way in (BY_DOCUMENT, BY_MASK):
        seen = torch.full_like(whole, float("nan"))
        with mock.patch.dict(layers.MULTIPLICATIONS_A_CALL, {"cpu": way}):
            for rank in range(size):
                for part in own_chunks(length, rank, size):
                    seen[:, part] = attention._attend_chunk(
                        query[:, part], key[:, : part.stop], value[:, : part.stop],
                        layers.documents_of(ids_BS), part, length,
                    )  # fmt: skip
        torch.testing.assert_close(seen, whole, rtol=2e-5, atol=2e-5)


def test_context_ranks_share_all_tokens_and_all_pairs():
    for size in (1, 2, 3, 4):
        tokens_BS = torch.arange(48).view(1, -1).repeat(2, 1)
        parts = [own_tokens(tokens_BS, rank, size) for rank in range(size)]
        assert sorted(torch.cat(parts, dim=1)[0].tolist()) == list(range(48))
        pairs = [int((part[0] + 1).sum()) for part in parts]  # a query sees itself and all before
        assert len(set(pairs)) == 1, pairs


def test_short_documents_share_a_mask_and_long_ones_have_a_call_each(monkeypatch):
    calls = []
    original = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        layers.F,
        "scaled_dot_product_attention",
        lambda *args, **kw: calls.append(kw["attn_mask"] is not None) or original(*args, **kw),
    )
    attention = core_attention(None)

    def masked_calls(length, document, *, rows=1):
        calls.clear()
        ids_BS = (torch.arange(length) // document).int().expand(rows, length)
        attention(*(torch.zeros(length, rows, heads, 32) for heads in (4, 2, 2)), ids_BS)
        return list(calls)

    assert masked_calls(4096, 200) == [False] * 21
    assert masked_calls(64, 8) == [True]
    assert masked_calls(256, 256, rows=4) == [False]  # one document a row: one causal call
    assert masked_calls(16, 16, rows=4) == [False]


def test_ids_on_another_device_are_refused():
    with pytest.raises(AssertionError, match="stay on the host"):
        layers.documents_of(torch.zeros(1, 4, dtype=torch.int32, device="meta"))


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
def test_boundaries_once_a_micro_batch_and_the_same_gradients_when_recomputing(
    build, tiny, packed, monkeypatch, recompute
):
    tokens_BS, ids_BS, _ = packed
    plain = build(tiny)
    plain(tokens_BS, positions(tokens_BS), ids_BS, labels=tokens_BS).sum().backward()
    model = build(tiny, **recompute)
    model.load_state_dict(plain.state_dict())
    original, built = layers.Documents, []
    monkeypatch.setattr(layers, "_last_documents", None)
    monkeypatch.setattr(layers, "Documents", lambda ids: built.append(1) or original(ids))
    fresh_BS = ids_BS.clone()
    model(tokens_BS, positions(tokens_BS), fresh_BS, labels=tokens_BS).sum().backward()
    assert len(built) == 1  # two layers, forward and backward
    for ours, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)


def test_memory_that_numpy_rewrote_is_not_met_by_old_documents():
    ids_BS = torch.tensor([[0, 0, 1, 1]], dtype=torch.int32)
    array = ids_BS.numpy()
    first = layers.documents_of(ids_BS)
    mask = first.mask(None, ids_BS.device)
    assert layers.documents_of(ids_BS.detach()) is first
    assert first.mask(None, ids_BS.device) is mask
    assert first.mask(1, ids_BS.device) is not mask
    array[0, 1] = 1  # no version counter sees this
    second = layers.documents_of(torch.from_numpy(array))
    assert (first.lengths, second.lengths) == ([2, 2], [1, 3])
    assert second.mask(None, ids_BS.device)[0, 0].int().tolist() == [
        [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1],
    ]  # fmt: skip


def test_packed_sequences_cut_at_rows_and_documents():
    from megatron_math.model.gpt import packed_sequences

    ids_BS = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 2]], dtype=torch.int32)
    packed = packed_sequences(ids_BS, torch.device("cpu"))
    assert packed.cu_seqlens_q.tolist() == [0, 2, 4, 7, 8]
    assert packed.cu_seqlens_q.dtype == torch.int32
    assert packed.max_seqlen_q == 3
    assert packed.qkv_format == "thd"
