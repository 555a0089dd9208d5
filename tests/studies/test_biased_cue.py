"""The study of the biased cue: its images, its targets, and what a run measures."""

import pytest
import torch

from distill_utils import data, recipes, studies
from distill_utils.studies import biased_cue
from distill_utils.studies.biased_cue import permuted, smoothed
from distill_utils.training import Schedule


@pytest.fixture
def small(monkeypatch):
    """The study's machinery with networks that are trained for forty steps on few images."""
    monkeypatch.setattr(biased_cue, "STUDENT", Schedule(steps=40, batch_size=32))
    monkeypatch.setattr(biased_cue, "TEACHER", Schedule(steps=20, batch_size=32, views=9))
    for part, size in {"train": 108, "transfer": 36, "validation": 108, "test": 144}.items():
        monkeypatch.setitem(data._BIASED_SIZES, part, size)
    recipes._dataset.cache_clear()
    yield
    recipes._dataset.cache_clear()


def test_images_with_a_false_cue_are_the_same_but_for_the_corner(small):
    biased = recipes.dataset("glyphs_biased", 0).test
    conflict = biased_cue.with_false_cue(biased)
    assert torch.equal(biased.labels, conflict.labels)
    assert not bool((conflict.factors["cue"] == conflict.labels).any())
    assert (biased.factors["cue"] == biased.labels).float().mean() > 0.85
    assert torch.equal(biased.images[:, 0][~biased.masks["cue"]], conflict.images[:, 0][~biased.masks["cue"]])


def test_every_part_of_the_explained_images_can_be_seen(small):
    shown = biased_cue.explained(recipes.dataset("glyphs_biased", 0).test, 20)
    assert len(shown) == 20
    assert all(bool(mask.flatten(1).any(1).all()) for mask in shown.masks.values())


def test_permuted_targets_keep_the_preferred_class_and_the_softness_and_lose_the_likeness():
    targets = 4 * torch.randn(50, 9)
    mixed = permuted(targets, 3)
    assert torch.equal(mixed.sort(1).values, targets.sort(1).values)
    assert torch.equal(mixed.argmax(1), targets.argmax(1))
    assert torch.equal(mixed, permuted(targets, 3))
    assert not torch.equal(mixed, permuted(targets, 4))
    places = torch.stack([permuted(targets[:1].expand(200, 9), 0)[:, k] for k in range(9)])
    others = targets[0].argsort(descending=True)[1:]
    assert places[others].std() > 0.5  # each image its own order


def test_smoothed_targets_are_the_labels_with_the_mean_entropy_of_the_teachers():
    targets, labels = 12 * torch.randn(200, 36), torch.arange(200) % 36
    soft = (smoothed(targets, labels) / biased_cue.TEMPERATURE).softmax(1)
    wanted = torch.special.entr((targets / biased_cue.TEMPERATURE).softmax(1)).sum(1).mean()
    assert torch.equal(soft.argmax(1), labels)
    torch.testing.assert_close(torch.special.entr(soft).sum(1), wanted.expand(200), rtol=1e-4, atol=0)
    assert (soft.sort(1).values[:, :-1].std(1) < 1e-6).all()


@pytest.mark.parametrize("arm", [{"method": "untrained"}, {"method": "e2kd", "of": "biased"}])
def test_a_run_measures_what_the_committed_results_hold(arm, small):
    measured = biased_cue.run(arm, 0, "glyphs")
    committed = studies.results("biased_cue", "glyphs")
    assert set(measured) == set(committed["runs"][0]["metrics"])
    assert all(0 <= value <= 1 for value in measured.values())


def test_the_committed_verdicts_follow_from_the_committed_runs():
    committed = studies.results("biased_cue", "glyphs")
    assert studies.verdicts(biased_cue.claims("glyphs"), committed["runs"]) == committed["verdicts"]
