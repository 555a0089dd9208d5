"""Pairs: a letter and a digit that only their shape tells apart, and exact counterfactuals of both."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from distill_utils import data, glyphs, pairs
from distill_utils.explain import metrics

# Of six images of seed 1: the sum of each image's grey levels, and the pixels of all letters and of all digits.
GOLDEN = ([99339, 96708, 98391, 93752, 101515, 100242], [305, 229])
PARTS = ("letter", "digit")
LETTER = ("contrast", "cap_height", "rotation", "x", "y")  # of the letter: factors that a digit has as well


@pytest.fixture(scope="module")
def drawn():
    factors = pairs.sample(torch.arange(2600), 3)
    return factors, *pairs.render(factors)


def described(factors, masks, part):
    """What can be seen of a part without reading it: area, contrast, place, size and rotation."""
    prefix = "" if part == "letter" else "distractor_"
    columns = [masks[part].sum((1, 2)).float(), *(factors[prefix + name] for name in LETTER)]
    columns += [factors[prefix + name].abs() for name in ("contrast", "x", "y")]
    return torch.stack(columns, 1)


def accuracy(features, labels):
    """Of a classifier on the second half that was fitted to the first half, and its standard error at chance."""
    half = len(labels) // 2
    rounds = 40 if len(np.unique(labels)) == 2 else 5
    model = HistGradientBoostingClassifier(max_iter=rounds, random_state=0).fit(features[:half], labels[:half])
    chance = 1 / len(np.unique(labels))
    return model.score(features[half:], labels[half:]), chance, (chance * (1 - chance) / half) ** 0.5


def test_pixels_have_their_golden_values():
    images, masks = pairs.render(pairs.sample(torch.arange(6), 1))
    assert (images * 255).round().sum((1, 2, 3)).tolist() == pytest.approx(GOLDEN[0], abs=2)
    assert [int(masks[part].sum()) for part in PARTS] == pytest.approx(GOLDEN[1], abs=1)


def test_letter_and_digit_are_told_apart_by_nothing_but_their_shape(drawn):
    factors, _, masks = drawn
    letter, digit = (described(factors, masks, part) for part in PARTS)
    swap = torch.arange(len(letter)) % 2 == 1
    both = torch.where(swap[:, None], torch.cat([digit, letter], 1), torch.cat([letter, digit], 1))
    found, chance, error = accuracy(both.numpy(), swap.numpy())
    assert abs(found - chance) < 3 * error
    area = [part[:, 0].mean() for part in (letter, digit)]
    assert abs(area[0] / area[1] - 1) < 0.02


def test_the_digit_tells_nothing_about_the_letter(drawn):
    factors, _, masks = drawn
    digit = torch.stack([factors["distractor"], factors["distractor_face"]], 1)
    found, chance, error = accuracy(
        torch.cat([described(factors, masks, "digit"), digit], 1), factors["label"].numpy()
    )
    assert found < chance + 3 * error


def test_trivial_maps_are_at_chance(drawn):
    _, images, masks = drawn
    for name, maps in metrics.trivial_maps(images).items():
        share = metrics.relevance_share(maps, masks["letter"], masks["digit"])
        assert abs(float(share.mean())) < 0.02, name
    own = metrics.relevance_share(masks["letter"].float(), masks["letter"], masks["digit"])
    assert own.min() > 0.2  # a map that finds the letter is far above


def test_both_parts_can_be_seen_and_never_touch(drawn):
    factors, _, masks = drawn
    assert all(bool((masks[part].sum((1, 2)) > 8).all()) for part in PARTS)
    rows = {name: values[:300] for name, values in factors.items()}
    behind = glyphs.render(rows | {"distractor_x": torch.full((300,), 99.0)})[1]["object"]  # the digit out of sight
    assert torch.equal(masks["letter"][:300], behind)
    assert factors["label"].bincount().tolist() == [100] * 26
    assert (factors["distractor"] >= 26).all()


@pytest.mark.parametrize("part", PARTS)
def test_removing_or_swapping_a_part_changes_nothing_else(part, drawn):
    factors, images, masks = drawn
    rows = {name: values[:200] for name, values in factors.items()}
    removed, (swapped, others) = pairs.render(pairs.without(rows, part))[0], pairs.render(pairs.swapped(rows, part))
    moved = (removed != images[:200])[:, 0]
    assert not (moved & ~masks[part][:200]).any()
    assert moved[masks[part][:200]].float().mean() > 0.9
    moved = (swapped != images[:200])[:, 0]
    assert not (moved & ~(masks[part][:200] | others[part])).any()
    assert moved.flatten(1).any(1).all()


def test_bad_input_is_named_in_one_sentence(drawn):
    factors = drawn[0]
    for change in (pairs.without, pairs.swapped):
        with pytest.raises(ValueError, match="part must be one of letter, digit, got 'object'"):
            change(factors, "object")
    with pytest.raises(ValueError, match="a swap needs at least two images, got one"):
        pairs.swapped(pairs.sample(torch.arange(1)), "digit")


def test_the_dataset_holds_these_images_with_both_masks(monkeypatch):
    for part, size in {"train": 5, "transfer": 4, "validation": 3, "test": 2}.items():
        monkeypatch.setitem(data._BIASED_SIZES, part, size)
    for loaded in (data.load("pairs", seed=2), data.load("pairs", seed=2)):
        images, masks = pairs.render(loaded.test.factors)
        assert torch.equal(loaded.test.images, images)
        assert {name: mask.tolist() for name, mask in loaded.test.masks.items()} == {
            part: masks[part].tolist() for part in PARTS
        }
        assert loaded.classes == tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        assert (loaded.transfer.labels == -1).all()
