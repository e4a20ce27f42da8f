"""The projection keeps dot products, to an error of one over the square root of its width."""

import numpy as np
import pytest
import torch

from megatron_math.curate.influence.projection import Projection, mixed, unit_rows

WORD = (1 << 64) - 1


def test_the_hash_is_splitmix() -> None:
    def expected(number: int, key: int) -> int:
        value = (number * 0x9E3779B97F4A7C15 + key) & WORD
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & WORD
        return value ^ (value >> 31)

    ours = mixed(torch.arange(1000), 123456789).tolist()
    assert [number & WORD for number in ours] == [expected(n, 123456789) for n in range(1000)]


def projected(rows_BP: torch.Tensor, dimension: int, seed: str, cuts: list[int]) -> torch.Tensor:
    projection = Projection(dimension, seed)
    for part in rows_BP.t().split(cuts):
        projection.add(part)
    return projection.finish()


def test_how_it_comes_in_parts_changes_nothing() -> None:
    rows_BP = torch.randn(3, 2000, generator=torch.Generator().manual_seed(0))
    whole = projected(rows_BP, 256, "seed", [2000])
    assert torch.allclose(whole, projected(rows_BP, 256, "seed", [1, 254, 2, 1000, 743]), atol=1e-5)
    assert not torch.allclose(whole, projected(rows_BP, 256, "other", [2000]), atol=1)


def test_a_second_use_begins_anew() -> None:
    rows_BP = torch.randn(2, 900, generator=torch.Generator().manual_seed(0))
    projection = Projection(128, "seed")
    for _ in range(2):
        projection.add(rows_BP.t())
        again = projection.finish()
    assert torch.equal(again, projected(rows_BP, 128, "seed", [900]))


@pytest.mark.parametrize("kind", ["dense", "few large"])
def test_the_error_falls_as_one_over_the_square_root(kind: str) -> None:
    """Two unit vectors of cosine 0.4; 80 matrices a width. Also where few numbers hold it all, at
    regular places, as columns of features of large size do."""
    generator = torch.Generator().manual_seed(1)
    rows_BP = torch.randn(2, 1 << 15, generator=generator)
    if kind == "few large":
        rows_BP[:, :: 1 << 6] *= 100
    rows_BP[1] += 0.45 * rows_BP[0]
    rows_BP = unit_rows(rows_BP)
    truth = float(rows_BP[0] @ rows_BP[1])
    widths = [64, 256, 1024, 4096]
    errors = []
    for width in widths:
        found = [projected(rows_BP, width, f"seed {n}", [1 << 15]) for n in range(80)]
        estimates = np.array([float(one[0] @ one[1]) for one in found])
        assert abs(estimates.mean() - truth) < 4 * estimates.std() / 80**0.5  # no bias
        errors.append(((estimates - truth) ** 2).mean() ** 0.5)
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    print(f"{kind}: errors {np.round(errors, 4).tolist()}, slope {slope:.2f}")
    assert -0.65 < slope < -0.4
    for width, error in zip(widths, errors, strict=True):
        assert error < 1.4 * ((1 + truth**2) / width) ** 0.5
