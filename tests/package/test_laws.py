"""Laws of losses, measures and statistics on generated arguments; other laws are in the tests of their module."""

import pytest
import torch
from generated import Draw, every_class, group_weights, located, logit_pair, seeds_of, share
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.testing import assert_close

from distill_utils import evaluation, losses, stats
from distill_utils.explain import metrics


def close(one, other, slack=1e-4):
    assert_close(torch.as_tensor(one), torch.as_tensor(other), atol=slack, rtol=slack, check_dtype=False)


def labelled(d):
    return {"labels": d.labels()}


# Every loss on logits, and its arguments.
LOSSES = {
    losses.hard_label_loss: lambda d: {"student_logits": d.floats("NC"), **labelled(d), "smoothing": share(d, 0)},
    losses.soft_target_loss: logit_pair,
    losses.distillation_loss: lambda d: logit_pair(d) | labelled(d) | {"alpha": share(d, 0)},
    losses.group_kd_loss: group_weights,
    losses.dkd_loss: lambda d: logit_pair(d) | labelled(d),
    losses.logit_standardised_loss: logit_pair,
    losses.dist_loss: logit_pair,
}
OF_LOSSES = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def drawn(loss, d):
    """Arguments in float64 and with logits of moderate size, so that a law shows to within rounding."""
    found = LOSSES[loss](d)
    d.sizes.setdefault("C", found["student_logits"].shape[1])
    for name in ("student_logits", "teacher_logits"):
        if name in found:
            found[name] = d.one(0.5, 5.0) * torch.randn(d.shape("NC"), generator=d.generator(), dtype=torch.float64)
    return found


# Losses


@OF_LOSSES
@given(source=st.data())
def test_a_constant_added_to_a_row_of_logits_changes_no_loss(loss, source):
    d = Draw(source.draw)
    found = drawn(loss, d)
    moved = {name: value + 3 * d.floats("N", scales=(1.0,))[:, None] if name.endswith("_logits") else value
             for name, value in found.items()}  # fmt: skip
    close(loss(**moved), loss(**found), 1e-6)


@OF_LOSSES
@given(source=st.data())
def test_the_order_of_classes_changes_no_loss_and_none_is_negative(loss, source):
    d = Draw(source.draw)
    found = drawn(loss, d)
    assert loss(**found) >= -1e-12
    order = torch.randperm(d.size("C"), generator=d.generator())
    moved = dict(found)
    for name, value in found.items():
        if name == "labels":
            moved[name] = order.argsort()[value]
        elif name.endswith("_logits") or name == "groups":
            moved[name] = value[..., order]
    close(loss(**moved), loss(**found), 1e-8)


@OF_LOSSES
@given(source=st.data())
def test_the_order_of_the_batch_changes_no_loss(loss, source):
    d = Draw(source.draw)
    found = drawn(loss, d)
    order = torch.randperm(d.size("N"), generator=d.generator())
    by_image = ("student_logits", "teacher_logits", "labels")
    moved = {name: value[order] if name in by_image or (name == "groups" and value.ndim == 2) else value
             for name, value in found.items()}  # fmt: skip
    close(loss(**moved), loss(**found), 1e-8)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss is not losses.hard_label_loss],
                         ids=lambda loss: loss.__name__)  # fmt: skip
@given(source=st.data())
def test_equal_logits_have_no_loss_and_no_gradient(loss, source):
    d = Draw(source.draw)
    d.sizes["N"] = d.whole(2, 6)
    found = drawn(loss, d)
    found["student_logits"] = found["teacher_logits"].clone().requires_grad_()
    found["teacher_logits"] = found["teacher_logits"].requires_grad_()
    if "alpha" in found:
        found["alpha"] = 1.0
    if loss is losses.dist_loss:  # a constant row or column has correlation 0, even with itself
        p = torch.softmax(found["teacher_logits"].detach() / found["temperature"], 1)
        assume(min(p.std(0).min(), p.std(1).min()) > 1e-6)
    value = loss(**found)
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-9 * found["temperature"] ** 2)
    close(found["student_logits"].grad, torch.zeros(d.shape("NC")), 1e-6)
    assert found["teacher_logits"].grad is None


# Measures


@given(source=st.data())
def test_measures_of_a_classifier_agree_with_each_other(source):
    d = Draw(source.draw)
    found = every_class(d)
    outputs, labels = found["outputs"], found["labels"]
    order = torch.randperm(len(labels), generator=d.generator())
    scores, counts = evaluation.score(outputs, labels), evaluation.confusions(outputs, labels)
    assert scores == pytest.approx(evaluation.score(outputs[order], labels[order]), rel=1e-4, abs=1e-6)
    assert scores["accuracy"] == pytest.approx(float(counts.diag().sum()) / len(labels))
    assert torch.equal(counts.sum(1), labels.bincount(minlength=outputs.shape[1]))
    diagram = evaluation.reliability(outputs, labels)
    assert float((diagram["share"] * diagram["accuracy"]).sum()) == pytest.approx(scores["accuracy"], abs=1e-6)
    gap = float((diagram["share"] * (diagram["accuracy"] - diagram["confidence"]).abs()).sum())
    places = 15 * outputs.softmax(1).max(1).values
    on_edge = float(((places - places.round()).abs() < 1e-4).float().mean())  # rounding decides the bin
    assert scores["ece"] == pytest.approx(gap, abs=1e-5 + 2 * on_edge)
    assert evaluation.compare(outputs, outputs) == pytest.approx({"agreement": 1.0, "kl": 0.0}, abs=1e-5)


@given(source=st.data())
def test_intervals_shift_and_scale_with_their_values(source):
    d = Draw(source.draw)
    values, by, times = d.values(2), d.number(-1e3, 1e3), d.number(0.1, 10)
    found, moved = stats.t_interval(values), stats.t_interval([times * value + by for value in values])
    assert moved[:3] == pytest.approx([times * part + by for part in found[:3]], rel=1e-6, abs=1e-3)
    assert found.low <= stats.t_interval(values, level=0.5).low <= found.mean


@given(source=st.data())
def test_exchanging_the_arms_exchanges_improves_and_worsens(source):
    d = Draw(source.draw)
    pair, smallest = seeds_of(d), d.number(1e-3, 1e3)
    there = stats.verdict(pair["treated"], pair["control"], smallest)
    back = stats.verdict(pair["control"], pair["treated"], smallest)
    assert back == there.replace("improves", "_").replace("worsens", "improves").replace("_", "worsens")
    lower = stats.verdict(pair["treated"], pair["control"], smallest, higher_is_better=False)
    assert lower == back


@given(source=st.data())
def test_the_scale_of_maps_changes_no_localisation_score(source):
    d = Draw(source.draw)
    found = located(d)
    maps, masks = found["maps"].double(), found["masks"]
    close(metrics.relevance_mass(2.0 * maps, masks), metrics.relevance_mass(maps, masks), 1e-9)
    close(metrics.relevance_mass(masks.double(), masks), torch.ones(len(maps)), 1e-9)
