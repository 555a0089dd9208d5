"""Random numbers that are pure functions of (seed, stream, index, position)."""

import pytest
import torch
from scipy.stats import kstest

from distill_utils.stateless_random import normal, permutation, uniform

INDEX = torch.tensor([7, 0, 123_456_789_012, 3, -4])


@pytest.mark.parametrize("draw", [uniform, normal])
def test_a_row_depends_on_its_index_alone(draw):
    whole = draw(5, "texture", INDEX, 11)
    rows = torch.tensor([4, 1, 2])
    assert torch.equal(draw(5, "texture", INDEX[rows], 11), whole[rows])
    assert torch.equal(draw(5, "texture", INDEX, 3), whole[:, :3])


@pytest.mark.parametrize("draw", [uniform, normal])
def test_seeds_streams_indices_and_positions_share_no_numbers(draw):
    draws = [draw(seed, stream, INDEX, 11) for seed in (-1, 0, 1, 2**31) for stream in ("view 1", "view 2", "noise")]
    numbers = torch.stack(draws).double()
    assert len(numbers.unique()) == numbers.numel() == 12 * 5 * 11


@pytest.mark.parametrize("seed", [2**33, 2**80, -(2**70)])
def test_any_int_is_a_seed(seed):
    assert not torch.equal(uniform(seed, "a", INDEX), uniform(seed + 1, "a", INDEX))


@pytest.mark.parametrize("layout", ["one number of many indices", "many numbers of one index", "many seeds"])
@pytest.mark.parametrize(("draw", "law"), [(uniform, "uniform"), (normal, "norm")])
def test_numbers_have_their_distribution_in_every_direction(draw, law, layout):
    if layout == "many seeds":
        numbers = torch.stack([draw(seed, "law", torch.tensor([6]), 4) for seed in range(2000)])
    elif layout == "many numbers of one index":
        numbers = draw(3, "law", torch.tensor([17]), 20_000)
    else:
        numbers = draw(3, "law", torch.arange(20_000))
    numbers = numbers.flatten().double()
    assert kstest(numbers.numpy(), law).pvalue > 0.001
    assert abs(torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1]) < 4 / len(numbers) ** 0.5


def test_uniform_numbers_lie_in_the_half_open_interval():
    numbers = uniform(0, "range", torch.arange(1000), 100)
    assert numbers.dtype == torch.float64
    assert 0 <= numbers.min() < 1e-4
    assert 1 - 1e-4 < numbers.max() < 1


@pytest.mark.parametrize("length", [0, 1, 257])
def test_a_permutation_contains_every_position_once(length):
    assert torch.equal(permutation(4, "epoch 0", length).sort().values, torch.arange(length))


@pytest.mark.parametrize("index", [torch.zeros(3), torch.zeros(3, 1, dtype=torch.long)])
def test_an_index_of_another_type_or_shape_is_refused(index):
    with pytest.raises(ValueError, match="index must be an int64 tensor N, got"):
        uniform(0, "a", index)
