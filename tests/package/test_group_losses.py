"""Losses of published techniques on logits: golden values, the exact split into groups, special cases."""

import pytest
import torch
from test_losses import AT_4, Z_S, Z_T, Y, close

from distill_utils.losses import (
    dist_loss,
    dkd_loss,
    group_kd_loss,
    group_kd_parts,
    logit_standardised_loss,
    partition,
    primary_groups,
    soft_target_loss,
    target_groups,
)  # fmt: skip

PAIRS = torch.tensor([0, 0, 1, 1])


@pytest.fixture
def logits():
    """Logits of a student and of its teacher, 5×7, and a grouping of the classes for each image."""
    groups = torch.randint(0, 3, (5, 7))
    return torch.randn(5, 7, dtype=torch.float64), 3 * torch.randn(5, 7, dtype=torch.float64), groups


def test_two_pairs_have_their_golden_values():
    between, within = group_kd_parts(Z_S, Z_T, PAIRS, 4)
    close(between, 0.37114436842764)
    close(within[0], 0.18248019463806)
    close(within[1], 0.09512448445058)
    close(between + within.sum(), AT_4)
    close(group_kd_loss(Z_S, Z_T, PAIRS, 4, decoupled=True), 0.86302468022653)


def test_the_target_against_the_rest_is_decoupled_distillation():
    between, within = group_kd_parts(Z_S, Z_T, target_groups(Y, 4), 4, decoupled=True)
    close(between, 0.38616640856911)
    assert within[0] == 0
    close(within[1], 0.46645996852787)
    close(dkd_loss(Z_S, Z_T, Y, 4), 4.11784615679207)
    close(dkd_loss(Z_S, Z_T, Y, 4, alpha=0, beta=1), 0.46645996852787)


@pytest.mark.parametrize(
    ("mass", "binary", "primary", "secondary"),
    [(0.8, 0.24175072972159, 0.40699831779469, 0), (0.6, 0.42085049659667, 0.19319657550445, 0.03470197541516)],
)
def test_grouped_kd_has_its_golden_values(mass, binary, primary, secondary):
    between, within = group_kd_parts(Z_S, Z_T, primary_groups(Z_T, 4, mass), 4)
    close(between, binary)
    close(within[0], primary)
    close(within[1], secondary)
    kept = group_kd_loss(Z_S, Z_T, primary_groups(Z_T, 4, mass), 4, within=torch.tensor([1.0, 0.0]))
    close(kept, binary + primary)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_any_grouping_adds_up_to_the_soft_target_loss(temperature, logits):
    student, teacher, groups = logits
    whole = float(soft_target_loss(student, teacher, temperature))
    for choice in (groups, groups[0], torch.zeros(7, dtype=torch.long), torch.arange(7), groups * 3):
        close(group_kd_loss(student, teacher, choice, temperature), whole, atol=1e-12)


def test_masses_that_underflow_give_finite_losses_and_gradients():
    student = torch.tensor([[1e4, -1e4, 0.0, 3.0]], requires_grad=True)
    loss = group_kd_loss(student, student.detach().flip(1), PAIRS, 1.0, decoupled=True)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_logit_standardisation_ignores_scale_and_shift():
    close(logit_standardised_loss(Z_S, Z_T, 2), 0.03778265924800)
    close(logit_standardised_loss(3 * Z_S + 1, Z_T, 2), 0.03778265924800, atol=1e-8)
    assert logit_standardised_loss(3 * Z_S + 1, Z_T, 2) != logit_standardised_loss(Z_S, Z_T, 2)
    close(logit_standardised_loss(5 * Z_T - 2, Z_T, 2), 0, atol=1e-13)


@pytest.mark.parametrize(
    ("tau", "inter", "intra"),
    [(1, 0.02916953356057, 0.27229282566419), (4, 0.04868508428316, 0.06941577243440)],
)
def test_dist_has_its_golden_values(tau, inter, intra):
    close(dist_loss(Z_S, Z_T, tau, intra=0) / tau**2, inter)
    close(dist_loss(Z_S, Z_T, tau, inter=0) / tau**2, intra)
    close(dist_loss(Z_S, Z_T, tau, inter=2, intra=3) / tau**2, 2 * inter + 3 * intra)


def test_in_dist_a_constant_class_has_correlation_0_even_with_itself():
    logits = torch.cat([Z_T, torch.full((len(Z_T), 1), -1e4)], 1)  # softmax gives this class exactly 0
    close(dist_loss(logits, logits, 2, inter=0), 2**2 / logits.shape[1])
    close(dist_loss(logits, logits, 2, intra=0), 0)


def test_primary_classes_are_the_smallest_set_with_the_mass():
    teacher = torch.tensor([[0.1, 0.5, 0.4], [0.25, 0.25, 0.5]], dtype=torch.float64).log()
    assert primary_groups(teacher, 1.0, 0.45).tolist() == [[1, 0, 1], [1, 1, 0]]
    assert primary_groups(teacher, 1.0, 0.7).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert primary_groups(teacher, 1.0, 0.95).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_partition_numbers_its_groups():
    assert partition([[2, 0], [1], [4, 3]], 5).tolist() == [0, 1, 0, 2, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: partition([[0, 1], [1, 2]], 3),
            r"each of the 3 classes must be in exactly one group, got wrong \[1\]",
        ),
        (lambda: partition([[0, 5], [2]], 4), r"got wrong \[1, 3, 5\]"),
        (lambda: group_kd_loss(Z_S, Z_T, torch.tensor([0, -1, 1, 1]), 4), r"must be in \[0, 3\], got -1"),
        (
            lambda: group_kd_loss(Z_S, Z_T, torch.tensor([0, 1, 1]), 4),
            r"shape \(4,\) or \(3, 4\), got \(3,\)",
        ),
        (lambda: dkd_loss(Z_S, Z_T, Y - 1, 4), "label -1 is out of range for 4 classes"),
    ],
)
def test_a_wrong_argument_raises_an_error_that_names_it(call, message):
    with pytest.raises(ValueError, match=message):
        call()
