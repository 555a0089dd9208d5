"""The losses of Hinton: golden values, limits, gradients, half precision and the errors that a learner meets."""

import math

import pytest
import torch
from torch.testing import assert_close

from distill_utils import losses
from distill_utils.losses import distillation_loss, hard_label_loss, soft_target_loss

# Computed with PyTorch and independently with NumPy, equal to 1e-12 (3 images, 4 classes).
Z_S = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.5, 2.5, -0.5, 1.0], [-1.0, 0.0, 3.0, 0.5]], dtype=torch.float64)
Z_T = torch.tensor([[4.0, 1.5, -1.0, -2.0], [1.0, 5.0, -1.0, 2.0], [-2.0, 0.5, 4.0, 3.0]], dtype=torch.float64)
Y = torch.tensor([0, 1, 2])
AT_4 = 0.64874904751628


def close(value, expected, atol=1e-10):
    assert float(value) == pytest.approx(expected, abs=atol, rel=0)


def gradient(temperature, student=Z_S, teacher=Z_T):
    student = student.clone().requires_grad_()
    soft_target_loss(student, teacher, temperature).backward()
    return student.grad


@pytest.fixture
def logits():
    """Logits of a student and of its teacher, 5×7."""
    return torch.randn(5, 7, dtype=torch.float64), 3 * torch.randn(5, 7, dtype=torch.float64)


def test_at_infinite_temperature_the_loss_matches_centred_logits():
    difference = (Z_S - Z_S.mean(1, keepdim=True)) - (Z_T - Z_T.mean(1, keepdim=True))
    limit = float(difference.square().sum()) / (2 * 3 * 4)
    close(limit, 0.71354166666667)
    close(soft_target_loss(Z_S, Z_T, 1e4), limit, atol=2e-5)
    assert_close(gradient(1e4), difference / (3 * 4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_t_times_the_difference_of_probabilities(temperature):
    p, q = (Z_T / temperature).softmax(1), (Z_S / temperature).softmax(1)
    assert_close(gradient(temperature), temperature / 3 * (q - p), atol=1e-12, rtol=0)


def test_the_gradient_reaches_the_student_alone(logits):
    student, teacher = (z.requires_grad_() for z in logits)
    distillation_loss(student, teacher, torch.arange(5), 4.0, 0.9).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 1e-3


def test_alpha_weights_the_soft_part_and_at_1_no_label_is_needed(logits):
    labels = torch.arange(5)
    hard, soft = hard_label_loss(logits[0], labels), soft_target_loss(*logits, 4)
    assert distillation_loss(*logits, labels, 4, 0) == hard
    assert distillation_loss(*logits, torch.full((5,), -1), 4, 1) == soft
    close(distillation_loss(*logits, labels, 4, 0.3), float(0.7 * hard + 0.3 * soft))
    labels[1:3] = -1  # where there is no label, there is a soft target only
    some = hard_label_loss(logits[0][[0, 3, 4]], labels[[0, 3, 4]])
    close(distillation_loss(*logits, labels, 4, 0.3), float(0.7 * some + 0.3 * soft))
    close(distillation_loss(*logits, torch.full((5,), -1), 4, 0.3), float(0.3 * soft))


def test_smoothing_mixes_in_the_uniform_target():
    uniform = -Z_S.log_softmax(1).mean()
    close(hard_label_loss(Z_S, Y, smoothing=0.2), float(0.8 * hard_label_loss(Z_S, Y) + 0.2 * uniform))


@pytest.mark.parametrize("temperature", [1, 20])
def test_logits_of_ten_thousand_give_finite_losses_and_gradients(temperature):
    student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 5.0]], requires_grad=True)
    loss = distillation_loss(student, student.detach().flip(0), torch.tensor([1, 0]), temperature, 0.5)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_golden_values():
    soft = {1: 0.18687332161293, 2: 0.46916730679061, 4: AT_4, 20: 0.71546860612978, 1000: 0.71365793134}
    for temperature, expected in soft.items():
        close(soft_target_loss(Z_S, Z_T, temperature), expected)
    close(soft_target_loss(Z_T, Z_S, 4), 0.66285668020400)  # the other direction of KL
    close(hard_label_loss(Z_S, Y), 0.30748814417054)
    close(distillation_loss(Z_S, Z_T, Y, 4, 0.9), 0.61462295718171)
    golden = torch.tensor([-0.185453764876, 0.014363373622, 0.096182997491, 0.074907393764], dtype=torch.float64)
    assert_close(gradient(4.0)[0], golden, atol=1e-10, rtol=0)


