"""Every public function of the modules below, on generated arguments: right ones give what its docstring says, and
spoiled ones give that too or a documented error in one sentence. make properties draws 1,000 cases for each function.
"""

import functools
import inspect
import math
import tempfile
from pathlib import Path

import generated
import pytest
import torch
from generated import Draw, called, finite, moderate, spoiled, tensors_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from distill_utils import _store, augment, data, evaluation, explain, feature_losses, glyphs, hard_tree, losses, models, recipes, soft_tree, stateless_random, stats
from distill_utils.explain import metrics
from distill_utils.training import Batch

MODULES = (losses, features, evaluation, stats, localisation, explanation_metrics, store, teacher_cache, data, glyphs,
           counter, augment, soft_tree, readable)  # fmt: skip

# Left out: what functions return, which nobody else makes; a lock, and the words of the system.
WITHOUT = {"readable.Decision", "readable.Step", "stats.Interval", "store.locked", "store.plainly"}

# What may refuse even arguments of the right form, as its docstring says.
MAY_REFUSE = {"data.load", "explanation_metrics.abpc", "explanation_metrics.infidelity",
              "explanation_metrics.region_correlation"}  # fmt: skip


# Arguments


def pair(d):
    return {"student_logits": d.floats("NC"), "teacher_logits": d.floats("NC")}


def temperature(d):
    return d.one(0.1, 1.0, 2.5, 8.0, 100.0)


def logit_pair(d):
    return pair(d) | {"temperature": temperature(d)}


def grouped(d):
    d.sizes["G"] = min(d.size("G"), d.size("C"))
    groups = d.longs(d.one("C", "NC"), d.size("G"))
    return logit_pair(d) | {"groups": groups}


def group_weights(d):
    given = grouped(d)
    within = d.one(d.number(0, 5), d.shares("G"))
    given |= {"between": d.number(0, 5), "within": within, "decoupled": d.one(False, True)}
    given["groups"].view(-1)[0] = d.size("G") - 1  # as many groups as weights
    return given


def members(d):
    count = d.size("C")
    cut = d.whole(0, count - 1)
    order = torch.randperm(count, generator=d.generator()).tolist()
    return {"members": [order[:cut], order[cut:]], "num_classes": count}


@functools.cache
def network(name: str, num_classes: int, channels: int, width: int = 2) -> nn.Module:
    torch.manual_seed(width)
    options = {"blocks": 1} if name == "resnet" else {}
    return models.build(name, num_classes, channels, width=width, **options).eval()


def a_network(d, width=2):
    return network(d.one("student", "resnet"), d.size("C"), d.size("K"), width)


def two_networks(d):
    return {name: network("resnet", d.size("C"), d.size("K"), d.whole(2, 5)) for name in ("student", "teacher")}


def images_for(d):
    return d.shares("NKHW")


def feature_maps(d):
    return {"student_map": d.floats("NDHW"), "teacher_map": d.floats("NGHW")}


def a_simkd(d):
    return feature_losses.SimKD(a_network(d), a_network(d, 3))


def image_set(d):
    return data.ImageSet(images_for(d), d.labels())


def every_class(d):
    """Logits and labels in which no class is missing."""
    count = d.size("C")
    d.sizes["N"] = count + d.whole(0, 3)
    labels = torch.cat([torch.arange(count), torch.randint(count, (d.sizes["N"] - count,), generator=d.generator())])
    return {"outputs": d.floats("NC"), "labels": labels}


def seeds_of(d):
    count = d.whole(1, 6)
    return {"treated": d.values(count, count), "control": d.values(count, count)}


def share(d, low=0.01, high=0.99):
    return d.number(low, high)


def located(d):
    maps = d.floats("NHW")
    maps[:, 0, 0] += 1.5  # no map is zero everywhere
    return {"maps": maps, "masks": d.masks("NHW")}


def enough(d, few):
    d.sizes["N"] = few + d.whole(1, 3)
    return d


