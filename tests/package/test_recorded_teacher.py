"""The teacher's recorded logits: aligned with the images, another cache for another teacher, recorded once, and
refused where they are not those of the images that are trained on."""

from dataclasses import replace

import pytest
import torch

from distill_utils import _recorded, losses, recipes, training
from distill_utils.augment import NONE, Augmentation, augment
from distill_utils.data import ImageSet
from distill_utils.training import Schedule, logits

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


def test_a_teacher_that_was_recorded_is_asked_about_eight_images_again_and_about_no_more(asked, tiny_set):
    teacher, counts = asked
    first = record(teacher, tiny_set)
    assert sum(counts) == 3 * 37
    again, more = record(teacher, tiny_set), record(teacher, tiny_set, views=4)
    assert sum(counts) == 4 * 37 + 2 * 8  # of four views three were there
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


@pytest.mark.parametrize("views", [0, 2])
def test_another_forward_with_the_same_weights_is_recorded_beside_the_first(views, asked, tiny_set, monkeypatch):
    teacher, counts = asked
    before = record(teacher, tiny_set, views=views)
    forward = teacher.forward
    monkeypatch.setattr(teacher, "forward", lambda images: forward(1 - images))
    after = record(teacher, tiny_set, views=views)
    assert (before[0].float() - after[0].float()).abs().max() > 0.1
    del counts[:]
    for expected, way in ((after, lambda images: forward(1 - images)), (before, forward)):
        monkeypatch.setattr(teacher, "forward", way)
        assert all(torch.equal(a, b) for a, b in zip(record(teacher, tiny_set, views=views), expected, strict=True))
    assert sum(counts) <= 5 * 8  # each is found again


def test_a_teacher_that_draws_at_random_is_not_recorded_again_and_again(asked, tiny_set, monkeypatch):
    teacher, counts = asked
    forward = teacher.forward
    monkeypatch.setattr(teacher, "forward", lambda images: forward(images + torch.rand_like(images)))
    first = record(teacher, tiny_set)
    del counts[:]
    assert torch.equal(record(teacher, tiny_set)[0], first[0])
    assert sum(counts) == 2 * 8


def test_the_teacher_is_asked_about_one_batch_of_views_at_a_time(asked, tiny_set):
    teacher, counts = asked
    recorded = recipes.record(teacher, tiny_set.images, views=2, augmentation=AUGMENTATION, batch_size=10, quiet=True)
    assert counts == [10, 10, 10, 7] * 2
    online = logits(teacher, augment(tiny_set.images, torch.arange(37), 1, AUGMENTATION))
    torch.testing.assert_close(recorded[1].float(), online, atol=2**-7, rtol=2**-10)


# What fit refuses


def trained(tiny_model, image_set, teacher, schedule, augmentation=NONE):
    def soft(model, batch):
        return losses.soft_target_loss(model(batch.images), batch.teacher_logits, 3.0), {}

    training.fit(tiny_model(), image_set, soft, schedule, teacher=teacher, augmentation=augmentation, quiet=True)


