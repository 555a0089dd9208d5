"""Augmented views: pure functions of (seed, view, index), and the change of each parameter."""

import pytest
import torch
from torch.testing import assert_close

from distill_utils import augment
from distill_utils.augment import Augmentation

ALL = Augmentation(rotation=0.4, shift=2.0, contrast=0.3, polarity=True, flip=True)
NAMED = {"glyphs": augment.GLYPHS, "digits": augment.DIGITS, "clothes": augment.CLOTHES, "photos": augment.PHOTOS}


@pytest.fixture
def images():
    return torch.rand(5, 3, 9, 7)


def views(image, augmentation, count=60):
    """Many views of one image, channels×H×W."""
    same = image.expand(count, *image.shape)
    return augment.augment(same, torch.arange(count), 0, augmentation)


def dot(row, column, height=41, width=33, spread=1.5):
    """A soft dot, 1×H×W, whose centre of mass can be followed."""
    rows, columns = torch.arange(height).float()[:, None], torch.arange(width).float()
    return (-((rows - row) ** 2 + (columns - column) ** 2) / (2 * spread**2)).exp()[None]


def centre(images):
    """Centre of mass of N×1×H×W, as N×2 (row, column)."""
    mass = images[:, 0]
    rows, columns = torch.arange(mass.shape[1]).float(), torch.arange(mass.shape[2]).float()
    return torch.stack([mass.sum(2) @ rows, mass.sum(1) @ columns], 1) / mass.sum((1, 2))[:, None]


def test_a_view_depends_on_seed_view_and_index_alone(images):
    index = torch.tensor([40, 2, 11, 7, 0])
    whole = augment.augment(images, index, 3, ALL, seed=6)
    order = torch.tensor([3, 0, 4, 2, 1])
    assert torch.equal(augment.augment(images[order], index[order], 3, ALL, seed=6), whole[order])
    parts = [augment.augment(images[i : i + 2], index[i : i + 2], 3, ALL, seed=6) for i in (0, 2, 4)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("change", [{"view": 4}, {"seed": 7}, {"index": torch.arange(5, 10)}])
def test_another_view_seed_or_index_looks_different(images, change):
    asked = {"index": torch.arange(5), "view": 3, "seed": 6}
    before = augment.augment(images, augmentation=ALL, **asked)
    after = augment.augment(images, augmentation=ALL, **asked | change)
    assert ((before - after).abs().amax((1, 2, 3)) > 0.05).all()


def test_no_augmentation_is_the_identity(images):
    assert torch.equal(augment.augment(images, torch.arange(5), 3, augment.NONE), images)


@pytest.mark.parametrize("name", NAMED)
def test_views_keep_shape_and_range(name, images):
    images[0], images[1] = 0.0, 1.0
    for view in range(30):
        seen = augment.augment(images, torch.arange(5), view, NAMED[name])
        assert seen.shape == images.shape
        assert seen.min() >= 0
        assert seen.max() <= 1 + 1e-6  # interpolation rounds


def test_a_flip_mirrors_left_and_right_and_nothing_else(images):
    seen = views(images[0], Augmentation(flip=True))
    mirrored = [torch.allclose(view, images[0].flip(2), atol=1e-5) for view in seen]
    same = [torch.allclose(view, images[0], atol=1e-5) for view in seen]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 15 < sum(mirrored) < 45


def test_polarity_inverts_around_middle_grey(images):
    seen = views(images[0], Augmentation(polarity=True))
    inverted = [torch.allclose(view, 1 - images[0], atol=1e-6) for view in seen]
    same = [torch.allclose(view, images[0], atol=1e-6) for view in seen]
    assert all(a != b for a, b in zip(inverted, same, strict=True))
    assert 15 < sum(inverted) < 45


def test_contrast_scales_around_middle_grey(images):
    image = 0.3 + 0.4 * images[0]
    factor = (views(image, Augmentation(contrast=0.25)) - 0.5).flatten(1) / (image - 0.5).flatten()
    assert_close(factor, factor.median(1, keepdim=True).values.expand_as(factor), atol=1e-2, rtol=0)
    spread = factor.median(1).values
    assert 0.75 <= spread.min() < 0.8
    assert 1.2 < spread.max() <= 1.25


def test_a_shift_moves_every_dot_by_the_same_amount_within_its_bound():
    upper, lower = dot(12, 9), dot(27, 22)
    augmentation = Augmentation(shift=2.0)
    moved = [centre(views(image, augmentation)) - centre(image[None]) for image in (upper, lower)]
    assert_close(*moved, atol=2e-3, rtol=0)
    assert moved[0].abs().max() <= 2 + 1e-3
    assert (moved[0].amin(0) < -1.6).all()
    assert (moved[0].amax(0) > 1.6).all()
    assert abs(torch.corrcoef(moved[0].T)[0, 1]) < 0.4


def test_a_rotation_keeps_the_distance_from_the_centre_on_oblong_images_too():
    middle = torch.tensor([20.0, 16.0])
    before = torch.tensor([20.0, 25.0]) - middle
    arms = centre(views(dot(20, 25), Augmentation(rotation=0.5))) - middle
    assert_close(arms.norm(dim=1), before.norm().expand(60), atol=0.05, rtol=0)
    angles = torch.atan2(arms[:, 0], arms[:, 1])
    assert -0.5 <= angles.min() < -0.4
    assert 0.4 < angles.max() <= 0.5
