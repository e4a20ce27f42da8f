"""Gradients of texts in batches are those of each text alone, and come five times as fast."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from planted import (
    mean_loss,
    one_at_a_time,
    random_moments,
    random_texts,
    small_model,
)

from megatron_math.curate.influence.gradients import TextGradients
from megatron_math.curate.influence.projection import Projection
from megatron_math.curate.influence.texts import Text
from megatron_math.model.gpt import GPT
from megatron_math.model.lora import is_adapter
from megatron_math.model.lora_config import LoraConfig

LORA = LoraConfig(rank=4, alpha=12)


@pytest.fixture(scope="module")
def model() -> Iterator[GPT]:
    with small_model(LORA) as built:
        yield built


def by_hand(model: GPT, texts: list[Text], adam) -> np.ndarray:
    """Unit rows from autograd and the formulas alone: nothing of ours but the model."""
    factors = [parameter for name, parameter in model.named_parameters() if is_adapter(name)]
    rows = []
    for text in texts:
        for factor in factors:
            factor.requires_grad_(True)
        parts = []
        for factor, gradient in zip(
            factors, torch.autograd.grad(mean_loss(model, text), factors), strict=True
        ):
            part = gradient.flatten()
            if adam is not None:
                first, second = adam.moments[factor]
                first = (0.9 * first + 0.1 * part) / (1 - 0.9**8)
                second = (0.95 * second + 0.05 * part**2) / (1 - 0.95**8)
                part = first / (second.sqrt() + 1e-8)
            parts.append(part)
        row = torch.cat(parts).double()
        rows.append((row / row.norm()).numpy())
    return np.stack(rows)


def test_scores_are_dot_products_of_each_text_alone(model: GPT) -> None:
    """Adam's steps of 24 texts with plain gradients of 6, of many lengths, whole gradients."""
    texts, targets = random_texts(24, longest=40), random_texts(6, longest=40, seed=1)
    adam = random_moments(model)
    maker = TextGradients(model, Projection(None, ""), batch_tokens=200)
    ours = maker.rows(texts, adam) @ maker.rows(targets, None).T
    plainly = maker.rows(texts, None) @ maker.rows(targets, None).T
    expected = by_hand(model, texts, adam) @ by_hand(model, targets, None).T
    difference = np.abs(ours - expected).max()
    print(f"largest difference {difference:.1e} of scores of {np.abs(expected).mean():.3f}")
    assert difference < 1e-4
    assert np.abs(plainly - expected).max() > 100e-4  # the control: not Adam's


def test_projected_rows_are_the_matrix_times_the_whole_ones(model: GPT) -> None:
    texts, dimension = random_texts(5, longest=20), 1024
    whole = TextGradients(model, Projection(None, ""), batch_tokens=4096)
    rows_BP = torch.from_numpy(whole.rows(texts, None))
    projection = Projection(dimension, "seed")
    projection.add(torch.eye(rows_BP.shape[1]))
    matrix_Pd = projection.finish()
    maker = TextGradients(model, Projection(dimension, "seed"), batch_tokens=4096)
    ours = maker.rows(texts, None)
    expected = torch.nn.functional.normalize(rows_BP @ matrix_Pd, dim=1).numpy()
    assert np.abs(ours - expected).max() < 1e-5


def test_neighbours_and_their_number_change_nothing(model: GPT) -> None:
    texts = random_texts(12, longest=30)
    maker = TextGradients(model, Projection(256, "seed"), batch_tokens=4096)
    together = maker.rows(texts, None)
    alone = np.concatenate([maker.rows([text], None) for text in texts])
    assert np.abs(together - alone).max() < 1e-5
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_a_text_without_loss_is_a_row_of_zeros(model: GPT) -> None:
    texts = [*random_texts(2, longest=9), Text(np.array([3, 4]), first=2), Text(np.array([5]))]
    maker = TextGradients(model, Projection(256, "seed"), batch_tokens=4096)
    assert np.linalg.norm(maker.rows(texts, None), axis=1).round(3).tolist() == [1, 1, 0, 0]


def test_batches_are_five_times_as_fast_as_one_text_at_a_time(model: GPT) -> None:
    """Both with Adam's steps and the projection; the best of three turns each, in processor time.

    Against plain gradients alone: `python tests/bench/curate/influence_rate.py`.
    """
    texts = [text for text in random_texts(400, longest=48) if len(text.ids) > 24][:128]

    def rate(work: Callable[[], np.ndarray]) -> float:
        begun = time.process_time()
        return len(work()) / (time.process_time() - begun)

    adam, projection = random_moments(model), Projection(1024, "seed")
    maker = TextGradients(model, projection, batch_tokens=4096)
    batched = max(rate(lambda: maker.rows(texts, adam)) for _ in range(3))
    singly = max(rate(lambda: one_at_a_time(model, texts[:32], adam, projection)) for _ in range(3))
    print(f"{batched:.0f} texts/s for {singly:.0f}")
    assert batched > 5 * singly
