"""Localisation scores: values computed by hand, chance, perfection, ties, and input that has no score."""

import pytest
import torch

from distill_utils.explain.metrics import relevance_mass, relevance_share, trivial_maps

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


def test_the_mass_has_its_hand_value():
    expected = (6 / 10 - 1 / 3) / (2 / 3)  # 4 + 2 of the positive 4 + 1 + 3 + 2
    assert relevance_mass(MAP, MASK).tolist() == pytest.approx([expected])


def test_the_mass_of_random_maps_is_chance_and_that_of_the_mask_itself_is_one(masks):
    scores = torch.stack([relevance_mass(torch.rand(300, 7, 5), masks) for _ in range(10)])
    assert scores.mean() == pytest.approx(0, abs=3 * float(scores.std()) / 3000**0.5)
    assert relevance_mass(masks.float(), masks).tolist() == pytest.approx([1.0] * 300)


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


@pytest.mark.parametrize("score", [relevance_mass, lambda maps, masks: relevance_share(maps, masks, ~masks)])
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