# Half precision


_GROUPS = torch.arange(10) % 3
HALF_LOSSES = {
    "soft targets": soft_target_loss,
    "distillation": lambda s, t, temperature: distillation_loss(s, t, torch.arange(64) % 10, temperature, 0.9),
    "groups": lambda s, t, temperature: losses.group_kd_loss(s, t, _GROUPS, temperature, within=0.5),
    "DKD": lambda s, t, temperature: losses.dkd_loss(s, t, torch.arange(64) % 10, temperature),
    "standardised": losses.logit_standardised_loss,
    "DIST": losses.dist_loss,
}


def value_and_gradient(loss, student, teacher, temperature):
    student = student.clone().requires_grad_()
    value = loss(student, teacher, temperature)
    value.backward()
    return float(value.detach()), student.grad.double()


@pytest.mark.parametrize("name", HALF_LOSSES)
@pytest.mark.parametrize("temperature", [1, 4, 20])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_near_the_teacher_half_precision_logits_give_the_loss_of_float64(name, temperature, dtype):
    teacher = torch.randn(64, 10).to(dtype)
    for distance in (1.0, 0.1, 0.03):
        student = (teacher + distance * torch.randn(64, 10)).to(dtype)
        found, slope = value_and_gradient(HALF_LOSSES[name], student, teacher, temperature)
        true, true_slope = value_and_gradient(HALF_LOSSES[name], student.double(), teacher.double(), temperature)
        assert found == pytest.approx(true, rel=0.01, abs=3e-7 * temperature**2)
        assert found >= 0
        assert (slope - true_slope).norm() < 0.01 * true_slope.norm()


@pytest.mark.parametrize("name", HALF_LOSSES)
def test_no_rounding_makes_a_loss_of_half_precision_negative(name):
    for _ in range(20):
        teacher = torch.randn(64, 10).bfloat16()
        assert HALF_LOSSES[name](teacher + 1e-3, teacher, 20.0) >= 0


def test_autocast_changes_no_loss():
    weight, images = torch.randn(10, 4), torch.randn(64, 4)
    with torch.autocast("cpu", torch.bfloat16):
        student = images @ weight.T
        teacher = student + 0.05
        for loss in HALF_LOSSES.values():
            assert student.dtype == torch.bfloat16
            true, true_slope = value_and_gradient(loss, student.double(), teacher.double(), 4.0)
            found, slope = value_and_gradient(loss, student, teacher, 4.0)
            assert found == pytest.approx(true, rel=0.01, abs=1e-5)
            assert (slope - true_slope).norm() < 0.01 * true_slope.norm() + 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_target_loss(Z_S, Z_T, 0), r"temperature must be a finite number in \[0.001, .*, got 0"),
        (lambda: soft_target_loss(Z_S, Z_T, math.nan), "got nan"),
        (lambda: soft_target_loss(Z_S, Z_T[:1], 4), r"must have the same shape N×C, got \(3, 4\) and \(1, 4\)"),
        (lambda: distillation_loss(Z_S, Z_T, Y, 4, 1.5), r"alpha, .*, must be a finite number in \[0, 1\], got 1.5"),
        (lambda: hard_label_loss(Z_S, Y + 2), "label 4 is out of range for 4 classes$"),
        (lambda: hard_label_loss(Z_S, Y - 1), "label -1 is out of range .* which only soft targets can use"),
        (lambda: distillation_loss(Z_S, Z_T, Y - 2, 4, 0.9), "label -2 is out of range for 4 classes$"),
    ],
)
def test_a_wrong_argument_raises_an_error_that_names_it(call, message):
    with pytest.raises(ValueError, match=message):
        call()
