"""BatchNorm matched and inverted: equalities, fixed points, and a network that does not change."""

import pytest
import torch
from test_losses import close
from torch import nn

from distill_utils import batchnorm, models, recipes, training


@pytest.fixture
def trained():
    """A network for 2×9×11 pixels and 3 classes whose BatchNorms recorded something."""
    model = models.build("student", 3, 2, width=4)
    for _ in range(5):
        model(0.3 + 0.5 * torch.rand(8, 2, 9, 11))
    return model.eval()


@pytest.fixture
def images():
    return torch.rand(10, 2, 9, 11)


def test_images_of_the_recorded_statistics_have_no_statistics_loss(trained, images):
    training.reestimate_batch_norm(trained, images)
    logits, loss = batchnorm.statistics_loss(trained, images)
    close(loss.detach(), 0, atol=1e-4)
    torch.testing.assert_close(logits, trained(images))
    assert batchnorm.statistics_loss(trained, images * 0.5)[1] > 0.1


def test_the_statistics_loss_of_one_layer_has_its_hand_value():
    norm = nn.Sequential(nn.BatchNorm2d(2)).eval()
    norm[0].running_mean.copy_(torch.tensor([1.0, 0.0]))
    norm[0].running_var.copy_(torch.tensor([4.0, 5.0]))
    images = torch.tensor([0.0, 2.0])[:, None, None, None].expand(2, 2, 1, 1)  # mean 1, variance 1 in both channels
    close(batchnorm.statistics_loss(norm, images)[1], 6.0, atol=1e-6)  # ‖(0, 1)‖ + ‖(3, 4)‖, not their squares


@pytest.fixture
def teacher(tiny_model, tiny_set):
    """A network that was trained on tiny_set, left in training mode."""
    model = tiny_model()
    training.fit(model, tiny_set, recipes.hard_labels, training.Schedule(steps=100, batch_size=16), quiet=True)
    return model.train()


def test_generated_images_are_of_their_class_and_the_teacher_does_not_change(teacher):
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    labels = torch.arange(6) % 3
    for parameter in teacher.parameters():
        parameter.grad = None
    images = batchnorm.invert(teacher, labels, (2, 5, 4), steps=100, quiet=True)
    assert teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert images.shape == (6, 2, 5, 4)
    assert 0 <= images.min() <= images.max() <= 1
    assert torch.equal(training.logits(teacher, images).argmax(1), labels)
    torch.testing.assert_close(batchnorm.invert(teacher, labels, (2, 5, 4), steps=100, quiet=True), images)


def test_matching_the_statistics_brings_them_nearer(teacher):
    labels = torch.arange(12) % 3
    near, far = (
        batchnorm.statistics_loss(
            teacher.eval(), batchnorm.invert(teacher, labels, (2, 5, 4), steps=100, statistics=weight, quiet=True)
        )[1]
        for weight in (1.0, 0.0)
    )
    assert near < 0.7 * far


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Conv2d(2, 3, 3), "must have BatchNorm layers, got Conv2d"),
        (lambda: models.build("student", 3, 2), "must be in eval mode, or it would overwrite"),
    ],
)
def test_a_model_without_stored_statistics_or_in_train_mode_is_refused(model, message, images):
    with pytest.raises(ValueError, match=message):
        batchnorm.statistics_loss(model(), images)