def some_map(d):
    return {"maps": located(d)["maps"]}


def explained(d):
    """What a measure of faithfulness takes."""
    model = a_network(d)
    images = images_for(d)
    return {"model": model, "images": images, "maps": some_map(d)["maps"], "classes": d.labels(),
            "infill": 1 - images}  # fmt: skip


def by_gradient(model, images, classes):
    """An explainer: gradient times image."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        score = explain.centred(model(images), classes).sum()
        (slope,) = torch.autograd.grad(score, images)
    maps = (slope * images).sum(1).detach() + 1e-6
    return explain.Attribution(maps, maps.sum((1, 2)), torch.zeros(len(maps)))


def factors(d, *, cue=True):
    look = glyphs.Look(cue=share(d) if cue else None, cue_size=d.whole(2, 6))
    index = torch.randint(10**6, (d.whole(1, 2),), generator=d.generator())
    return glyphs.sample(index, d.whole(0, 10**6), look)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e300, 1e300) | st.text(max_size=5),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=4), parts, max_size=3), max_leaves=6,
)  # fmt: skip
RECORDS = st.dictionaries(st.text(max_size=4), JSON, max_size=4)


def folder() -> Path:
    """A new one, within this test's own."""
    return Path(tempfile.mkdtemp(dir=_store.settings.runs_folder().parent))


def some_tensors(d):
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
    shapes = ((), (0,), (3,), (2, 3), (1, 2, 2))
    names = d.draw(st.lists(st.text(min_size=1, max_size=6), max_size=3, unique=True))
    return {name: (5 * torch.rand(d.one(*shapes), generator=d.generator())).to(d.one(*kinds)) for name in names}


def written_atomically(path):
    with _store.atomic(path) as temporary:
        temporary.write_text("whole", encoding="utf-8")
    return path.read_text(encoding="utf-8")


def made(kind, key, tensors):
    made_in = folder()
    first = _store.load_or_make(kind, key, lambda partial: (tensors, {"new": True}), made_in)
    again = _store.load_or_make(kind, key, None, made_in)
    assert _store.holds(kind, key, made_in)
    return [first[0], again[0]]


def loaded(content, at):
    """Of a whole file, or of one with another content from some place on."""
    path = folder() / "artifact.safetensors"
    _store.save(path, {"a": torch.arange(3), "b": torch.ones(2, 2)}, {"name": "value"})
    whole = path.read_bytes()
    at = int(min(max(at, 0), len(whole)))
    path.write_bytes((whole[:at] + content.encode())[: len(whole)] + whole[at + len(content.encode()) :])
    return _store.load(path)


def read_json(content):
    path = folder() / "record.json"
    path.write_bytes(content.encode("utf-8", "replace"))
    return _store.read_json(path)


def code_version(modules):
    return _store.code_version(*modules)


def a_tree(d):
    """A soft tree that counts as trained."""
    in_features = d.size("K") * d.size("H") * d.size("W")
    tree = soft_tree.SoftDecisionTree(in_features, d.size("C"), 3)
    tree.gates.weight.data = d.one(0.1, 3.0) * torch.randn(7, in_features, generator=d.generator())
    tree.reached += 1
    tree.went_right += 0.5
    return tree


def a_batch(d):
    return Batch(images_for(d), d.labels(), torch.arange(d.size("N")), d.floats("NC"), share(d, 0, 0.99))


def growing(d):
    return {"tree": a_tree(d), "batch": a_batch(d), "balance": share(d), "final_inverse_temperature": d.number(1, 4),
            "sparsity": share(d, 0), "smoothness": share(d, 0)}  # fmt: skip


def leaves_of_a_batch(d):
    return {"leaf_log_probabilities": d.floats("NL").log_softmax(1), "leaves": d.floats("LC")}


