"""The losses: golden values, limits, gradients, and what every wrong input is told."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

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


@pytest.mark.parametrize("temperature", [1, 2.5, 40])
def test_equal_logits_up_to_a_constant_per_row_give_zero_loss(temperature, logits):
    _, teacher = logits
    close(soft_target_loss(teacher + torch.randn(5, 1), teacher, temperature), 0, atol=1e-12)


def test_at_infinite_temperature_the_loss_matches_centred_logits():
    difference = (Z_S - Z_S.mean(1, keepdim=True)) - (Z_T - Z_T.mean(1, keepdim=True))
    limit = float(difference.square().sum()) / (2 * 3 * 4)
    close(limit, 0.71354166666667)
    close(soft_target_loss(Z_S, Z_T, 1e4), limit, atol=2e-5)
    close(soft_target_loss(Z_S, Z_T, 1000), 0.71365793134, atol=1e-9)
    assert_close(gradient(1e4), difference / (3 * 4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_t_times_the_difference_of_probabilities(temperature):
    p, q = (Z_T / temperature).softmax(1), (Z_S / temperature).softmax(1)
    assert_close(gradient(temperature), temperature / 3 * (q - p), atol=1e-12, rtol=0)
    step = 1e-5 * torch.eye(12, dtype=torch.float64).view(12, 3, 4)
    finite = [soft_target_loss(Z_S + d, Z_T, temperature) - soft_target_loss(Z_S - d, Z_T, temperature) for d in step]
    assert_close(gradient(temperature).flatten(), torch.stack(finite) / 2e-5, atol=1e-9, rtol=0)


@pytest.mark.parametrize("temperature", [10, 20, 100])
def test_t_squared_keeps_the_gradients_size(temperature):
    ratio = gradient(temperature).norm() / gradient(2 * temperature).norm()
    assert 0.8 < ratio < 1.2


def test_the_gradient_reaches_the_student_alone(logits):
    student, teacher = (z.requires_grad_() for z in logits)
    distillation_loss(student, teacher, torch.arange(5), 4.0, 0.9).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 1e-3


@pytest.mark.parametrize("temperature", [1, 4])
def test_a_constant_added_to_a_row_changes_nothing(temperature, logits):
    student, teacher = logits
    shifted = soft_target_loss(student + torch.randn(5, 1), teacher + torch.randn(5, 1), temperature)
    close(shifted, float(soft_target_loss(student, teacher, temperature)))


def test_duplicating_the_batch_changes_nothing(logits):
    student, teacher, labels = *logits, torch.arange(5)
    twice = [torch.cat([part, part]) for part in (student, teacher, labels)]
    close(distillation_loss(*twice, 3.0, 0.4), float(distillation_loss(student, teacher, labels, 3.0, 0.4)))


def test_the_loss_is_never_negative():
    for scale in (1e-3, 1, 30):
        pairs = scale * torch.randn(2, 200, 7, dtype=torch.float64)
        assert min(float(soft_target_loss(s[None], t[None], 2.0)) for s, t in zip(*pairs, strict=True)) > 0


@pytest.mark.filterwarnings("ignore:reduction. 'mean':UserWarning")
def test_reduction_mean_would_be_smaller_by_the_number_of_classes():
    for temperature in (1.0, 4.0):
        parts = (z.div(temperature).log_softmax(1) for z in (Z_S, Z_T))
        by_mean = F.kl_div(*parts, reduction="mean", log_target=True) * temperature**2
        close(soft_target_loss(Z_S, Z_T, temperature), 4 * float(by_mean), atol=1e-14)


def test_kl_runs_from_the_teacher_to_the_student():
    close(soft_target_loss(Z_S, Z_T, 4), AT_4)
    close(soft_target_loss(Z_T, Z_S, 4), 0.66285668020400)


def test_shuffled_teacher_rows_raise_the_loss(logits):
    _, teacher = logits
    student = teacher + 0.5 * torch.randn_like(teacher)
    assert soft_target_loss(student, teacher.roll(1, 0), 4) > 5 * soft_target_loss(student, teacher, 4)


def test_the_loss_equals_a_double_loop_in_numpy(logits):
    student, teacher = (z.numpy() for z in logits)
    total = 0.0
    for z_s, z_t in zip(student, teacher, strict=True):
        q, p = (np.exp(z / 3) / np.exp(z / 3).sum() for z in (z_s, z_t))
        total += sum(p[i] * (math.log(p[i]) - math.log(q[i])) for i in range(7))
    close(soft_target_loss(*logits, 3.0), 9 * total / 5)


def test_alpha_weighs_the_soft_part_and_its_ends_are_the_pure_terms(logits):
    labels = torch.arange(5)
    hard, soft = hard_label_loss(logits[0], labels), soft_target_loss(*logits, 4)
    assert distillation_loss(*logits, labels, 4, 0) == hard
    assert distillation_loss(*logits, labels, 4, 1) == soft
    close(distillation_loss(*logits, labels, 4, 0.3), float(0.7 * hard + 0.3 * soft))


def test_soft_targets_alone_need_no_labels():
    close(distillation_loss(Z_S, Z_T, torch.full((3,), -1), 4, 1), AT_4)


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


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(1, 0.18687332161293), (2, 0.46916730679061), (4, AT_4), (20, 0.71546860612978)],
)
def test_soft_target_loss_has_its_golden_value(temperature, expected):
    close(soft_target_loss(Z_S, Z_T, temperature), expected)


def test_the_other_golden_values():
    close(hard_label_loss(Z_S, Y), 0.30748814417054)
    close(distillation_loss(Z_S, Z_T, Y, 4, 0.9), 0.61462295718171)
    golden = torch.tensor([-0.185453764876, 0.014363373622, 0.096182997491, 0.074907393764], dtype=torch.float64)
    assert_close(gradient(4.0)[0], golden, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_target_loss(Z_S, Z_T, 0), "temperature must be a finite number above 0, found 0"),
        (lambda: soft_target_loss(Z_S, Z_T, -2.0), "found -2.0"),
        (lambda: soft_target_loss(Z_S, Z_T, math.nan), "found nan"),
        (lambda: soft_target_loss(Z_S, Z_T, math.inf), "found inf"),
        (lambda: soft_target_loss(Z_S, Z_T[:, :3], 4), r"one shape N×C: found \(3, 4\) and \(3, 3\)"),
        (lambda: soft_target_loss(Z_S, Z_T[:1], 4), r"found \(3, 4\) and \(1, 4\)"),
        (lambda: distillation_loss(Z_S, Z_T, Y, 4, -0.1), r"alpha .* lies in \[0, 1\], found -0.1"),
        (lambda: distillation_loss(Z_S, Z_T, Y, 4, 1.5), "found 1.5"),
        (lambda: distillation_loss(Z_S, Z_T, Y, 4, math.nan), "found nan"),
        (lambda: hard_label_loss(Z_S, Y + 2), "label 4 is no class: labels go from 0 to 3$"),
        (lambda: hard_label_loss(Z_S, Y - 2), "label -2 is no class: labels go from 0 to 3$"),
        (lambda: hard_label_loss(Z_S, Y - 1), "label -1 .* use soft targets alone, alpha = 1"),
        (lambda: distillation_loss(Z_S, Z_T, Y - 1, 4, 0.9), "label -1 is no class"),
    ],
)
def test_a_bad_input_is_told_what_was_found_and_what_is_accepted(call, message):
    with pytest.raises(ValueError, match=message):
        call()
