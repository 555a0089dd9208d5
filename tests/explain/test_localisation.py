"""Localisation scores: values computed by hand, chance, perfection, ties, and input that has no score."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from distill_utils.explain.metrics import (
    auroc,
    pointing_game,
    relevance_mass,
    relevance_rank,
    relevance_share,
    trivial_maps,
)

SCORES = [relevance_mass, relevance_rank, pointing_game, auroc]
# One image of 2×3 pixels with two pixels in the mask: chance is 1/3.
MAP = torch.tensor([[[4.0, 1.0, -2.0], [0.0, 3.0, 2.0]]])
MASK = torch.tensor([[[True, False, False], [False, False, True]]])


@pytest.fixture
def masks():
    """300 masks of very different sizes, 300×7×5."""
    share = torch.linspace(0.1, 0.8, 300)[:, None, None]
    drawn = torch.rand(300, 7, 5) < share
    drawn[:, 0, 0], drawn[:, 6, 4] = True, False
    return drawn


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (relevance_mass, (6 / 10 - 1 / 3) / (2 / 3)),  # 4 + 2 of the positive 4 + 1 + 3 + 2
        (relevance_rank, (1 / 2 - 1 / 3) / (2 / 3)),  # of the two highest, 4 and 3, one is inside
        (pointing_game, 1.0),  # the highest, 4, is inside
        (auroc, 7 / 8),  # of the 2·4 pairs only (2, 3) is the wrong way round
    ],
)
def test_scores_have_their_hand_values(score, expected):
    assert score(MAP, MASK).tolist() == pytest.approx([expected])


@pytest.mark.parametrize(
    ("score", "chance"), [(relevance_mass, 0.0), (relevance_rank, 0.0), (pointing_game, 0.0), (auroc, 0.5)]
)
def test_random_maps_score_chance(score, chance, masks):
    scores = torch.stack([score(torch.rand(300, 7, 5), masks) for _ in range(10)])
    assert scores.mean() == pytest.approx(chance, abs=3 * float(scores.std()) / 3000**0.5)


@pytest.mark.parametrize("score", SCORES)
def test_the_mask_itself_scores_one(score, masks):
    assert score(masks.float(), masks).tolist() == pytest.approx([1.0] * 300)


def test_a_map_without_positive_relevance_counts_as_a_failure(masks):
    area = masks.float().mean((1, 2)).double()
    torch.testing.assert_close(relevance_mass(-torch.rand(300, 7, 5), masks), -area / (1 - area))


def test_the_share_of_two_parts_is_that_of_the_relevance_minus_that_of_the_area():
    other = torch.zeros_like(MASK)
    other[0, 0, 1:] = ~MASK[0, 0, 1:]
    positive = MAP.clamp(min=0)
    own, both = float(positive[MASK].sum()), float(positive[MASK | other].sum())
    area = float(MASK.sum()) / float((MASK | other).sum())
    assert relevance_share(MAP, MASK, other).tolist() == pytest.approx([own / both - area])
    assert relevance_share(torch.ones_like(MAP), MASK, other).tolist() == pytest.approx([0.0])  # it finds only ink
    assert relevance_share(-MAP.abs(), MASK, other).tolist() == [0.0]
    with pytest.raises(ValueError, match="every mask must cover a part of its image, got an empty or a full mask"):
        relevance_share(MAP, MASK, torch.zeros_like(MASK))


def test_ties_are_split(masks):
    constant = torch.full((300, 7, 5), 0.3)
    assert relevance_rank(constant, masks).abs().max() < 1e-12
    half = torch.tensor([[[2.0, 1.0, 1.0], [1.0, 0.0, 0.0]]])  # the second place is shared by three, none inside
    assert relevance_rank(half, MASK).tolist() == pytest.approx([(1 / 2 - 1 / 3) / (2 / 3)])
    shared = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 1.0, 1.0]]])  # by two, one of them inside
    assert relevance_rank(shared, MASK).tolist() == pytest.approx([(1.5 / 2 - 1 / 3) / (2 / 3)])


def test_the_pointing_game_splits_ties_and_refuses_a_map_of_zeros():
    tied = torch.tensor([[[2.0, 2.0, 1.0], [2.0, 0.0, 0.0]]])  # one of three inside
    assert pointing_game(tied, MASK).tolist() == pytest.approx([(1 / 3 - 1 / 3) / (2 / 3)])
    with pytest.raises(ValueError, match="map 1 is zero everywhere"):
        pointing_game(torch.stack([MAP[0], 0 * MAP[0]]), MASK.expand(2, 2, 3))


def test_auroc_equals_that_of_scikit_learn_with_ties(masks):
    maps = (10 * torch.randn(300, 7, 5)).round()
    expected = [roc_auc_score(mask.flatten(), scores.flatten()) for mask, scores in zip(masks, maps, strict=True)]
    assert auroc(maps, masks).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (MAP, torch.zeros_like(MASK), "got an empty or a full mask"),
        (MAP, torch.ones_like(MASK), "got an empty or a full mask"),
        (MAP.log(), MASK, "maps contains NaN or inf"),
        (MAP[:, :, :2], MASK, "masks must be a bool tensor N×H×W with N = 1, H = 2, W = 2"),
    ],
)
def test_input_without_a_score_is_refused(score, maps, masks, message):
    with pytest.raises(ValueError, match=message):
        score(maps, masks)


def test_trivial_maps_show_contrast_edges_and_the_centre():
    images = torch.full((2, 3, 9, 12), 0.5)
    images[1, :, 3:6, 6:] = 0.9  # a light bar that reaches the right border
    maps = trivial_maps(images)
    assert maps["|x - mean|"][0].abs().max() < 1e-6
    assert maps["|x - mean|"][1, 3:6, 6:].min() > maps["|x - mean|"][1, :3].max()
    assert maps["Sobel"][0].abs().max() < 1e-6
    edges = (maps["Sobel"][1, 4] > 0.1).nonzero().flatten()
    assert edges.tolist() == [5, 6]  # the bar's left end, not the image's border
    gaussian = maps["centre Gaussian"]
    assert torch.equal(gaussian[0], gaussian[1])
    torch.testing.assert_close(gaussian, gaussian.flip(1, 2))
    assert gaussian[0].argmax() in (12 * 4 + 5, 12 * 4 + 6)
