"""The teacher's recorded logits: aligned with the images, another cache for another teacher, recorded once."""

from dataclasses import replace

import pytest
import torch

from distill_utils import recipes
from distill_utils.augment import NONE, Augmentation, augment
from distill_utils.training import logits

AUGMENTATION = Augmentation(rotation=0.3, shift=1.0, contrast=0.2)


@pytest.fixture
def asked(tiny_model):
    """A teacher, and the list of how many images it was asked about in each forward pass."""
    teacher, counts = tiny_model(5), []
    teacher.register_forward_hook(lambda module, inputs, outputs: counts.append(len(inputs[0])))
    return teacher, counts


def record(teacher, image_set, views=3, augmentation=AUGMENTATION):
    return recipes.record(teacher, image_set.images, views=views, augmentation=augmentation, quiet=True)


def test_a_cache_holds_what_the_teacher_says_of_every_view_of_every_image(asked, tiny_set):
    teacher, _ = asked
    recorded = record(teacher.train(), tiny_set)
    assert teacher.training  # asked in eval mode, left as it was
    assert len(recorded) == 3
    for view, table in enumerate(recorded):
        assert table.dtype == torch.float16
        for rows in (torch.tensor([30, 2, 11]), torch.arange(37)):
            online = logits(teacher, augment(tiny_set.images[rows], rows, view, AUGMENTATION))
            torch.testing.assert_close(table[rows].float(), online, atol=2**-7, rtol=2**-10)
    assert (recorded[0] - recorded[1]).abs().max() > 0.05


def test_without_views_the_images_are_seen_as_they_are(asked, tiny_set):
    (table,) = record(asked[0], tiny_set, views=0)
    torch.testing.assert_close(table.float(), logits(asked[0], tiny_set.images), atol=2**-7, rtol=2**-10)


def test_a_recorded_view_never_asks_the_teacher_again(asked, tiny_set):
    teacher, counts = asked
    first = record(teacher, tiny_set)
    assert sum(counts) == 3 * 37
    again, more = record(teacher, tiny_set), record(teacher, tiny_set, views=4)
    assert sum(counts) == 4 * 37  # of four views three were there
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, again, more[:3], strict=True))


@pytest.mark.parametrize("change", ["a weight", "a statistic", "a pixel", "the order", "the augmentation", "views"])
def test_any_change_of_teacher_images_or_augmentation_is_another_cache(change, asked, tiny_set):
    teacher, counts = asked
    record(teacher, tiny_set, views=1)
    options = {"views": 1}
    if change == "a weight":
        teacher[5].weight.data[1, 7] += 1e-3
    elif change == "a statistic":
        teacher[1].running_var[2] += 1e-3
    elif change == "a pixel":
        tiny_set.images[7, 1, 3, 2] += 1e-3
    elif change == "the order":
        tiny_set = tiny_set.subset(torch.arange(36, -1, -1))
    elif change == "the augmentation":
        options["augmentation"] = replace(AUGMENTATION, contrast=0.21)
    else:
        options = {"views": 0, "augmentation": NONE}
    del counts[:]
    record(teacher, tiny_set, **options)
    assert sum(counts) == 37