def tree_parts(d):
    """Three gates and four leaves."""
    return {"weights": d.floats("3D"), "biases": d.floats("3"), "below": torch.tensor([[1, 2], [-1, -2], [-3, -4]]),
            "leaves": d.floats("4C"), "nodes": torch.arange(3)}  # fmt: skip


def a_hard_tree(d):
    return hard_tree.HardTree(**tree_parts(d))


def a_cart(d):
    return hard_tree.cart(d.shares("ND"), d.distributions("NC"), d.whole(1, 3))


# What is right


def between(low, high=math.inf):
    """Finite, and every number between these, up to rounding."""

    def right(result, given):
        slack = 1e-4 * (1 + abs(low))
        return finite(result) and all(
            bool(((tensor >= low - slack) & (tensor <= high + slack)).all()) for tensor in tensors_of(result)
        )

    return right


def a_loss(result, given):
    """At least 0 up to rounding, whose size goes with that of logits and temperature. Of logits that are not finite,
    or next to it, a loss may be NaN, which is what training.fit notices."""
    if not moderate({name: value for name, value in given.items() if name != "self"}):
        return True
    size = max([1.0, *(float(tensor.double().abs().max()) for tensor in tensors_of(given) if tensor.numel())])
    rounding = 1e-2 if torch.float16 in {tensor.dtype for tensor in tensors_of(given)} else 1e-5
    return finite(result) and all(bool((tensor >= -rounding * size**3).all()) for tensor in tensors_of(result))


def a_loss_and_parts(result, given):
    return a_loss(result[0], {name: value for name, value in given.items() if name != "tree"})


def anything(result, given):
    return True


def finite_result(result, given):
    return finite(result)


def finite_or_fed(result, given):
    """Finite unless what it was given is not: a network's answer to NaN is NaN."""
    return finite(result) or not moderate({name: value for name, value in given.items() if name != "self"})


at_least_0 = between(0)
in_unit = between(0, 1)
in_signed_unit = between(-1, 1)


def at_least_0_of_the_moderate(result, given):
    return at_least_0(result, given) or not moderate(given)


def in_unit_or_fed(result, given):
    return in_unit(result, given) or not moderate(given["log_paths"])


def scores(result, given):
    shares = {name: value for name, value in result.items() if name not in ("nll", "kl")}
    return in_unit(shares, given) and at_least_0(result, given)


def chance_corrected(result, given):
    return finite(result) and bool((result <= 1 + 1e-9).all()) and len(result) == len(given["maps"])


def an_interval(result, given):
    return result.low <= result.mean <= result.high


def same_tensors(result, given):
    pairs = [result[0]] if isinstance(result, tuple) else result
    return all(
        set(found) == set(given["tensors"])
        and all(torch.equal(found[name].nan_to_num(), value.nan_to_num()) and found[name].dtype == value.dtype
                for name, value in given["tensors"].items())
        for found in pairs
    )  # fmt: skip


def of_this_file(result, given):
    tensors, record = result
    return torch.equal(tensors["a"], torch.arange(3)) and record == {"name": "value"}


def images_in_range(result, given):
    return between(0, 1)(result, given) if moderate(given, 1) else True


def log_probabilities(result, given):
    return not moderate(given) or (finite(result) and bool((result <= 1e-5).all()))


def a_folder(d):
    """Images in one folder per class: right ones, with strange names, and what is no image."""
    path = folder()
    for name in ("a", "b é"):
        (path / name).mkdir()
        for i in range(d.one(8, 8, 1, 0)):
            Image.new("RGB", (d.whole(1, 40), 9), (i, 2 * i, 99)).save(path / name / f"{i}.png")
    if d.one(False, False, True):
        (path / "a" / "no image.png").write_bytes(b"GIF89a" + bytes(d.whole(0, 20)))
    return f"folder:{path}"


def an_augmentation(d):
    return augment.Augmentation(d.number(0, 6), d.number(0, 9), share(d, 0), d.one(True, False), d.one(True, False))


