"""The study of techniques: every technique learns, none touches the teacher, and what equals plain does so."""

from dataclasses import replace

import pytest
import torch

from distill_utils import data, losses, recipes, training
from distill_utils.data import ImageData, ImageSet
from distill_utils.studies import techniques
from distill_utils.studies.techniques import PLAIN, TECHNIQUES
from distill_utils.training import Batch, Schedule


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """The dataset "toy": forty images of 12×12 pixels and four classes; its teacher is hardly trained."""
    random = torch.Generator().manual_seed(1)
    labels = torch.arange(40) % 4
    images = 0.7 * torch.rand(4, 1, 12, 12, generator=random)[labels] + 0.3 * torch.rand(
        40, 1, 12, 12, generator=random
    )
    part = ImageSet(images, labels)
    monkeypatch.setitem(data.DATASETS, "toy", lambda *_: ImageData("toy", part, part, part, part, tuple("abcd")))
    short = Schedule(steps=30, batch_size=20, lr=1e-2)
    monkeypatch.setattr(recipes, "TEACHER", replace(recipes.TEACHER, options={"width": 9}, schedule=short))
    recipes._dataset.cache_clear()
    yield
    recipes._dataset.cache_clear()


def recipe(name, setting, seed=0, steps=40):
    schedule = Schedule(steps=steps, batch_size=20, lr=1e-2)
    return replace(techniques.recipe(name, setting, seed, "toy"), schedule=schedule)


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_technique_lowers_its_own_loss_and_leaves_the_teacher_alone(name):
    chosen = recipe(name, TECHNIQUES[name][1])
    given = recipes.ingredients(chosen, quiet=True)
    teacher = given["loss"].keywords.get("teacher")
    before = {key: value.clone() for key, value in teacher.state_dict().items()} if teacher else {}
    network = recipes.untrained(chosen, quiet=True)
    history = training.fit(network, **given)
    assert history["loss"][-1] < history["loss"][0]
    assert network(given["train"].images).shape == (40, 4)
    assert all(torch.equal(teacher.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", ["FitNets hint", "attention transfer", "RKD", "look-alike groups"])
def test_with_no_weight_a_technique_is_what_it_adds_to(name):
    option = next(iter(TECHNIQUES[name][0]))
    chosen = recipe(name, {option: 1.0 if name == "look-alike groups" else 0.0})
    given = recipes.ingredients(chosen, quiet=True)
    network, train = recipes.untrained(chosen, quiet=True), given["train"]
    batch = Batch(train.images, train.labels, torch.arange(40), given["teacher"][0].float(), 0.5)
    loss, _ = given["loss"](network, batch)
    plain = losses.soft_target_loss(network(batch.images), batch.teacher_logits, techniques.TEMPERATURE)
    torch.testing.assert_close(loss, plain, rtol=1e-4, atol=1e-5)


def test_every_technique_has_as_many_settings_and_all_but_plain_are_judged():
    assert {len(settings) for settings in TECHNIQUES.values()} == {3}
    claims = techniques.claims("glyphs")
    assert [claim.name.removesuffix(" against plain distillation") for claim in claims] == [
        name for name in TECHNIQUES if name != PLAIN
    ]
    runs = [
        {"arm": arm, "seed": seed, "metrics": {"test_accuracy": place + seed / 10}}
        for place, arm in enumerate(techniques.arms("glyphs"))
        for seed in (1, 0)
    ]
    plain = 1.0 + list(TECHNIQUES).index(PLAIN)
    for claim in claims:
        assert claim.control(runs) == [plain, plain + 0.1]
        assert claim.treated(runs) != claim.control(runs)


def test_all_start_from_one_student():
    first = [recipes.untrained(recipe(name, {}, seed=3), quiet=True) for name in (PLAIN, "DKD", "RKD")]
    hinted = recipes.untrained(recipe("FitNets hint", {}, seed=3), quiet=True).student
    for network in [*first[1:], hinted]:
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), first[0].parameters(), strict=True))