def refusal(*arguments, **options):
    with pytest.raises(ValueError, match=".") as caught:
        trained(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


PLAIN, VIEWED = Schedule(steps=6, batch_size=8), Schedule(steps=6, batch_size=8, views=3)


def test_recorded_logits_know_their_images_and_their_order(tiny_model, tiny_set):
    recorded = record(tiny_model(5), tiny_set, views=0)
    trained(tiny_model, tiny_set, recorded, PLAIN)
    turned, others = tiny_set.subset(torch.arange(36, -1, -1)), tiny_set.subset(torch.arange(30))
    assert "on other images, or in another order" in refusal(tiny_model, turned, recorded, PLAIN)
    assert "on 37 images, but there are 30 to train on" in refusal(tiny_model, others, recorded, PLAIN)
    assert "N = 30, got (37, 3)" in refusal(tiny_model, others, [*recorded], PLAIN)  # a plain list: its shapes alone
    assert "N = 30, got list" in refusal(tiny_model, others, [[1.0]], PLAIN)


def test_recorded_views_are_those_of_the_schedule(tiny_model, tiny_set):
    recorded, plain = record(tiny_model(5), tiny_set, views=2), record(tiny_model(5), tiny_set, views=0)
    trained(tiny_model, tiny_set, recorded, Schedule(steps=6, batch_size=8, views=1), AUGMENTATION)
    few = refusal(tiny_model, tiny_set, recorded, VIEWED, AUGMENTATION)
    assert "recorded on 2 views, but the schedule has 3" in few
    assert "recorded on 0 views, but the schedule has 1" in refusal(tiny_model, tiny_set, [], PLAIN)
    assert "recorded on unaugmented images, but" in refusal(tiny_model, tiny_set, plain, VIEWED, AUGMENTATION)
    assert "recorded on augmented views, but" in refusal(tiny_model, tiny_set, recorded, PLAIN)
    other = replace(AUGMENTATION, contrast=0.1)
    found = refusal(tiny_model, tiny_set, recorded, Schedule(steps=6, batch_size=8, views=2), other)
    assert "contrast=0.2" in found
    assert "contrast=0.1" in found


def test_a_teacher_with_other_classes_is_refused_with_their_names(tiny_model, tiny_set):
    teacher = tiny_model(5)
    teacher.classes = ("cat", "dog", "owl")

    def recorded_for(*classes):
        return recipes.record(teacher, tiny_set.images, classes=classes, quiet=True)

    assert recorded_for("cat", "dog", "owl").classes == teacher.classes
    with pytest.raises(ValueError, match="class 0 is 'cat' there and 'dog' here; teachers.Teacher maps them by name"):
        recorded_for("dog", "cat", "owl")
    with pytest.raises(ValueError, match="other classes than the images: it lacks 'cow' and it also has 'owl'"):
        recorded_for("cat", "dog", "cow")
    labels = tiny_set.labels + 1
    found = refusal(tiny_model, ImageSet(tiny_set.images, labels), [torch.randn(37, 3)], PLAIN)
    assert "the teacher has 3 classes, but there is a label 3" in found


@pytest.fixture
def large_set(tiny_set):
    return tiny_set + tiny_set


@pytest.mark.parametrize("online", [False, True])
def test_a_good_teacher_whose_classes_are_rolled_is_refused(online, large_set, tiny_model):
    class Rolled(torch.nn.Module):
        classes = ("cat", "dog", "owl")

        def forward(self, images):
            answers = [labels_of[image[0, 0, 0].item()] for image in images]
            return 9 * torch.nn.functional.one_hot((torch.tensor(answers) + 1) % 3, 3).float()

    labels_of = {image[0, 0, 0].item(): int(k) for image, k in zip(large_set.images, large_set.labels, strict=True)}
    teacher = Rolled() if online else record(Rolled(), large_set, views=0)
    found = refusal(tiny_model, large_set, teacher, Schedule(steps=2, batch_size=64))
    assert "0 % of its answers are right, and would be 100 % in the right order" in found
    assert "'dog' where the label is 'cat'" in found


def test_two_exchanged_classes_of_ten_are_noticed_and_a_poor_teacher_is_not_suspected():
    labels = torch.arange(400) % 10
    right = 9 * torch.nn.functional.one_hot(labels, 10).float()
    exchanged = right[:, [1, 0, 2, 3, 4, 5, 6, 7, 8, 9]]
    _recorded.check_order(right, labels)
    with pytest.raises(ValueError, match="would be 100 % in the right order .it answers 1 where the label is 0, "):
        _recorded.check_order(exchanged, labels)
    random = torch.Generator().manual_seed(0)
    poor = torch.where(torch.rand(400, 1, generator=random) < 0.65, right, right.roll(1, 1))
    _recorded.check_order(poor, labels)


@pytest.mark.parametrize("what", ["training set", "images to record", "validation set"])
def test_one_pixel_that_is_no_number_names_the_image(what, tiny_set, tiny_model):
    spoiled = ImageSet(tiny_set.images.clone(), tiny_set.labels)
    spoiled.images[11, 1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match=f"image 11 of the {what} contains NaN or inf"):
        if what == "images to record":
            record(tiny_model(), spoiled)
        else:
            sets = (spoiled, tiny_set) if what == "training set" else (tiny_set, spoiled)
            training.fit(tiny_model(), sets[0], None, PLAIN, validation=sets[1], quiet=True)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("names", [("cod", "eel", "ray"), ("owl", "dog", "cat")])
def test_a_teacher_that_names_other_classes_than_the_student_is_refused(names, recorded, tiny_model, tiny_set):
    student, teacher = tiny_model(), tiny_model(5)
    student.classes, teacher.classes = ("cat", "dog", "owl"), names
    given = recipes.record(teacher, tiny_set.images, quiet=True) if recorded else teacher
    with pytest.raises(ValueError, match="classes"):
        training.fit(student, tiny_set, recipes.distillation, PLAIN, teacher=given, quiet=True)
