"""A network in half precision: measured and read in float32, and refused where its gradients are needed."""

import copy

import pytest
import torch

from distill_utils import batchnorm, evaluation, explain, models, speed
from distill_utils.explain import distill, metrics
from distill_utils.feature_losses import Hinted, read_teacher

CLASSES = torch.arange(8) % 3


@pytest.fixture
def network():
    model = models.build("student", 3, 1, width=4)
    for _ in range(5):
        model(torch.rand(8, 1, 12, 12))
    return model.eval()


@pytest.fixture
def images():
    return torch.rand(8, 1, 12, 12)


@pytest.mark.parametrize(("call", "action"), [
    (lambda m, x: explain.deeplift(m, x, CLASSES), "explained"),
    (lambda m, x: explain.integrated_gradients(m, x, CLASSES), "explained"),
    (lambda m, x: explain.occlusion(m, x, CLASSES), "explained"),
    (lambda m, x: batchnorm.invert(m, CLASSES, (1, 12, 12), steps=1, quiet=True), "inverted"),
    (speed.choose, "timed"),
])  # fmt: skip
def test_it_is_refused_in_one_sentence(call, action, network, images):
    with pytest.raises(ValueError, match=rf"in half precision cannot be {action}: call float\(\) on it$"):
        call(network.bfloat16(), images)


@pytest.mark.parametrize("read", [
    lambda m, x: torch.tensor(float(evaluation.cost(m, x)["flops"])),
    lambda m, x: distill.record_maps(m, x, CLASSES, layer="features.9"),
    lambda m, x: read_teacher(m, x, ["pool"], 3)[0].flatten(1),
    lambda m, x: metrics.dissection(m, x, (x > 0.5).transpose(0, 1), layer="features.9", share=0.3),
    lambda m, x: torch.tensor(Hinted(m, copy.deepcopy(m), 1, (1, 12, 12)).regressor.out_channels),
])  # fmt: skip
def test_it_is_read_up_to_rounding(read, network, images):
    expected = read(copy.deepcopy(network), images).float()
    got = read(network.bfloat16(), images).float()
    torch.testing.assert_close(got, expected, atol=0.03 * float(expected.abs().max()), rtol=0.1)


def test_maps_in_half_precision_have_the_loss_of_float32():
    maps = torch.randn(8, 5, 5).bfloat16()
    near = (maps.float() + 0.02 * torch.randn(8, 5, 5)).bfloat16()
    expected = distill.explanation_loss(near.double(), maps.double())
    assert float(distill.explanation_loss(near, maps)) == pytest.approx(float(expected), rel=0.01)
