"""Explanation distillation: the values and gradients of loss and maps, and training that matches the maps."""

import pytest
import torch
from torch import nn

from distill_utils import models, training
from distill_utils.data import ImageSet
from distill_utils.explain.distill import explanation_distillation, explanation_loss, maps, record_maps


@pytest.fixture
def teacher():
    torch.manual_seed(7)
    return models.build("teacher", 4, width=6).eval()


@pytest.fixture
def images():
    return torch.rand(64, 1, 16, 16)


def test_the_loss_of_known_maps():
    one = torch.randn(9, 3, 3)
    assert float(explanation_loss(one, 5 * one)) == pytest.approx(0, abs=1e-6)
    assert float(explanation_loss(one, -one)) == pytest.approx(2)
    a, b = torch.zeros(2, 1, 2), torch.zeros(2, 1, 2)
    a[:, 0, 0] = b[:, 0, 1] = 1
    b[1, 0, 0] = 1  # cosines 0 and 1/√2
    assert float(explanation_loss(a, b)) == pytest.approx(1 - 0.5 / 2**0.5)


def test_a_student_with_only_negative_relevance_still_gets_a_gradient():
    student = -torch.rand(4, 3, 3)
    student.requires_grad_()
    explanation_loss(student, torch.rand(4, 3, 3)).backward()
    assert (student.grad.flatten(1).norm(dim=1) > 1e-3).all()


def test_no_gradient_reaches_the_teacher():
    student, teacher = torch.rand(4, 3, 3, requires_grad=True), torch.rand(4, 3, 3, requires_grad=True)
    explanation_loss(student, teacher).backward()
    assert teacher.grad is None


def test_grad_cam_of_a_linear_head_is_known(images):
    model, classes = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(3 * 256, 4)), torch.arange(64) % 4
    centred = (model[2].weight - model[2].weight.mean(0)).view(4, 3, 16, 16)
    expected = torch.einsum("nc,nchw->nhw", centred.mean((2, 3))[classes], model[0](images))
    found, outputs = maps(model, images, classes, layer="0")
    torch.testing.assert_close(found, expected.detach(), atol=1e-6, rtol=1e-4)
    assert torch.equal(outputs, model(images).detach())


def test_a_loss_on_grad_cam_has_the_gradient_of_finite_differences():
    torch.manual_seed(0)
    model = models.build("student", 4, width=2).double().eval()
    images, classes = torch.rand(3, 1, 16, 16, dtype=torch.float64), torch.tensor([0, 1, 2])

    def loss():
        return maps(model, images, classes, layer="features.9", create_graph=True)[0].square().sum()

    weight = model.features[11].weight  # above the layer: it acts through the channel weights alone
    gradient = torch.autograd.grad(loss(), weight)[0][1, 2, 1, 1]
    with torch.no_grad():
        weight[1, 2, 1, 1] += 1e-6
        above = float(loss())
        weight[1, 2, 1, 1] -= 2e-6
        below = float(loss())
    assert float(gradient) == pytest.approx((above - below) / 2e-6, rel=1e-4)


def test_recorded_maps_do_not_depend_on_the_batch(teacher, images):
    classes = torch.arange(64) % 4
    recorded = record_maps(teacher.train(), images, classes, layer="features.9")
    assert teacher.training
    assert not recorded.requires_grad
    alone = maps(teacher.eval(), images[9:10], classes[9:10], layer="features.9")[0]
    torch.testing.assert_close(recorded[9:10], alone, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("kind", "layer"), [("grad-cam", "features"), ("attention", "features.9")])
def test_training_with_the_loss_matches_the_maps_more_than_training_without(kind, layer, teacher, images):
    logits = training.logits(teacher, images)
    options = {"kind": kind, "layer": layer}
    targets = record_maps(teacher, images, logits.argmax(1), **options)
    ends = []
    for weight in (0.0, 5.0):
        torch.manual_seed(1)
        student = models.build("student", 4, width=4)

        def loss(model, batch, weight=weight):
            return explanation_distillation(model, batch, teacher_maps=targets, weight=weight, **options)

        history = training.fit(student, ImageSet(images, logits.argmax(1)), loss,
                               training.Schedule(steps=60, batch_size=32), teacher=[logits], quiet=True)  # fmt: skip
        assert set(history) == {"step", "loss", "soft", "match"}
        assert history["loss"][-1] == pytest.approx(history["soft"][-1] + weight * history["match"][-1], rel=1e-4)
        ends.append(float(explanation_loss(record_maps(student, images, logits.argmax(1), **options), targets)))
    assert ends[1] < 0.7 * ends[0]


def test_maps_of_different_resolution_are_refused():
    with pytest.raises(ValueError, match="use layers of equal resolution"):
        explanation_loss(torch.rand(2, 3, 3), torch.rand(2, 7, 7))


def test_an_unknown_kind_of_map_is_refused(teacher, images):
    with pytest.raises(ValueError, match="kind must be grad-cam or attention, got 'lrp'"):
        maps(teacher, images, torch.zeros(64, dtype=torch.long), kind="lrp")
