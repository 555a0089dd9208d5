"""Explanation metrics: closed forms, chance, invariances, and bad input."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from distill_utils.explain import deeplift, integrated_gradients
from distill_utils.explain.metrics import abpc, agreement, average_sensitivity, dissection


def linear(weight, factor=1.0):
    """A network of two classes whose centred logit of class 0 is factor·Σ weight·x."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.numel(), 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(factor * torch.stack([weight.flatten(), -weight.flatten()]))
    return model


@pytest.fixture
def case():
    """Sixty images of 12×12, a positive linear score, and its exact map against black."""
    torch.manual_seed(5)
    weight, images = torch.rand(12, 12), torch.rand(60, 1, 12, 12)
    return linear(weight), images, images[:, 0] * weight, torch.zeros(60, dtype=torch.long), torch.zeros_like(images)


def test_the_area_between_the_curves_of_a_linear_score_is_known(case):
    model, images, maps, classes, black = case
    blocks = torch.nn.functional.avg_pool2d(maps[:, None], 2)[:, 0].flatten(1) * 4
    ordered = blocks.sort(1, descending=True).values.mean(0)
    total = ordered.sum()
    removed = [round(step * 36 / 28) for step in range(1, 29)]
    most = torch.stack([ordered[:k].sum() for k in removed])  # what is lost, most relevant first
    least = torch.stack([ordered[36 - k :].sum() for k in removed])
    expected = float((most - least).mean() / total)
    assert abpc(model, images, maps, classes, black) == pytest.approx(expected, rel=1e-4)
    assert abpc(model, images, -maps, classes, black) == pytest.approx(-expected, rel=1e-4)


def test_the_area_of_random_maps_is_zero(case):
    model, images, _, classes, black = case
    chance = [abpc(model, images, torch.rand(60, 12, 12), classes, black) for _ in range(20)]
    assert sum(chance) / 20 == pytest.approx(0, abs=0.02)
    with pytest.raises(ValueError, match="removing everything must change a score"):
        abpc(model, images, torch.rand(60, 12, 12), classes, images.clone())


def test_the_scale_of_the_logits_changes_no_measure(case):
    _, images, _, classes, black = case
    weight = torch.randn(12, 12)
    maps = torch.rand(60, 12, 12)
    one, many = linear(weight.abs()), linear(weight.abs(), 7.0)
    assert abpc(many, images, 7 * maps, classes, black) == pytest.approx(abpc(one, images, maps, classes, black))
    assert agreement(7 * maps, maps.flip(0)) == pytest.approx(agreement(maps, 3 * maps.flip(0)))
    sensitivity = [average_sensitivity(deeplift, model, images[:5], classes[:5]) for model in (one, many)]
    torch.testing.assert_close(*sensitivity)


def test_the_sensitivity_of_a_linear_map_is_the_size_of_the_noise(case):
    model, images, _, classes, _ = case

    def against_black(model, images, classes):
        return integrated_gradients(model, images, classes, 0.0, steps=2)

    found = average_sensitivity(against_black, model, images * 0.8 + 0.1, classes, samples=30)
    weight = model[1].weight[0].view(12, 12)
    noise = weight.square().sum().sqrt() * 0.02 / 3**0.5  # root mean square of uniform ±r is r / √3
    expected = noise / (weight * (images[:, 0] * 0.8 + 0.1)).flatten(1).norm(dim=1)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0)


def test_agreement_of_a_map_with_itself_its_negative_and_hand_cases():
    maps = torch.randn(20, 10, 10)
    same, opposite = agreement(maps, maps), agreement(maps, -maps)
    assert (same, opposite) == pytest.approx((1, -1), abs=0.05)
    patterns = torch.eye(20).view(20, 4, 5)  # one pixel each: mismatched maps have nothing in common
    assert agreement(patterns + patterns.roll(1, 0), patterns) == pytest.approx(0.5**0.5 * (1 - 1 / 5))


def test_agreement_of_independent_maps_is_zero():
    shared = 2 * torch.randn(10, 10)  # what every map shows, whatever the image
    maps, others = (torch.randn(300, 10, 10) + shared for _ in range(2))
    assert torch.cosine_similarity(maps.flatten(1), others.flatten(1)).mean() > 0.6  # yet similar
    assert agreement(maps, others) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(("spoil", "message"), [(0.0, "map 7 is zero everywhere"), (torch.nan, "maps contains NaN")])
def test_maps_of_zeros_or_nan_are_refused(spoil, message, case):
    model, images, maps, classes, black = case
    maps = maps.clone()
    maps[7] = spoil
    for call in (
        lambda: abpc(model, images, maps, classes, black),
        lambda: agreement(maps, maps),
        lambda: average_sensitivity(lambda *_: SimpleNamespace(maps=maps), model, images, classes),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_input_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="others must be a float tensor N×H×W with N = 20, H = 4, W = 4"):
        agreement(torch.rand(20, 4, 4), torch.rand(20, 4, 5))
    with pytest.raises(ValueError, match=r"the number of images must be an? .*\[6, .*got 5"):
        agreement(torch.rand(5, 4, 4), torch.rand(5, 4, 4))
    with pytest.raises(ValueError, match="maps must be a float tensor N×H×W"):
        agreement(torch.rand(3, 4), torch.rand(3, 4))
    with pytest.raises(ValueError, match="empty concept"):
        dissection(
            Units(), torch.rand(2, 1, 8, 8), torch.zeros(1, 2, 8, 8, dtype=torch.bool), layer="layer", share=0.1
        )


class Units(nn.Module):
    """A model whose layer has the input's channels as its units."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Identity(), nn.Flatten()

    def forward(self, x):
        return self.head(self.layer(x))


def test_units_are_scored_by_intersection_over_union():
    concept = torch.zeros(1, 4, 8, 8, dtype=torch.bool)
    concept[:, :, :2] = True  # a quarter of all places
    units = torch.stack([concept[0].float(), (~concept[0]).float(), torch.rand(4, 8, 8)], 1)
    units += 1e-3 * torch.rand(units.shape)
    exact = dissection(Units(), units, concept, layer="layer", share=0.25)
    assert exact.shape == (3, 1)
    assert exact[0] == 1
    assert exact[1] == 0
    wide = dissection(Units(), units, concept, layer="layer", share=0.5)
    assert wide[0].item() == pytest.approx(0.5)


def test_intersection_and_union_are_summed_over_images_before_they_are_divided():
    concept = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    concept[0, 0, :4], concept[0, 1, :1] = True, True
    units = torch.zeros(2, 1, 8, 8)
    units[0, 0, :2], units[1, 0, :2] = 1 + torch.rand(2, 8), 1 + torch.rand(2, 8)
    found = dissection(Units(), units, concept, layer="layer", share=0.25)
    assert found.item() == pytest.approx((16 + 8) / (32 + 8 + 32 - 16 - 8))


def test_a_rotation_of_the_units_removes_what_single_units_mark():
    torch.manual_seed(1)
    concept = torch.rand(1, 40, 8, 8) < 0.1
    units = torch.rand(40, 16, 8, 8)
    units[:, 0] += concept[0]
    own, turned, again = (
        dissection(Units(), units, concept, layer="layer", share=0.1, turned=seed) for seed in (None, 0, 1)
    )
    assert own.max() > 0.8
    assert turned.max() < 0.6
    assert not torch.equal(turned, again)
