"""Laws that losses, measures, keys, images and trees keep whatever they are given, on generated arguments."""

import math

import pytest
import torch
from generated import (
    JSON, RECORDS, Draw, a_cart, a_hard_tree, a_network, a_tree, an_augmentation, every_class, factors,
    feature_maps, folder, group_weights, images_for, leaves_of_a_batch, located, logit_pair, seeds_of, share,
    some_tensors,
)  # fmt: skip
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.testing import assert_close

from distill_utils import (
    _store,
    augment,
    data,
    evaluation,
    feature_losses,
    glyphs,
    hard_tree,
    losses,
    recipes,
    soft_tree,
    stateless_random,
    stats,
    training,
)
from distill_utils.explain import metrics


def close(one, other, slack=1e-4):
    assert_close(torch.as_tensor(one), torch.as_tensor(other), atol=slack, rtol=slack, check_dtype=False)


def labelled(d):
    return {"labels": d.labels()}


# Every loss on logits, with what it takes besides.
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
def test_the_order_of_classes_changes_no_loss(loss, source):
    d = Draw(source.draw)
    found = drawn(loss, d)
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
def test_of_equal_logits_nothing_is_left_to_learn_from_the_teacher(loss, source):
    d = Draw(source.draw)
    d.sizes["N"] = d.whole(2, 6)  # one image alone correlates with nothing
    found = drawn(loss, d)
    found["student_logits"] = found["teacher_logits"].clone().requires_grad_()
    found["teacher_logits"] = found["teacher_logits"].requires_grad_()
    if "alpha" in found:
        found["alpha"] = 1.0
    if loss is losses.dist_loss:  # what does not vary correlates with nothing, as its docstring says
        p = torch.softmax(found["teacher_logits"].detach() / found["temperature"], 1)
        assume(min(p.std(0).min(), p.std(1).min()) > 1e-6)
    value = loss(**found)
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-9 * found["temperature"] ** 2)
    close(found["student_logits"].grad, torch.zeros(d.shape("NC")), 1e-6)
    assert found["teacher_logits"].grad is None


@given(source=st.data())
def test_the_factor_of_the_temperature_makes_the_gradient_t_times_the_difference_of_probabilities(source):
    d = Draw(source.draw)
    found = drawn(losses.soft_target_loss, d)
    z, teacher, t = found["student_logits"].requires_grad_(), found["teacher_logits"], found["temperature"]
    losses.soft_target_loss(z, teacher, t).backward()
    close(z.grad, t * ((z / t).softmax(1) - (teacher / t).softmax(1)).detach() / len(z), 1e-9)


@given(source=st.data())
def test_groups_part_the_soft_target_loss_and_add_nothing(source):
    d = Draw(source.draw)
    found = drawn(losses.group_kd_loss, d) | {"between": 1.0, "within": 1.0, "decoupled": False}
    whole = losses.soft_target_loss(found["student_logits"], found["teacher_logits"], found["temperature"])
    close(losses.group_kd_loss(**found), whole, 1e-8)


@given(source=st.data())
def test_features_that_agree_have_no_loss(source):
    d = Draw(source.draw)
    maps, rows = d.floats("NDHW", scales=(1.0, 30.0)), d.floats("ND", scales=(1.0, 30.0))
    close(feature_losses.attention_transfer_loss(maps, -3 * maps), 0.0, 1e-6)
    close(feature_losses.rkd_angle_loss(2 * rows + 1, rows), 0.0, 1e-3)
    if len(rows) > 1:
        close(feature_losses.rkd_distance_loss(-2 * rows, rows), 0.0, 1e-3)
    pair = feature_maps(d)
    order = torch.randperm(d.size("N"), generator=d.generator())
    moved = {name: value[order] for name, value in pair.items()}
    close(feature_losses.attention_transfer_loss(**moved), feature_losses.attention_transfer_loss(**pair))


# Measures


@given(source=st.data())
def test_measures_of_a_classifier_fit_each_other(source):
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
    on_edge = float(((places - places.round()).abs() < 1e-4).float().mean())  # may lie in either of two bins
    assert scores["ece"] == pytest.approx(gap, abs=1e-5 + 2 * on_edge)
    assert evaluation.compare(outputs, outputs) == pytest.approx({"agreement": 1.0, "kl": 0.0}, abs=1e-5)


@given(source=st.data())
def test_intervals_follow_their_values(source):
    d = Draw(source.draw)
    values, by, times = d.values(2), d.number(-1e3, 1e3), d.number(0.1, 10)
    found, moved = stats.t_interval(values), stats.t_interval([times * value + by for value in values])
    assert moved[:3] == pytest.approx([times * part + by for part in found[:3]], rel=1e-6, abs=1e-3)
    assert found.low <= stats.t_interval(values, level=0.5).low <= found.mean


