"""Measures of a classifier: hand values, closed cases, independent implementations, and the cost of a prediction."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

from distill_utils import batchnorm, evaluation, explain, feature_losses, models, training
from distill_utils.data import ImageSet
from distill_utils.explain import distill

LABELS = torch.tensor([0, 1, 2, 1, 0])
PROBABILITIES = torch.tensor(
    [[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8], [0.4, 0.35, 0.25]], dtype=torch.float64
)


def with_confidence(confidence, classes=4):
    """Logits N×classes whose first class has this probability, the largest."""
    rest = (1 - confidence) / (classes - 1)
    return torch.cat([confidence[:, None], rest[:, None].expand(-1, classes - 1)], 1).log()


def test_accuracy_and_nll_have_their_hand_values():
    scores = evaluation.score(PROBABILITIES.log(), LABELS)
    assert scores["accuracy"] == pytest.approx(3 / 5)
    expected = -(math.log(0.7) + math.log(0.5) + math.log(0.3) + math.log(0.1) + math.log(0.4)) / 5
    assert scores["nll"] == pytest.approx(expected)
    assert set(scores) == {"accuracy", "nll", "ece"}


@pytest.mark.parametrize(
    ("confidence", "right", "expected"), [(0.6, 600, 0.0), (1 - 1e-6, 500, 0.5), (0.5, 900, 0.4)]
)
def test_calibration_error_is_the_gap_between_confidence_and_accuracy(confidence, right, expected):
    labels = (torch.arange(1000) >= right).long()
    outputs = with_confidence(torch.full((1000,), confidence))
    assert evaluation.score(outputs, labels)["ece"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("classes", [2, 7])
def test_calibration_error_is_that_of_torchmetrics(classes):
    outputs, labels = 2 * torch.randn(503, classes), torch.randint(classes, (503,))
    expected = multiclass_calibration_error(outputs.softmax(1), labels, classes, n_bins=15, norm="l1")
    assert evaluation.score(outputs, labels)["ece"] == pytest.approx(float(expected), abs=1e-6)


def test_agreement_and_kl_have_their_hand_values():
    student = torch.tensor([[0.5, 0.5], [0.2, 0.8]]).log() + torch.tensor([[1e-6, 0], [0, 0]])
    teacher = torch.tensor([[0.9, 0.1], [0.7, 0.3]]).log()
    kl = (0.9 * math.log(1.8) + 0.1 * math.log(0.2) + 0.7 * math.log(3.5) + 0.3 * math.log(0.375)) / 2
    assert evaluation.compare(student, teacher) == pytest.approx({"agreement": 0.5, "kl": kl}, abs=1e-5)


def test_evaluate_measures_in_eval_mode_and_restores_the_mode(tiny_model, tiny_set):
    model, teacher = tiny_model().train(), tiny_model(4)
    first, again = (evaluation.evaluate(model, tiny_set, teacher) for _ in range(2))
    assert first == again  # no dropout, no statistics moved
    assert model.training
    assert teacher.training
    outputs, others = (net.eval()(tiny_set.images).detach() for net in (model, teacher))
    expected = evaluation.score(outputs, tiny_set.labels) | evaluation.compare(outputs, others)
    assert first == pytest.approx(expected, abs=1e-6)
    assert set(evaluation.evaluate(model, tiny_set)) == {"accuracy", "nll", "ece"}


def test_a_frozen_batchnorm_stays_frozen_whatever_asks_the_network():
    model = models.build("student", 3, 1, width=4).train()
    frozen = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)][1].eval()
    images, classes = torch.rand(8, 1, 12, 12), torch.arange(8) % 3
    modes, before = [module.training for module in model.modules()], frozen.running_mean.clone()
    for ask in (
        lambda: evaluation.evaluate(model, ImageSet(images, classes)), lambda: evaluation.cost(model, images),
        lambda: training.logits(model, images), lambda: feature_losses.read_teacher(model, images, ["pool"], 3),
        lambda: batchnorm.invert(model, classes, (1, 12, 12), steps=1, quiet=True),
        lambda: explain.deeplift(model, images, classes), lambda: distill.record_maps(model, images, classes),
        lambda: explain.occlusion(model, images, classes),
    ):  # fmt: skip
        ask()
        assert [module.training for module in model.modules()] == modes
        assert torch.equal(frozen.running_mean, before)


def test_an_image_that_is_no_number_is_named(tiny_model, tiny_set):
    tiny_set.images[7, 1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="image 7 of the image set contains NaN or inf"):
        evaluation.evaluate(tiny_model(), tiny_set)


def test_recorded_logits_of_half_precision_are_measured_in_float32():
    student, teacher, labels = torch.randn(40, 5).half(), torch.randn(40, 5).half(), torch.arange(40) % 5
    assert evaluation.score(student, labels) == evaluation.score(student.float(), labels)
    assert evaluation.compare(student, teacher) == evaluation.compare(student.float(), teacher.float())
    assert evaluation.compare(student.float(), teacher) == evaluation.compare(student, teacher)


def test_confusions_count_true_classes_in_rows():
    outputs = F.one_hot(torch.tensor([0, 2, 2, 2, 1]), 4).float()
    counts = evaluation.confusions(outputs, torch.tensor([0, 0, 2, 2, 3]))
    assert counts.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 2, 0], [0, 1, 0, 0]]


@pytest.mark.parametrize("labels", [torch.full((5,), -1), torch.tensor([0, 1, -1, 2, 0]), torch.empty(0).long()])
def test_images_without_labels_are_refused(labels, tiny_model):
    image_set = ImageSet(torch.rand(len(labels), 2, 5, 4), labels)
    with pytest.raises(ValueError, match="empty or has images without labels"):
        evaluation.score(torch.randn(len(labels), 3), labels)
    if len(labels):
        with pytest.raises(ValueError, match="empty or has images without labels"):
            evaluation.evaluate(tiny_model(), image_set)


# Cost


@pytest.mark.parametrize(
    ("model", "shape", "flops", "parameters"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (1, 3, 4), 2 * 12 * 5, 12 * 5 + 5),
        (nn.Conv2d(2, 7, 3, padding=1), (2, 5, 4), 2 * (3 * 3 * 2) * 7 * 5 * 4, 3 * 3 * 2 * 7 + 7),
        (nn.Conv2d(2, 7, 3, stride=2, bias=False), (2, 9, 5), 2 * (3 * 3 * 2) * 7 * 4 * 2, 3 * 3 * 2 * 7),
    ],
)
def test_flops_and_parameters_follow_the_closed_form(model, shape, flops, parameters):
    measured = evaluation.cost(model, torch.rand(3, *shape))
    assert measured["flops"] == flops
    assert measured["parameters"] == parameters
    assert 0 < measured["bytes"] - 4 * parameters < 1000


# Groups of classes


def test_classes_that_are_mistaken_for_one_another_are_grouped():
    confusions = torch.tensor([
        [9, 0, 5, 0, 0], [0, 8, 0, 1, 3], [2, 0, 7, 1, 0], [0, 0, 1, 9, 0], [1, 4, 0, 0, 5],
    ])  # fmt: skip
    assert evaluation.look_alikes(confusions, 3).tolist() == [0, 1, 0, 2, 1]
    assert evaluation.look_alikes(confusions, 5).tolist() == [0, 1, 2, 3, 4]
    assert evaluation.look_alikes(confusions, 1).tolist() == [0] * 5
    order = torch.tensor([3, 0, 4, 2, 1])
    assert evaluation.look_alikes(confusions[order][:, order], 3).tolist() == [0, 1, 2, 1, 2]


def test_classes_that_are_never_confused_cannot_be_grouped():
    with pytest.raises(ValueError, match="no off-diagonal mass"):
        evaluation.look_alikes(torch.diag(torch.tensor([10, 10, 10, 10])), 2)


def test_soft_confusions_are_the_mean_softened_rows_of_a_class():
    outputs = 2 * PROBABILITIES.log()
    table = evaluation.soft_confusions(outputs, LABELS, 2.0)
    assert torch.allclose(table[0], (PROBABILITIES[0] + PROBABILITIES[4]) / 2)
    assert torch.allclose(table.sum(1), torch.ones(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="class 2 has no images"):
        evaluation.soft_confusions(outputs[:2], LABELS[:2], 2.0)


def test_tied_weights_are_counted_once():
    tied = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 16))
    untied = evaluation.cost(tied, torch.rand(2, 1, 4, 4))
    tied[2].weight = tied[1].weight
    found = evaluation.cost(tied, torch.rand(2, 1, 4, 4))
    assert untied["parameters"] - found["parameters"] == 256
    assert 900 < untied["bytes"] - found["bytes"] < 1200
