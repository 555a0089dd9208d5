"""A network as a teacher: its own input, your classes, and what is wrong with the way it is wrapped."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill_utils import _recorded
from distill_utils.data import ImageSet
from distill_utils.teachers import IMAGENET, NotATeacher, Teacher
from distill_utils.training import logits

CLASSES = ("cat", "dog", "owl")


class Prototypes(nn.Module):
    """A classifier that is right where its images are normalised and of the size that it was made for."""

    def __init__(self, patterns, mean=0.5, sd=0.25, order=(0, 1, 2)):
        super().__init__()
        self.weight = nn.Conv2d(patterns.shape[1], 3, patterns.shape[-1], stride=patterns.shape[-1])
        with torch.no_grad():
            flat = (patterns[list(order)] - torch.as_tensor(mean).view(-1, 1, 1)) / torch.as_tensor(sd).view(-1, 1, 1)
            self.weight.weight.copy_(2 * flat / flat.flatten(1).shape[1])
            self.weight.bias.copy_(-flat.square().flatten(1).mean(1))

    def forward(self, images):
        return 20 * self.weight(images).mean((2, 3))


@pytest.fixture
def patterns():
    """Three images whose mean grey differs as much as their pattern, so that a wrong mean misleads."""
    grey = torch.tensor([0.2, 0.5, 0.8]).view(3, 1, 1, 1)
    return grey + 0.1 * torch.rand(3, 3, 16, 16)


@pytest.fixture
def photos(patterns):
    labels = torch.arange(60) % 3
    return ImageSet((patterns[labels] + 0.1 * torch.randn(60, 3, 16, 16)).clamp(0, 1), labels)


def examined(teacher, photos, **options):
    return teacher.examine(photos, quiet=True, **options)


def test_a_well_wrapped_teacher_is_given_its_own_input(patterns, photos):
    teacher = Teacher(Prototypes(patterns, **IMAGENET), CLASSES, side=16, **IMAGENET)
    mean, sd = (torch.tensor(IMAGENET[name]).view(3, 1, 1) for name in ("mean", "sd"))
    expected = teacher.network((photos.images - mean) / sd)
    torch.testing.assert_close(logits(teacher, photos.images), expected, atol=1e-4, rtol=1e-4)
    large = F.interpolate(photos.images, (32, 32))
    torch.testing.assert_close(teacher(large).argmax(1), photos.labels)
    found = examined(teacher, photos)
    assert found.accuracy > 0.95
    assert (found.order, found.problems) == (CLASSES, ())
    assert "as it is wrapped" in str(found)
    assert len(str(found).splitlines()) == len(found.rows) + 1


def test_a_network_is_asked_in_eval_mode_without_gradient_and_left_as_it_was(patterns, photos):
    network = nn.Sequential(Prototypes(patterns), nn.Dropout(0.5), nn.Identity()).train()
    network[2].eval()
    teacher = Teacher(network, CLASSES)
    first, again = teacher(photos.images), teacher(photos.images)
    assert torch.equal(first, again)
    assert not first.requires_grad
    assert [module.training for module in network] == [True, True, False]


def test_classes_in_another_order_are_named_with_the_right_one(patterns, photos):
    teacher = Teacher(Prototypes(patterns, order=(1, 2, 0)), CLASSES, mean=0.5, sd=0.25)
    with pytest.raises(NotATeacher, match=r"another order .*outputs=\['dog', 'owl', 'cat'\]") as caught:
        examined(teacher, photos)
    assert "problem: " in str(caught.value.examination)
    outputs = caught.value.examination.order
    mended = Teacher(teacher.network, CLASSES, outputs=outputs, mean=0.5, sd=0.25)
    assert examined(mended, photos).accuracy > 0.95


@pytest.mark.parametrize("true", [{"mean": 0.5, "sd": 0.5}, IMAGENET])
def test_a_wrong_normalisation_is_named_with_the_right_one(true, patterns, photos):
    with pytest.raises(NotATeacher) as caught:
        examined(Teacher(Prototypes(patterns, **true), CLASSES, mean=-1.0, sd=0.2), photos)
    assert "normalisation" in str(caught.value)
    rows = {row["check"]: row["accuracy"] for row in caught.value.examination.rows}
    name = "normalisation of ImageNet" if true is IMAGENET else "normalisation by 0.5 and 0.5"
    assert rows[name] > 0.95


def test_a_wrong_size_is_named_with_the_right_one(photos):
    class Sized(nn.Module):  # answers from a pixel that is elsewhere in another size
        def forward(self, images):
            return 50 * -(images[:, 0, 31:32, 31] - torch.tensor([0.2, 0.5, 0.8])).abs()

    images = torch.full((60, 1, 32, 32), 0.1)
    images[:, 0, 28:, 28:] = torch.tensor([0.2, 0.5, 0.8])[photos.labels].view(-1, 1, 1)
    with pytest.raises(NotATeacher, match=r"with images of 32 pixels \(give side=32\)") as caught:
        examined(Teacher(Sized(), CLASSES, side=64), ImageSet(images, photos.labels))
    assert "images enlarged from 32 to 64 pixels" in str(caught.value.examination)


def test_an_untrained_network_is_no_teacher(photos):
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    mixed = ImageSet(torch.rand_like(photos.images), photos.labels)
    with pytest.raises(NotATeacher, match="no better than chance: .* give outputs, side, mean and sd"):
        examined(Teacher(network, CLASSES), mixed)


def test_a_teacher_that_is_no_better_than_the_student_warns(patterns, photos):
    teacher = Teacher(Prototypes(patterns), CLASSES, mean=0.5, sd=0.25)
    with pytest.warns(UserWarning, match="no better than the student alone"):
        found = examined(teacher, photos, student=teacher)
    assert found.problems


def test_several_classes_of_the_network_are_one_of_yours():
    outputs = ("tabby", "beagle", "tiger cat", "crane", "pug", "crane")
    z = torch.randn(5, 6)
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 6, bias=False))
    network[1].weight.data = torch.eye(6)
    mapping = {"cat": ["tabby", "tiger cat"], "dog": ("beagle", "pug"), "bird": 3}
    teacher = Teacher(network, ("bird", "cat", "dog"), outputs=outputs, mapping=mapping)
    found = teacher(z.view(5, 1, 2, 3)).softmax(1)
    p = z.softmax(1)
    expected = torch.stack([p[:, 3], p[:, 0] + p[:, 2], p[:, 1] + p[:, 4]], 1)
    torch.testing.assert_close(found, expected / expected.sum(1, keepdim=True))


class Wrapped(nn.Module):
    """A network whose logits come in something."""

    def __init__(self, network, pack):
        super().__init__()
        self.network, self.pack = network, pack

    def forward(self, images):
        return self.pack(self.network(images))


class Output(dict):
    logits = property(lambda self: self["logits"])


@pytest.mark.parametrize(
    "pack", [lambda z: (z, None), lambda z: {"logits": z, "loss": 0}, lambda z: Output(logits=z), lambda z: [z]]
)
def test_logits_are_taken_out_of_tuples_and_dicts(pack, patterns, photos):
    network = Prototypes(patterns)
    expected = network(photos.images)
    for asked in (Wrapped(network, pack), Teacher(Wrapped(network, pack), CLASSES)):
        torch.testing.assert_close(logits(asked, photos.images), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_is_asked_in_it(dtype, patterns, photos):
    expected = Prototypes(patterns)(photos.images)
    for asked in (Prototypes(patterns).to(dtype), Teacher(Prototypes(patterns).to(dtype), CLASSES)):
        found = logits(asked, photos.images)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=0.3, rtol=0.05)


def test_grey_images_get_the_three_channels_of_the_network(patterns, photos):
    teacher = Teacher(Prototypes(patterns), CLASSES, mean=0.5, sd=0.25)
    grey = photos.images[:, :1]
    torch.testing.assert_close(teacher(grey), teacher(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: Teacher(net, CLASSES, outputs=("Cat", "dog", "owl")), "no output .* named 'cat': .*'Cat'"),
        (lambda net: Teacher(net, ("crane",), outputs=("crane", "crane")), "2 outputs .* are named 'crane'"),
        (lambda net: Teacher(net, CLASSES, mapping={"cow": "cat"}), "'cow', which is none of them"),
        (lambda net: Teacher(net, CLASSES, mapping={"cat": "dog"}), "given to two of your classes"),
        (lambda net: Teacher(net, CLASSES, mapping={"cat": 7}), r"an integer in \[0, 2\], got 7"),
        (lambda net: Teacher(net, CLASSES, mapping={"cat": []}), "must give 'cat' at least one output"),
        (lambda net: Teacher(net, CLASSES, sd=0.0), "sd above 0"),
        (lambda net: Teacher(net, CLASSES, side=0), "side must be an integer"),
        (lambda net: Teacher(net, CLASSES[:2])(torch.rand(4, 3, 16, 16)), r"logits N×2, .* got \(4, 3\)"),
        (lambda net: Teacher(net, CLASSES)(torch.rand(4, 2, 16, 16)), "takes images of 3 channels, got 2"),
        (lambda net: Teacher(Wrapped(net, lambda z: {"a": z}), CLASSES)(torch.rand(4, 3, 16, 16)), "got dict with a"),
        (lambda net: Teacher(net, CLASSES).examine(ImageSet(torch.rand(4, 3, 16, 16), torch.full((4,), -1))),
         "have no labels"),
        (lambda net: Teacher(net, CLASSES).examine(ImageSet(torch.rand(4, 3, 16, 16), torch.full((4,), 3))),
         "label 3 is out of range for 3 classes"),
    ],
)  # fmt: skip
def test_what_cannot_be_wrapped_is_one_sentence(make, message, patterns):
    with pytest.raises(ValueError, match=message) as caught:
        make(Prototypes(patterns))
    assert "\n" not in str(caught.value)


def test_an_order_is_judged_on_images_that_did_not_choose_it():
    """Of few images and many classes some order always looks good on the images that chose it."""
    outputs = torch.randn(120, 20, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(120) % 20
    _, _, right = _recorded.other_order(outputs, labels)
    assert len(right) == 60
    assert right.double().mean() < 0.15, "guessing is right in one of twenty answers"