# function → (its arguments, what a result has to be)
CASES = {
    losses: {
        losses.hard_label_loss: (
            lambda d: {"student_logits": d.floats("NC"), "labels": d.labels(), "smoothing": d.number(0, 1)}, a_loss),
        losses.soft_target_loss: (logit_pair, a_loss),
        losses.distillation_loss: (lambda d: logit_pair(d) | {"labels": d.labels(), "alpha": d.number(0, 1)}, a_loss),
        losses.group_kd_loss: (group_weights, a_loss),
        losses.group_kd_parts: (lambda d: grouped(d) | {"decoupled": d.one(False, True)}, a_loss),
        losses.dkd_loss: (
            lambda d: logit_pair(d) | {"labels": d.labels(), "alpha": d.number(0, 9), "beta": d.number(0, 9)},
            a_loss),
        losses.logit_standardised_loss: (logit_pair, a_loss),
        losses.dist_loss: (lambda d: logit_pair(d) | {"inter": d.number(0, 3), "intra": d.number(0, 3)}, a_loss),
        losses.partition: (members, lambda r, g: len(r) == g["num_classes"] and r.min() >= 0),
        losses.target_groups: (
            lambda d: {"labels": d.labels(), "num_classes": d.size("C")},
            lambda r, g: bool(((r == 0).sum(1) == 1).all())),
        losses.primary_groups: (
            lambda d: {"teacher_logits": d.floats("NC"), "temperature": temperature(d), "mass": share(d)},
            lambda r, g: bool((r == 0).any(1).all())),
    },
    features: {
        feature_losses.stages: (lambda d: {"model": a_network(d, d.whole(1, 9))}, lambda r, g: len(r) >= 3),
        feature_losses.read: (
            lambda d: {"model": a_network(d), "images": images_for(d), "names": ["features.2", "pool"]},
            lambda r, g: len(r[1]) == len(g["names"])),
        feature_losses.read_teacher: (
            lambda d: {"teacher": a_network(d), "images": images_for(d), "names": ["pool"],
                       "num_classes": d.size("C")}, finite_or_fed),
        feature_losses.Hinted: (
            lambda d: two_networks(d) | {"stage": d.whole(0, 2), "image_shape": tuple(d.shape("KHW"))}, anything),
        feature_losses.Hinted.forward: (
            lambda d: {"self": feature_losses.Hinted(**two_networks(d), stage=1, image_shape=d.shape("KHW")),
                       "images": images_for(d)}, finite_or_fed),
        feature_losses.SimKD: (lambda d: {"student": a_network(d), "teacher": a_network(d, d.whole(1, 9))}, anything),
        feature_losses.SimKD.forward: (lambda d: {"self": a_simkd(d), "images": images_for(d)}, finite_or_fed),
        feature_losses.SimKD.projected: (lambda d: {"self": a_simkd(d), "images": images_for(d)}, finite_or_fed),
        feature_losses.hint_loss: (
            lambda d: feature_maps(d) | {"regressor": nn.Conv2d(d.size("D"), d.size("G"), 1)}, a_loss),
        feature_losses.attention_transfer_loss: (feature_maps, a_loss),
        feature_losses.rkd_distance_loss: (
            lambda d: {"student": enough(d, 1).floats("ND"), "teacher": d.floats("NG")}, a_loss),
        feature_losses.rkd_angle_loss: (lambda d: {"student": d.floats("ND"), "teacher": d.floats("NG")}, a_loss),
    },
    evaluation: {
        evaluation.evaluate: (
            lambda d: {"model": a_network(d), "image_set": image_set(d), "teacher": d.one(None, a_network(d, 3))},
            scores),
        evaluation.score: (lambda d: {"outputs": d.floats("NC"), "labels": d.labels()}, scores),
        evaluation.compare: (pair, scores),
        evaluation.reliability: (
            lambda d: {"outputs": d.floats("NC"), "labels": d.labels(), "bins": d.whole(1, 30)},
            lambda r, g: in_unit(r, g) and math.isclose(float(r["share"].sum()), 1, abs_tol=1e-6)),
        evaluation.confusions: (
            lambda d: {"outputs": d.floats("NC"), "labels": d.labels()},
            lambda r, g: int(r.sum()) == len(g["labels"])),
        evaluation.cost: (
            lambda d: {"model": a_network(d), "images": images_for(d), "repeats": d.whole(1, 2)}, at_least_0),
        evaluation.size_on_disk: (lambda d: {"model": a_network(d, d.whole(1, 9))}, between(1)),
        evaluation.soft_confusions: (
            lambda d: every_class(d) | {"temperature": temperature(d)},
            lambda r, g: in_unit(r, g) and bool((r.sum(1) - 1).abs().max() < 1e-4)),
        evaluation.look_alikes: (
            lambda d: {"confusions": d.floats("CC", scales=(1.0, 30.0)).abs() + 0.1,
                       "groups": d.whole(1, d.size("C"))},
            lambda r, g: 0 == int(r.min()) <= int(r.max()) < g["groups"]),
    },
    stats: {
        stats.t_interval: (lambda d: {"values": d.values(), "level": share(d)}, an_interval),
        stats.paired_interval: (lambda d: seeds_of(d) | {"level": share(d)}, an_interval),
        stats.p_value: (seeds_of, in_unit),
        stats.holm: (
            lambda d: {"p_values": d.draw(st.lists(st.floats(0, 1), max_size=6))},
            lambda r, g: all(p <= found <= 1 for p, found in zip(g["p_values"], r, strict=True))),
        stats.equivalent: (
            lambda d: seeds_of(d) | {"smallest": d.number(1e-3, 1e3), "alpha": d.number(0.01, 0.49)},
            lambda r, g: r in (True, False)),
        stats.verdict: (
            lambda d: seeds_of(d) | {"smallest": d.number(1e-3, 1e3), "p": d.one(None, share(d)),
                                     "higher_is_better": d.one(True, False)},
            lambda r, g: r.startswith(("improves", "worsens", "no meaningful", "inconclusive"))),
        stats.proportion_interval: (
            lambda d: {"share": d.number(0, 1), "count": d.whole(1, 10**5), "level": share(d)},
            lambda r, g: 0 <= r[0] <= r[1] <= 1),
    },
    localisation: {
        metrics.relevance_mass: (located, chance_corrected),
        metrics.relevance_rank: (located, chance_corrected),
        metrics.pointing_game: (located, chance_corrected),
        metrics.auroc: (located, in_unit),
        metrics.trivial_maps: (lambda d: {"images": images_for(d)}, at_least_0_of_the_moderate),
    },
    explanation_metrics: {
        metrics.interventions: (
            lambda d: {"model": network("student", 36, 1), "factors": (f := factors(d)), "classes": f["label"],
                       "rows": d.whole(1, 2), "columns": d.whole(1, 2)}, finite_result),
        metrics.region_correlation: (
            lambda d: some_map(d) | {"regions": d.masks("RNHW"), "effects": d.floats("RN")}, in_signed_unit),
        metrics.abpc: (
            lambda d: explained(d) | {"size": d.whole(1, 4), "steps": d.whole(1, 4)}, finite_result),
        metrics.infidelity: (
            lambda d: explained(d) | {"windows": d.whole(1, 4), "seed": d.whole(0, 10**6)}, at_least_0),
        metrics.average_sensitivity: (
            lambda d: {"explainer": by_gradient, "model": a_network(d), "images": images_for(d),
                       "classes": d.labels(), "radius": share(d), "samples": d.whole(1, 3),
                       "seed": d.whole(0, 10**6)}, at_least_0),
        metrics.entropy: (some_map, at_least_0),
        metrics.effective_pixels: (some_map, between(1)),
        metrics.agreement: (
            lambda d: {"mismatches": (few := d.whole(1, 3)), "maps": located(enough(d, few))["maps"],
                       "others": located(d)["maps"]}, in_signed_unit),
        metrics.dissection: (
            lambda d: {"model": a_network(d), "images": images_for(d), "masks": d.masks("RNHW"),
                       "layer": "features.2", "share": d.number(0.01, 0.5), "turned": d.one(None, 3)}, in_unit),
    },
    store: {
        _store.atomic: (lambda d: {"path": folder() / "a.txt"}, lambda r, g: r == "whole", written_atomically),
        _store.write_json: (
            lambda d: {"path": folder() / "a.json", "value": d.draw(RECORDS)},
            lambda r, g: _store.read_json(g["path"]) == g["value"]),
        _store.read_json: (lambda d: {"content": d.one("[1]", '{"a": null}', "7")}, anything, read_json),
        _store.save: (
            lambda d: {"path": folder() / "a.safetensors", "tensors": some_tensors(d), "record": d.draw(RECORDS)},
            lambda r, g: same_tensors(_store.load(g["path"]), g)),
        _store.load: (lambda d: {"content": "", "at": d.whole(0, 300)}, of_this_file, loaded),
        _store.checksum: (
            lambda d: {"tensors": some_tensors(d), "text": d.draw(st.text(max_size=5))}, lambda r, g: len(r) == 64),
        _store.load_or_make: (
            lambda d: {"kind": d.one("logits", "student", "a-b_c.d"), "key": d.draw(RECORDS),
                       "tensors": some_tensors(d)}, same_tensors, made),
        _store.holds: (
            lambda d: {"kind": "logits", "key": d.draw(RECORDS), "folder": folder()}, lambda r, g: r is False),
        _store.differing: (
            lambda d: {"expected": d.draw(RECORDS), "found": d.draw(RECORDS)}, lambda r, g: isinstance(r, str)),
        _store.digest: (lambda d: {"key": d.draw(RECORDS)}, lambda r, g: len(r) == 16),
        _store.code_version: (
            lambda d: {"modules": d.draw(st.lists(st.sampled_from(["data", "store"]), min_size=1, max_size=3))},
            lambda r, g: len(r) == 16, code_version),
    },
    teacher_cache: {
        recipes.record: (
            lambda d: {"teacher": a_network(d), "images": images_for(d), "views": d.whole(0, 2),
                       "augmentation": augment.Augmentation(shift=1.0), "quiet": True},
            lambda r, g: len(r) == max(g["views"], 1) and finite(r)),
    },
    data: {
        data.load: (
            lambda d: {"name": d.one("digits", a_folder(d)), "root": folder(), "seed": d.whole(0, 10**6)},
            lambda r, g: len(r.train) > 0),
        data.check_name: (lambda d: {"name": d.one(*data.DATASETS, f"folder:{d.word()}")}, anything),
        data.ImageSet: (
            lambda d: {"images": images_for(d), "labels": d.labels(), "masks": {"object": d.masks("NHW")},
                       "factors": {"x": d.floats("N")}}, anything),
        data.ImageSet.subset: (
            lambda d: {"self": image_set(d), "index": d.longs("D", d.size("N"))},
            lambda r, g: torch.equal(r.labels, g["self"].labels[g["index"]])),
        data.ImageData: (
            lambda d: {"name": "x", **{part: image_set(d) for part in ("train", "transfer", "validation", "test")},
                       "classes": ("a", "b")}, lambda r, g: len(r.fingerprint) == 16),
    },
    glyphs: {
        glyphs.Look: (
            lambda d: {"contrast": (0.2, 0.5), "texture_sd": share(d, 0), "noise_sd": share(d, 0),
                       "shift": d.number(0, 9), "cue": share(d, 0), "cue_size": d.whole(1, 9)}, anything),
        glyphs.sample: (
            lambda d: {"index": d.longs("N", 2**62), "seed": d.whole(0, 2**40), "look": glyphs.Look(cue=share(d))},
            finite_result),
        glyphs.without: (
            lambda d: {"factors": factors(d), "part": d.one("object", "distractor", "cue")},
            lambda r, g: set(r) == set(g["factors"])),
        glyphs.render: (lambda d: {"factors": factors(d, cue=d.one(True, False))}, lambda r, g: in_unit(r[0], g)),
    },
    counter: {
        stateless_random.uniform: (
            lambda d: {"seed": d.whole(-(2**70), 2**70), "stream": d.word(), "index": d.longs("N", 2**62),
                       "count": d.whole(0, 9)}, in_unit),
        stateless_random.normal: (
            lambda d: {"seed": d.whole(0, 2**70), "stream": d.word(), "index": d.longs("N", 2**62),
                       "count": d.whole(0, 9)}, between(-6, 6)),
        stateless_random.permutation: (
            lambda d: {"seed": d.whole(0, 2**70), "stream": d.word(), "length": d.whole(0, 40)},
            lambda r, g: r.sort().values.tolist() == list(range(g["length"]))),
    },
    augment: {
        augment.Augmentation: (
            lambda d: {"rotation": d.number(0, 6), "shift": d.number(0, 9), "contrast": share(d, 0)}, anything),
        augment.augment: (
            lambda d: {"images": images_for(d), "index": d.longs("N", 2**62), "view": d.whole(0, 10**9),
                       "augmentation": an_augmentation(d), "seed": d.whole(0, 10**9)}, images_in_range),
    },
    soft_tree: {
        soft_tree.SoftDecisionTree: (
            lambda d: {"in_features": d.whole(1, 50), "num_classes": d.whole(2, 6), "depth": d.whole(3, 6)},
            lambda r, g: not r.trained),
        soft_tree.SoftDecisionTree.forward: (
            lambda d: {"self": a_tree(d), "images": images_for(d)}, log_probabilities),
        soft_tree.SoftDecisionTree.path_logits: (
            lambda d: {"self": a_tree(d), "images": images_for(d)}, log_probabilities),
        soft_tree.SoftDecisionTree.leaf_log_probabilities: (
            lambda d: {"self": a_tree(d), "images": images_for(d)}, log_probabilities),
        soft_tree.SoftDecisionTree.gate_scores: (
            lambda d: {"self": a_tree(d), "images": images_for(d)}, finite_or_fed),
        soft_tree.SoftDecisionTree.log_paths: (
            lambda d: {"self": a_tree(d), "images": images_for(d)}, log_probabilities),
        soft_tree.mixture: (leaves_of_a_batch, log_probabilities),
        soft_tree.bigot_loss: (lambda d: leaves_of_a_batch(d) | {"targets": d.distributions("NC")}, a_loss),
        soft_tree.mixture_loss: (lambda d: leaves_of_a_batch(d) | {"targets": d.distributions("NC")}, a_loss),
        soft_tree.balance_penalty: (lambda d: {"right": d.shares("7")}, a_loss),
        soft_tree.share_going_right: (
            lambda d: {"tree": (tree := a_tree(d)), "log_paths": tree.log_paths(images_for(d)).detach()},
            in_unit_or_fed),
        soft_tree.total_variation: (
            lambda d: {"filters": d.floats("GKHW").flatten(1), "shape": tuple(d.shape("KHW"))}, a_loss),
        soft_tree.on_labels: (growing, a_loss_and_parts),
        soft_tree.on_soft_targets: (lambda d: growing(d) | {"temperature": temperature(d)}, a_loss_and_parts),
        soft_tree.grow: (lambda d: growing(d) | {"targets": d.distributions("NC")}, a_loss_and_parts),
    },
    readable: {
        hard_tree.HardTree: (tree_parts, lambda r, g: sorted(map(len, r.paths())) in ([2, 2, 2, 2], [1, 2, 3, 3])),
        hard_tree.HardTree.forward: (lambda d: {"self": a_hard_tree(d), "images": d.floats("ND")}, anything),
        hard_tree.HardTree.leaf: (lambda d: {"self": a_hard_tree(d), "images": d.floats("ND")}, between(0, 3)),
        hard_tree.HardTree.scores: (
            lambda d: {"self": a_hard_tree(d), "images": d.floats("ND"), "gate": d.longs("N", 3)}, finite_or_fed),
        hard_tree.HardTree.paths: (lambda d: {"self": a_hard_tree(d)}, lambda r, g: len(r) == 4),
        hard_tree.harden: (
            lambda d: {"tree": a_tree(d), "images": images_for(d), "least": share(d, 0), "cut": share(d, 0)},
            lambda r, g: 1 <= len(r.leaves) <= 8),
        hard_tree.cart: (
            lambda d: {"images": d.shares("ND"), "targets": d.distributions("NC"), "depth": d.whole(1, 4),
                       "seed": d.whole(0, 99)}, lambda r, g: r.get_depth() <= g["depth"]),
        hard_tree.from_cart: (
            lambda d: {"fitted": a_cart(d), "depth": d.whole(0, 3), "logits": d.one(True, False)}, anything),
        hard_tree.measures: (lambda d: {"tree": a_hard_tree(d), "images": d.floats("ND")}, at_least_0),
        hard_tree.hardness: (
            lambda d: {"tree": (tree := a_tree(d)), "hard": hard_tree.harden(tree, images_for(d)),
                       "images": images_for(d)}, in_unit),
        hard_tree.rules: (
            lambda d: {"tree": a_hard_tree(d), "classes": [f"class {i}" for i in range(d.size("C"))],
                       "shape": d.one(None, (1, d.size("D")))}, lambda r, g: r.count("say ") == 4),
        hard_tree.question: (
            lambda d: {"tree": a_hard_tree(d), "gate": d.whole(0, 2), "shape": d.one(None, (1, d.size("D")))},
            anything),
        hard_tree.explain: (
            lambda d: {"tree": a_hard_tree(d), "image": d.floats("D", scales=(1.0, 0.0, 30.0))}, anything),
        hard_tree.surrogate_fidelity: (
            lambda d: {"features": d.floats("ND"), "answers": d.labels(),
                       "held_out": (d.floats("GD"), d.longs("G", d.size("C"))), "depths": [1, 3]}, in_unit),
    },
}  # fmt: skip
FUNCTIONS = {generated.name_of(function): (function, *case) for of in CASES.values() for function, case in of.items()}


@pytest.mark.parametrize("name", FUNCTIONS)
@given(source=st.data())
def test_an_answer_is_right_or_a_documented_error(name, source):
    function, arguments, right, *by = FUNCTIONS[name]
    draw = Draw(source.draw)
    given, fault = arguments(draw), ""
    if draw.one(True, True, False) and any(generated._faults(value) for value in given.values()):
        given, fault = spoiled(draw, given)
    answer = called(function, given, *by)
    if isinstance(answer, Exception):
        assert fault or name in MAY_REFUSE, answer
    else:
        assert right(answer, given), (fault, answer)


def _public() -> set[str]:
    """Functions, classes and their methods, but for errors and what torch or Python calls."""
    found = set()
    for module in MODULES:
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(value) or callable(getattr(value, "__wrapped__", None)):
                found.add(generated.name_of(value))
            elif inspect.isclass(value) and not issubclass(value, Exception):
                found.add(generated.name_of(value))
                found |= {generated.name_of(part) for part_name, part in vars(value).items()
                          if inspect.isfunction(part) and not part_name.startswith("_")}  # fmt: skip
    return found


def test_every_public_function_has_a_property():
    assert _public() - set(FUNCTIONS) == WITHOUT
    assert not set(FUNCTIONS) - _public()
