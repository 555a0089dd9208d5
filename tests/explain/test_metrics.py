"""Explanation metrics: closed forms, chance, invariances, and bad input."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from distill_utils import glyphs
from distill_utils.explain import deeplift, integrated_gradients
from distill_utils.explain.metrics import (
    PARTS,
    abpc,
    agreement,
    average_sensitivity,
    dissection,
    effective_pixels,
    infidelity,
    interventions,
    region_correlation,
)


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


@pytest.fixture
def factors():
    return glyphs.sample(torch.arange(40), 3, glyphs.Look(cue=0.9))


def test_interventions_change_their_region_alone(factors):
    images, masks = glyphs.render(factors)
    seen = []

    class Recorder(nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], 1)

    regions, effects = interventions(Recorder(), factors, torch.zeros(40, dtype=torch.long))
    assert regions.shape == (11, 40, 28, 28)
    assert effects.shape == (11, 40)
    for part, region in zip(PARTS, regions, strict=False):
        assert torch.equal(region, masks[part])
    assert (regions.sum(0) <= 1).all()  # disjoint, and together the whole image
    assert regions.any(0).all()
    for region, changed, effect in zip(regions, seen[1:], effects, strict=True):
        assert not bool(((changed != images)[:, 0] & ~region).any())
        torch.testing.assert_close(effect, (images - changed).sum((1, 2, 3)), atol=1e-3, rtol=1e-3)
    fresh = [(changed != images)[:, 0] & region for region, changed in zip(regions[3:], seen[4:], strict=True)]
    assert torch.stack(fresh).sum() > 0.8 * regions[3:].sum()  # the background is a new one


def test_the_correlation_is_one_for_maps_of_the_effects_and_zero_by_chance():
    regions = torch.zeros(4, 30, 6, 6, dtype=torch.bool)
    for region in range(4):
        regions[region, :, region, :3] = True
    effects = torch.randn(4, 30)
    maps = (regions * effects[:, :, None, None]).sum(0) / 3
    assert region_correlation(maps, regions, effects) == pytest.approx(1)
    assert region_correlation(-maps, regions, effects) == pytest.approx(-1)
    chance = [region_correlation(torch.randn(30, 6, 6), regions, effects) for _ in range(200)]
    assert sum(chance) / 200 == pytest.approx(0, abs=3 / math.sqrt(200 * 120))
    with pytest.raises(ValueError, match="empty region"):
        region_correlation(maps, torch.cat([regions, regions[:1] & False]), torch.randn(5, 30))


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


def test_infidelity_is_zero_for_the_true_map_and_one_for_a_map_of_almost_zeros(case):
    model, images, maps, classes, black = case
    assert infidelity(model, images, maps, classes, black) < 1e-10
    assert infidelity(model, images, 1e-6 * maps, classes, black) == pytest.approx(1, abs=1e-4)
    assert infidelity(model, images, 3 * maps, classes, black) == pytest.approx(4, rel=1e-5)  # (3 - 1)²
    with pytest.raises(ValueError, match="no window changes any"):
        infidelity(model, images, maps, classes, images.clone())


def test_the_scale_of_the_logits_changes_no_measure(case):
    _, images, _, classes, black = case
    weight = torch.randn(12, 12)
    maps = torch.rand(60, 12, 12)
    one, many = linear(weight.abs()), linear(weight.abs(), 7.0)
    assert abpc(many, images, 7 * maps, classes, black) == pytest.approx(abpc(one, images, maps, classes, black))
    assert infidelity(many, images, 7 * maps, classes, black) == pytest.approx(
        infidelity(one, images, maps, classes, black), rel=1e-5
    )
    assert torch.equal(effective_pixels(8 * maps), effective_pixels(maps))
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


def test_effective_pixels_of_known_maps():
    flat, point = torch.full((1, 4, 5), -0.2), torch.zeros(1, 4, 5)
    point[0, 1, 1] = -3.0
    half = torch.zeros(1, 4, 5)
    half[0, :2] = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    assert effective_pixels(torch.cat([flat, point, half])).tolist() == pytest.approx([20, 1, 10])


def test_agreement_of_a_map_with_itself_its_negative_and_hand_cases():
    maps = torch.randn(20, 10, 10)
    same, opposite = agreement(maps, maps), agreement(maps, -maps)
    assert [same[name] for name in ("cosine", "spearman", "overlap")] == pytest.approx([1, 1, 1])
    assert abs(same["cosine_mismatched"]) < 0.05
    assert [opposite[name] for name in ("cosine", "spearman", "overlap")] == pytest.approx([-1, 1, 0])
    other = torch.zeros(20, 100)
    one = other.clone()
    one[:, :10], other[:, 5:15] = 1.0, 1.0  # five of fifteen in common
    hand = agreement(one.view(20, 10, 10), other.view(20, 10, 10))
    assert hand["cosine"] == pytest.approx(0.5)
    assert hand["overlap"] == pytest.approx(5 / 15)


def test_agreement_of_independent_maps_is_that_of_mismatched_ones():
    shared = 2 * torch.randn(10, 10)  # what every map shows, whatever the image
    maps, others = (torch.randn(300, 10, 10) + shared for _ in range(2))
    found = agreement(maps, others)
    for name in ("cosine", "spearman", "overlap"):
        assert found[name] == pytest.approx(found[f"{name}_mismatched"], abs=0.02)
    assert found["cosine"] > 0.6  # similar maps, although they do not agree about single images


@pytest.mark.parametrize(("spoil", "message"), [(0.0, "map 7 is zero everywhere"), (torch.nan, "maps contains NaN")])
def test_maps_of_zeros_or_nan_are_refused(spoil, message, case):
    model, images, maps, classes, black = case
    maps = maps.clone()
    maps[7] = spoil
    regions, effects = torch.ones(2, 60, 12, 12, dtype=torch.bool), torch.randn(2, 60)
    for call in (
        lambda: region_correlation(maps, regions, effects),
        lambda: abpc(model, images, maps, classes, black),
        lambda: infidelity(model, images, maps, classes, black),
        lambda: effective_pixels(maps),
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
        effective_pixels(torch.rand(3, 4))
    with pytest.raises(ValueError, match="empty concept"):
        dissection(Units(), torch.rand(2, 1, 8, 8), torch.zeros(1, 2, 8, 8, dtype=torch.bool), layer="layer")


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