@given(source=st.data())
def test_what_improves_one_way_round_worsens_the_other(source):
    d = Draw(source.draw)
    pair, smallest = seeds_of(d), d.number(1e-3, 1e3)
    there = stats.verdict(pair["treated"], pair["control"], smallest)
    back = stats.verdict(pair["control"], pair["treated"], smallest)
    assert back == there.replace("improves", "_").replace("worsens", "improves").replace("_", "worsens")
    lower = stats.verdict(pair["treated"], pair["control"], smallest, higher_is_better=False)
    assert lower == back


@given(source=st.data())
def test_holm_keeps_the_order_of_claims(source):
    d = Draw(source.draw)
    p = torch.tensor(d.draw(st.lists(st.floats(0, 1), min_size=1, max_size=6)), dtype=torch.float64)
    order = torch.randperm(len(p), generator=d.generator())
    found = torch.tensor(stats.holm(p), dtype=torch.float64)
    assert torch.equal(torch.tensor(stats.holm(p[order]), dtype=torch.float64), found[order])
    assert bool((found[p.argsort()].diff() >= 0).all())
    assert bool((found <= (p * len(p)).clamp(max=1) + 1e-12).all())  # never worse than Bonferroni


@given(source=st.data())
def test_localisation_knows_order_and_no_scale(source):
    d = Draw(source.draw)
    found = located(d)
    maps, masks = found["maps"].double(), found["masks"]
    for measure in (metrics.relevance_mass, metrics.relevance_rank, metrics.pointing_game,
                    metrics.auroc):  # fmt: skip
        close(measure(2.0 * maps, masks), measure(maps, masks), 1e-9)
        close(measure(masks.double(), masks), torch.ones(len(maps)), 1e-9)
    close(metrics.auroc(-maps, masks), 1 - metrics.auroc(maps, masks), 1e-9)
    close(metrics.entropy(-2.0 * maps), metrics.entropy(maps), 1e-9)
    assert bool((metrics.effective_pixels(maps) <= maps[0].numel() + 1e-6).all())


# Keys and files


def _reordered(value):
    if isinstance(value, dict):
        return {name: _reordered(value[name]) for name in reversed(value)}
    return [_reordered(part) for part in value] if isinstance(value, list) else value


@given(one=RECORDS, other=RECORDS, name=st.text(max_size=4), value=JSON)
def test_keys_are_equal_exactly_where_their_fields_are(one, other, name, value):
    assert _store.digest(_reordered(one)) == _store.digest(one)
    changed = one | {name: value}
    for compared in (other, changed):
        assert (_store.digest(compared) == _store.digest(one)) == (_store._json(compared, sort_keys=True)
                                                                 == _store._json(one, sort_keys=True))  # fmt: skip
    assert _store.differing(one, one) == ""
    if name not in one:
        assert name in _store.differing(one, changed)


@given(source=st.data())
def test_a_checksum_sees_every_name_type_shape_and_byte(source):
    d = Draw(source.draw)
    found = some_tensors(d)
    whole = _store.checksum(found, "text")
    assert _store.checksum(dict(reversed(found.items())), "text") == whole
    assert _store.checksum(found, "Text") != whole
    for name, tensor in found.items():
        others = {key: value for key, value in found.items() if key != name}
        changed = [others, others | {f"{name}'": tensor}, others | {name: tensor[None]}]
        if tensor.numel():
            flipped = tensor.clone().reshape(-1)
            flipped.view(torch.uint8)[d.whole(0, flipped.view(torch.uint8).numel() - 1)] ^= 1
            changed.append(others | {name: flipped.view(tensor.shape)})
        assert all(_store.checksum(other, "text") != whole for other in changed)


@given(source=st.data())
def test_a_cache_holds_what_the_teacher_says_of_each_image_wherever_it_stands(source, monkeypatch):
    d = Draw(source.draw)
    monkeypatch.setenv("DISTILL_RUNS", str(folder()))
    teacher, images = a_network(d), images_for(d)
    order = torch.randperm(len(images), generator=d.generator())
    (there,) = recipes.record(teacher, images, quiet=True)
    (moved,) = recipes.record(teacher, images[order], quiet=True)
    close(there.float(), training.logits(teacher, images), 2**-7)
    close(moved.float(), there[order].float(), 2**-7)
    brighter = images.clone()
    brighter[0, 0, 0, 0] += 0.25
    kept = len(list(_store.settings.runs_folder().glob("*.safetensors")))
    recipes.record(teacher, brighter, quiet=True)
    assert len(list(_store.settings.runs_folder().glob("*.safetensors"))) == kept + 1


# Images


