"""The study of readable students: its arms and claims fit together, and what it makes can be read back."""

import json

import pytest
import torch
from torch.testing import assert_close

from distill_utils import recipes
from distill_utils.hard_tree import HardTree
from distill_utils.studies import readable_student as study


def text(arm):
    return json.dumps(arm, sort_keys=True)


@pytest.mark.parametrize("dataset", study.STUDY.datasets)
def test_every_claim_compares_two_different_arms_seed_by_seed(dataset):
    arms = study.arms(dataset)

    class Metrics(dict):
        def __missing__(self, name):
            return self["value"]

    class Picked(tuple):
        def __sub__(self, other):  # two metrics of one run
            assert self == other
            return self

    # A run's metric is the number of its arm, so what a claim picks says which arm it picked.
    runs = [
        {"arm": arm, "seed": seed, "metrics": Metrics(value=Picked((number, seed)))}
        for seed in (1, 0)
        for number, arm in enumerate(arms)
    ]
    compared = set()
    for claim in study.claims(dataset):
        pair = []
        for pick in (claim.treated, claim.control):
            picked = pick(runs)
            assert [seed for _, seed in picked] == [0, 1], claim.name
            assert len({number for number, _ in picked}) == 1, claim.name
            pair.append(picked[0][0])
        assert pair[0] != pair[1], claim.name
        compared |= set(pair)
    everything = {i for i, arm in enumerate(arms) if arm.get("tree") != "teacher" and "model" not in arm}
    assert everything <= compared, "an arm that no claim looks at"


@pytest.fixture
def quick(monkeypatch):
    """The study on digits with a few steps."""
    short = study.Schedule(steps=5)
    few = study.replace(study._SETTINGS["digits"], views=1, teacher=short, labels=short, distilled=short)
    monkeypatch.setitem(study._SETTINGS, "digits", few)


@pytest.mark.filterwarnings("ignore:a tree of depth 3")  # too shallow on purpose: the study asks what depth costs
def test_a_run_measures_every_kind_of_arm(quick):
    distilled = {"tree": "soft", "depth": 3, "target": "distilled"}
    rows = {
        text(arm): study.run(arm, 0, "digits")
        for arm in ({"tree": "teacher"}, distilled, {"tree": "cart", "depth": 3, "target": "distilled"})
    }
    for metrics in rows.values():
        assert 0 <= metrics["test_accuracy"] <= 1
        assert all(isinstance(value, int | float) for value in metrics.values())
    assert rows[text(distilled)]["depth"] <= 3
    again = recipes.load_or_train(study.recipe(distilled, 0, "digits"), quiet=True).model
    assert again.reached[0] > 0, "what was kept was trained"


def test_carts_are_kept_whole_at_every_depth(quick):
    grown, kept = study.carts("labels", 0, "digits"), study.carts("labels", 0, "digits")
    images = recipes.dataset("digits", 0).test.images
    for depth in study.DEPTHS:
        assert isinstance(kept[depth], HardTree)
        assert_close(kept[depth](images), grown[depth](images))
        assert max(map(len, kept[depth].paths())) == depth
    accuracy = [
        float((kept[d](images).argmax(1) == recipes.dataset("digits", 0).test.labels).float().mean())
        for d in study.DEPTHS
    ]
    assert accuracy[0] < accuracy[2] < accuracy[-1]
    assert torch.equal(kept[3].weights.sum(1), torch.ones(7)), "one pixel a gate"
