"""Feature losses: golden values, invariances, and hooks and regressors without side effects."""

import pytest
import torch
import torch.nn.functional as F
from test_losses import Z_S, Z_T, close
from torch import nn

from distill_utils import feature_losses, models
from distill_utils.feature_losses import Hinted, SimKD, attention_transfer_loss, rkd_angle_loss, rkd_distance_loss

F_S = torch.arange(24, dtype=torch.float64).reshape(2, 3, 2, 2) / 10
F_T = (torch.arange(40).reshape(2, 5, 2, 2) % 7).double() / 5


@pytest.fixture
def pair():
    """A student and a wider teacher for images of 2×12×16 pixels and 5 classes."""
    return models.build("student", 5, 2, width=3), models.build("teacher", 5, 2, width=4)


@pytest.fixture
def images():
    return torch.rand(6, 2, 12, 16)


def test_attention_transfer_has_its_golden_value_and_ignores_scale():
    close(attention_transfer_loss(F_S, F_T), 0.01800783119980)
    close(attention_transfer_loss(7 * F_T.roll(1, 1), F_T), 0)


def test_relations_have_their_golden_values():
    close(rkd_distance_loss(Z_S, Z_T), 0.00407707445723)
    close(rkd_angle_loss(Z_S, Z_T), 0.00523790619822)


def test_relations_ignore_rotation_shift_and_scale():
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    moved = 3 * Z_T @ turn + torch.randn(4, dtype=torch.float64)
    close(rkd_distance_loss(moved, Z_T), 0)
    close(rkd_angle_loss(moved, Z_T), 0)
    assert rkd_distance_loss(Z_T.flip(0) ** 3, Z_T) > 1e-3


def test_relations_of_equal_images_give_finite_gradients():
    student = torch.ones(4, 3).index_add(0, torch.tensor([0]), torch.ones(1, 3)).requires_grad_()
    (rkd_distance_loss(student, torch.randn(4, 3)) + rkd_angle_loss(student, torch.randn(4, 3))).backward()
    assert student.grad.isfinite().all()


def test_half_precision_and_autocast_change_no_relations():
    student = torch.randn(8, 16).bfloat16()
    teacher = student + 0.05 * torch.randn(8, 16).bfloat16()
    for loss in (rkd_distance_loss, rkd_angle_loss):
        true = float(loss(student.double(), teacher.double()))
        with torch.autocast("cpu", torch.bfloat16):
            for dtype in (torch.bfloat16, torch.float32):
                assert float(loss(student.to(dtype), teacher.to(dtype))) == pytest.approx(true, rel=0.01)


@pytest.mark.parametrize(
    "loss", [attention_transfer_loss, lambda s, t: feature_losses.hint_loss(s, t, nn.Identity())]
)
def test_no_gradient_reaches_the_teacher(loss):
    student, teacher = torch.rand(2, 3, 4, 4, requires_grad=True), torch.rand(2, 3, 4, 4, requires_grad=True)
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0


def test_stages_are_the_blocks_of_a_network(pair):
    assert feature_losses.stages(pair[0]) == ["features.2", "features.6", "features.10", "features.13"]
    assert feature_losses.stages(models.build("resnet", 5, blocks=1)) == ["features.3", "features.4", "features.5"]


def test_reading_gives_logits_and_maps_and_leaves_no_hook(pair, images):
    student = pair[0].eval()
    logits, (maps, pooled) = feature_losses.read(student, images, ["features.5", "pool"])
    torch.testing.assert_close(logits, student(images))
    torch.testing.assert_close(maps, student.features[:6](images))
    assert pooled.shape == (6, 12, 1, 1)
    assert not any(module._forward_hooks for module in student.modules())


def test_hooks_are_gone_even_after_a_failed_pass(pair, images):
    with pytest.raises(ValueError, match="images must be a float tensor N×2×H×W, got float32 of shape"):
        feature_losses.read(pair[0], images[:, :1], ["pool"])
    assert not any(module._forward_hooks for module in pair[0].modules())


def test_a_teacher_is_read_in_eval_mode_and_does_not_change(pair, images):
    teacher = pair[1].train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    (pooled,) = feature_losses.read_teacher(teacher, images, ["pool"], 5)
    assert teacher.training
    assert not pooled.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    torch.testing.assert_close(pooled[:1], feature_losses.read_teacher(teacher, images[:1], ["pool"], 5)[0])


def test_a_hinted_student_is_the_student_with_a_regressor_beside_it(pair, images):
    student, teacher = (model.eval() for model in pair)
    hinted = Hinted(student, teacher, 1, (2, 12, 16)).eval()
    torch.testing.assert_close(hinted(images), student(images))
    assert hinted.regressor.weight.shape == (8, 6, 1, 1)
    _, (maps,) = feature_losses.read(student, images, ["features.6"])
    (target,) = feature_losses.read_teacher(teacher, images, ["features.6"], 5)
    loss = feature_losses.hint_loss(maps, target, hinted.regressor)
    torch.testing.assert_close(loss, (hinted.regressor(maps) - target).square().mean())
    loss.backward()
    assert student.features[0].weight.grad.abs().max() > 0
    assert student.features[7].weight.grad is None, "later layers are not touched by an early hint"


def test_simkd_keeps_the_teachers_classifier(pair, images):
    student, teacher = (model.eval() for model in pair)
    model = SimKD(student, teacher).eval()
    (pooled,) = feature_losses.read_teacher(teacher, images, ["pool"], 5)
    with torch.no_grad():
        torch.testing.assert_close(model.head(pooled.flatten(1)), teacher(images))
    F.mse_loss(model.projected(images), pooled.flatten(1)).backward()
    assert model.projector.weight.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in model.head.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, t, x: SimKD(nn.Linear(3, 2), t), "must be a PlainCNN or a ResNet, got Linear"),
        (lambda s, t, x: Hinted(s, models.build("resnet", 5, 2), 2, (2, 12, 16)), "must have one size, got"),
        (lambda s, t, x: feature_losses.read_teacher(t, x, ["pool"], 7), "same classes, got 5 and 7"),
        (lambda s, t, x: attention_transfer_loss(F_S, F_T[:, :, :1]), "must have the same N, H and W"),
    ],
)
def test_a_wrong_argument_raises_an_error_that_names_it(call, message, pair, images):
    with pytest.raises(ValueError, match=message):
        call(*pair, images)