@given(source=st.data())
def test_a_draw_does_not_depend_on_the_batch_it_stands_in(source):
    d = Draw(source.draw)
    seed, stream, index, count = d.whole(-(2**70), 2**70), d.word(), d.longs("N", 2**62), d.whole(1, 9)
    place = d.whole(0, len(index) - 1)
    for numbers in (stateless_random.uniform, stateless_random.normal):
        whole = numbers(seed, stream, index, count)
        assert torch.equal(numbers(seed, stream, index[place : place + 1], count)[0], whole[place])
        assert torch.equal(numbers(seed, stream, index, count + 3)[:, :count], whole)
        assert not torch.equal(numbers(seed + 1, stream, index, 9), numbers(seed, stream, index, 9))
        assert not torch.equal(numbers(seed, stream + "'", index, 9), numbers(seed, stream, index, 9))


@given(source=st.data())
def test_a_view_does_not_depend_on_the_batch_its_image_stands_in(source):
    d = Draw(source.draw)
    images, index, view = images_for(d), d.longs("N", 2**62), d.whole(0, 10**6)
    how, place = an_augmentation(d), d.whole(0, len(index) - 1)
    whole = augment.augment(images, index, view, how)
    alone = augment.augment(images[place : place + 1], index[place : place + 1], view, how)
    close(alone[0], whole[place], 1e-4)
    assert torch.equal(augment.augment(images, index, view, augment.NONE), images)
    grey = torch.full_like(images, 0.5)
    close(augment.augment(grey, index, view, how), grey, 1e-5)


@given(source=st.data())
def test_a_part_rendered_away_changes_its_own_pixels_alone(source):
    d = Draw(source.draw)
    found, part = factors(d), d.one("object", "distractor", "cue")
    images, masks = glyphs.render(found)
    changed = glyphs.render(glyphs.without(found, part))[0]
    behind = masks[part] | masks["object"] | (masks["distractor"] if part == "cue" else False)
    assert torch.equal(changed[:, 0][~behind], images[:, 0][~behind])
    first = {name: values[:1] for name, values in found.items()}
    assert torch.equal(glyphs.render(first)[0][0], images[0])


@given(source=st.data())
def test_sets_are_joined_and_parted_without_loss(source):
    d = Draw(source.draw)
    one, other = (data.ImageSet(images_for(d), d.labels(), {"object": d.masks("NHW")}) for _ in range(2))
    both, count = one + other, len(one)
    assert len(both) == count + len(other)
    again = both.subset(torch.arange(count, len(both)))
    assert torch.equal(again.images, other.images)
    assert torch.equal(again.labels, other.labels)
    assert torch.equal(again.masks["object"], other.masks["object"])
    assert (one + data.ImageSet(other.images, other.labels)).masks is None
    made = data.ImageData("x", one, other, one, one, ("a", "b"))
    brighter = one.images.clone()
    brighter[0, 0, 0, 0] = 1 - brighter[0, 0, 0, 0].round()
    relabelled = data.ImageSet(one.images, one.labels + 1)
    for changed in (data.ImageSet(brighter, one.labels), relabelled):
        assert data.ImageData("x", changed, other, one, one, ("a", "b")).fingerprint != made.fingerprint


# Trees


@given(source=st.data())
def test_a_soft_tree_spends_its_whole_mass_and_bigots_pay_no_less(source):
    d = Draw(source.draw)
    tree, images = a_tree(d), images_for(d)
    with torch.no_grad():
        paths = tree.log_paths(images).exp()
        close(paths[:, 7:].sum(1), torch.ones(len(images)))
        close(paths[:, 1:7:2] + paths[:, 2:7:2], paths[:, :3])  # what reaches a gate goes to either side
        close(tree(images).exp().sum(1), torch.ones(len(images)))
    found, targets = leaves_of_a_batch(d), d.distributions("NC")
    bigot, mixed = soft_tree.bigot_loss(**found, targets=targets), soft_tree.mixture_loss(**found, targets=targets)
    assert bigot >= mixed - 1e-4 * (1 + abs(mixed))
    assert soft_tree.balance_penalty(d.shares("7")) >= 3 * math.log(2) - 1e-5


@given(source=st.data())
def test_a_hard_tree_says_what_it_was_made_from_says(source):
    d = Draw(source.draw)
    fitted, images = a_cart(d), d.shares("ND")
    tree = hard_tree.from_cart(fitted, logits=True)
    close(tree(images), torch.from_numpy(fitted.predict(images.numpy()).reshape(len(images), -1)), 1e-5)
    soft, seen = a_tree(d), images_for(d)
    with torch.no_grad():
        soft.gates.weight *= 1e4  # so sure that the most likely path is the path
        said = hard_tree.harden(soft, seen, least=0.0, cut=0.0)(seen)
        close(said, soft.path_logits(seen))


@given(source=st.data())
def test_the_nearest_change_is_one_that_the_tree_answers_to(source):
    d = Draw(source.draw)
    tree, image = a_hard_tree(d), d.floats("D", scales=(1.0, 30.0))
    found = hard_tree.explain(tree, image)
    assert found.answer == int(tree(image[None]).argmax())
    if found.nearest is not None:
        assert int(tree((image + found.nearest)[None]).argmax()) == found.other != found.answer
