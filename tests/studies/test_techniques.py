"""The study of techniques: every technique learns, none touches the teacher, and what equals plain does so."""

import pytest
import torch

from distill_utils import losses, models
from distill_utils.studies import techniques
from distill_utils.data import ImageData, ImageSet
from distill_utils.studies.techniques import PLAIN, TECHNIQUES, Around
from distill_utils.training import Batch, Schedule


@pytest.fixture
def about():
    """Forty images of 12×12 pixels and four classes, with a teacher of width 9 that was not trained."""
    random = torch.Generator().manual_seed(1)
    labels = torch.arange(40) % 4
    images = 0.7 * torch.rand(4, 1, 12, 12, generator=random)[labels] + 0.3 * torch.rand(
        40, 1, 12, 12, generator=random
    )
    part = ImageSet(images, labels)
    teacher = models.build("teacher", 4, 1, width=9).eval()
    with torch.no_grad():
        recorded = [10 * teacher(images)]
    data = ImageData("toy", part, part, part, part, tuple("abcd"))
    return Around(data, teacher, recorded, torch.tensor([0, 0, 1, 1]))


def batch_of(about, done=0.5):
    everyone = torch.arange(40)
    return Batch(about.data.train.images, about.data.train.labels, everyone, about.recorded[0], done)


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_technique_lowers_its_own_loss_and_leaves_the_teacher_alone(name, about):
    network = techniques._untrained(name, 0, about)
    before = {key: value.clone() for key, value in about.teacher.state_dict().items()}
    setting = TECHNIQUES[name].settings[1]
    schedule = Schedule(steps=40, batch_size=20, lr=1e-2)
    history = techniques._fit(network, name, setting, 0, about, schedule)
    assert history["loss"][-1] < history["loss"][0]
    assert network(about.data.train.images).shape == (40, 4)
    assert all(torch.equal(value, before[key]) for key, value in about.teacher.state_dict().items())


@pytest.mark.parametrize("name", ["FitNets hint", "attention transfer", "RKD", "look-alike groups"])
def test_with_no_weight_a_technique_is_what_it_adds_to(name, about):
    network, batch = techniques._untrained(name, 0, about), batch_of(about)
    setting = {next(iter(TECHNIQUES[name].settings[0])): 0.0 if name != "look-alike groups" else 1.0}
    loss = TECHNIQUES[name].loss(network, batch, about, **setting)
    plain = losses.soft_target_loss(network(batch.images), batch.teacher_logits, techniques.TEMPERATURE)
    torch.testing.assert_close(loss, plain, rtol=1e-4, atol=1e-5)


def test_every_technique_has_as_many_settings_and_all_but_plain_are_judged():
    assert {len(technique.settings) for technique in TECHNIQUES.values()} == {3}
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


def test_all_start_from_one_student(about):
    first = [techniques._untrained(name, 3, about) for name in (PLAIN, "DKD", "RKD")]
    hinted = techniques._untrained("FitNets hint", 3, about).student
    for network in [*first[1:], hinted]:
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), first[0].parameters(), strict=True))
