"""Study "title": does distillation make a network easier to interpret, or only more accurate?

On pairs every image holds a letter, which is the label, and a digit of equal kind, which means nothing. Teacher and
students are measured at points along their training, so that arms can be compared where their accuracies on
validation images meet, not only at their ends. Students: alone, alone and wider, alone with augmentation; with labels
smoothed to the entropy of the teacher's targets; with each image's wrong classes permuted; distilled on the labelled
images, with the transfer set as well, or with augmentation; and with the teacher's Grad-CAM matched too (e2kd). The
first three show what training without a teacher reaches, smoothed and permuted targets what remains without the
likeness of classes that Han et al. (2023) credit.

Declared before the run: the endpoints with their smallest effects, the gates, and the primary claims. Fashion-MNIST
and the photographs of CIFAR-10 have no masks and no factors: there only faithfulness and stability are measured, and
how accurate each method makes a student.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from distill_utils import explain, hard_tree, pairs, recipes, stats, studies
from distill_utils.data import ImageSet
from distill_utils.evaluation import compare, score
from distill_utils.explain import metrics
from distill_utils.recipes import Recipe, load_or_train
from distill_utils.studies.biased_cue import TEMPERATURE  # and the methods of training that it registers
from distill_utils.training import Schedule, logits

TEACHER, STUDENT = recipes.TEACHER.schedule, Schedule()
LONG = 2000  # steps with augmentation
VIEWS = 40  # recorded views of a student that is distilled with augmentation
POINTS = (2, 4, 6, 9, 13, 20)  # twentieths of training after which a network is measured
SHOWN, FEW = 208, 104  # explained images; those on which costlier measures are taken
DEPTH = 8  # of the tree on the factors
NEAR = 0.03  # of chance: what trivial maps and untrained networks may differ from it
# Endpoints: in words, unit of a difference, smallest one that would matter, is more better?
ENDPOINTS = {
    "share_ig": ("relevance on the letter beyond its area", "points", 0.03, True),
    "effects_share": ("effect of the letter as a share of both effects", "points", 0.03, True),
    "swap_changes": ("answers changed by another digit", "points", 0.03, False),
    "faithfulness": ("effect of hiding what a map points at, beyond another image's map", "", 0.05, True),
    "instability": (
        "change of maps per change of outputs, as a logarithm (less is better)", "", math.log(1.1), False),
    "tree_fidelity": ("tree on the factors predicts the network where it is wrong", "points", 0.02, True),
}
_EXPLORED = {
    "detectors": ("units that mark a letter or a digit", "", 2, True),  # of 32, see _detectors
    "test_accuracy": ("test accuracy", "points", 0.01, True),
}
WITHOUT_MASKS = ("faithfulness", "instability")
EXPLAINERS: dict[str, Callable[..., explain.Attribution]] = {
    "ig": functools.partial(explain.integrated_gradients, baseline="grey", steps=16),
    "deeplift": functools.partial(explain.deeplift, baseline="grey"),
    "occlusion": functools.partial(explain.occlusion, baseline="grey"),
}
_FACTORS = ("label", "face", "rotation", "cap_height", "x", "y", "contrast", "distractor", "distractor_face",
            "distractor_rotation", "distractor_cap_height", "distractor_x", "distractor_y", "distractor_contrast")
METHODS = ("untrained", "alone", "augmented", "smoothed", "permuted", "distilled", "transfer", "distilled_augmented",
           "e2kd")
WIDE = {"method": "alone", "width": 12}


def arms(dataset: str) -> list[dict]:
    """The teacher, a student of each method, and a wider student alone."""
    return [{"model": "teacher"}, *({"method": method} for method in METHODS), WIDE]


def recipe(arm: dict, seed: int, dataset: str) -> Recipe:
    """The recipe of an arm; data, teacher and student share the seed. Raises ValueError for an unknown method."""
    if arm.get("model") == "teacher":
        return Recipe(model="teacher", dataset=dataset, schedule=TEACHER, snapshots=True, seed=seed, data_seed=seed)
    method = arm["method"]
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: one of {', '.join(METHODS)}")
    student = Recipe(dataset=dataset, schedule=STUDENT, snapshots=True, seed=seed, data_seed=seed)
    if "width" in arm:
        student = replace(student, options={"width": arm["width"]})
    if "augmented" in method:
        views = 1_000_000 if method == "augmented" else VIEWS
        student = replace(student, schedule=replace(STUDENT, steps=LONG, views=views))
    if method in ("untrained", "alone", "augmented"):
        return student
    loss = "distillation" if method in ("distilled", "transfer", "distilled_augmented") else method
    return replace(student, method=loss, method_options={"temperature": TEMPERATURE}, transfer=method == "transfer",
                   teacher=recipe({"model": "teacher"}, seed, dataset))


def run(arm: dict, seed: int, dataset: str) -> dict:
    """Every measure at the end of training, and every endpoint at POINTS along it, named "endpoint@point"."""
    chosen, image_data = recipe(arm, seed, dataset), recipes.dataset(dataset, seed)
    shown = explained(image_data.test, SHOWN)
    found: dict[str, float] = {}
    if arm.get("method") == "untrained":
        network = recipes.untrained(chosen).eval()
    else:
        trained = load_or_train(chosen, quiet=True)
        network = trained.model
        for point in POINTS[:-1]:
            network.load_state_dict(trained.snapshots[point - 1])
            found |= {f"{name}@{point}": value for name, value in measures(network, shown, seed, dataset).items()}
        network.load_state_dict(trained.snapshots[-1])
    last = measures(network, shown, seed, dataset)
    if found:
        found |= {f"{name}@{POINTS[-1]}": value for name, value in last.items()}
    teacher = load_or_train(recipe({"model": "teacher"}, seed, dataset), quiet=True).model
    outputs = logits(network, image_data.test.images)
    found |= last | {
        "test_accuracy": score(outputs, image_data.test.labels)["accuracy"],
        "agreement": compare(outputs, logits(teacher, image_data.test.images))["agreement"],
        "residual": float(EXPLAINERS["deeplift"](network, shown.images, shown.labels).residual.median()),
    }
    if shown.masks:
        found |= _shares(network, shown)
        if "method" in arm and "width" not in arm:  # counts of units are compared at equal width
            found |= _detectors(network, image_data.test)
    return found


def explained(test: ImageSet, count: int) -> ImageSet:
    """The first images of every class, about `count` in all; neighbours differ in class, and image i + C has the
    class of image i."""
    classes = int(test.labels.max()) + 1
    order = torch.stack([(test.labels == c).nonzero()[: count // classes, 0] for c in range(classes)], 1)
    return test.subset(order.flatten())


def measures(network: nn.Module, shown: ImageSet, seed: int, dataset: str) -> dict:
    """Accuracy on validation images and the endpoints of a network."""
    image_data = recipes.dataset(dataset, seed)
    classes = len(image_data.classes)
    few = shown.subset(torch.arange(FEW // classes * classes))
    maps = EXPLAINERS["ig"](network, shown.images, shown.labels).maps
    own, infill = maps[: len(few)], explain.grey(few.images)
    moved = metrics.average_sensitivity(EXPLAINERS["deeplift"], network, few.images, few.labels, samples=2)
    outputs_moved = metrics.average_sensitivity(_outputs, network, few.images, few.labels, samples=2)
    validation = image_data.validation
    found = {
        "validation_accuracy": score(logits(network, validation.images), validation.labels)["accuracy"],
        "faithfulness": metrics.abpc(network, few.images, own, few.labels, infill)
        - metrics.abpc(network, few.images, own.roll(classes, 0), few.labels, infill),
        "instability": float((moved.mean() / outputs_moved.mean()).log()),
    }
    if not shown.masks:
        return found
    without_letter, without_digit, other_digit = _counterfactuals(dataset, seed)
    centred = [explain.centred(logits(network, images[: len(shown)]), shown.labels)
               for images in (shown.images, without_letter, without_digit)]
    letter, digit = ((centred[0] - score).abs() for score in centred[1:])
    test, unseen = image_data.test, image_data.transfer.subset(torch.arange(len(image_data.transfer) // 3))
    answers = logits(network, test.images).argmax(1)
    wrong = answers != test.labels
    return found | {
        "share_ig": float(metrics.relevance_share(maps, shown.masks["letter"], shown.masks["digit"]).mean()),
        "effects_share": float((letter / (letter + digit)).mean()) - 0.5,
        "swap_changes": float((logits(network, other_digit).argmax(1) != answers).float().mean()),
        "tree_fidelity": hard_tree.surrogate_fidelity(
            _features(unseen), logits(network, unseen.images).argmax(1),
            (_features(test)[wrong], answers[wrong]), (DEPTH,))[DEPTH],
    }


def _outputs(network: nn.Module, images: Tensor, classes: Tensor) -> explain.Attribution:
    """The centred logits in place of a map, so that their sensitivity is measured with the same noise."""
    outputs = logits(network, images)
    outputs = outputs - outputs.mean(1, keepdim=True)
    return explain.Attribution(outputs[:, None], outputs[:, 0], outputs[:, 0])


@functools.lru_cache(maxsize=1)
def _counterfactuals(dataset: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The explained images without their letter and without their digit; the test images with another digit."""
    test = recipes.dataset(dataset, seed).test
    shown = explained(test, SHOWN).factors or {}
    other_digit = pairs.swapped(test.factors or {}, "digit")
    without_letter, without_digit = pairs.without(shown, "letter"), pairs.without(shown, "digit")
    return pairs.render(without_letter)[0], pairs.render(without_digit)[0], pairs.render(other_digit)[0]


def _features(images: ImageSet) -> Tensor:
    return torch.stack([(images.factors or {})[name].float() for name in _FACTORS], 1)


def _shares(network: nn.Module, shown: ImageSet) -> dict:
    """The relevance on the letter by the other explainers and by every trivial map."""
    maps = {name: EXPLAINERS[name](network, shown.images, shown.labels).maps for name in ("deeplift", "occlusion")}
    maps |= {f"trivial_{name}": values for name, values in metrics.trivial_maps(shown.images).items()}
    masks = shown.masks or {}
    return {f"share_{name}": float(metrics.relevance_share(values, masks["letter"], masks["digit"]).mean())
            for name, values in maps.items()}


def _detectors(network: nn.Module, test: ImageSet) -> dict:
    """How many units mark a letter or a digit, the count of Han et al., and how many do after a rotation of units."""
    some = test.subset(torch.arange(min(520, len(test))))
    named = {"letter": some.labels, "digit": (some.factors or {})["distractor"] - len(pairs.CLASSES)}
    concepts = torch.stack([(some.masks or {})[part] & (number == k)[:, None, None]
                            for part, number in named.items() for k in number.unique()])
    found = {}
    for name, turned in (("detectors", None), ("detectors_turned", 0)):
        overlap = metrics.dissection(network, some.images, concepts, layer="features.9", share=0.005, turned=turned)
        found[name] = float((overlap.amax(1) > 0.05).sum())
    return found


# Gates and claims


def curve(run: dict, metric: str) -> tuple[list[float], list[float]]:
    """Accuracy on validation images and a metric at POINTS along the training of a run."""
    accuracy, values = ([run["metrics"][f"{name}@{point}"] for point in POINTS]
                        for name in ("validation_accuracy", metric))
    return accuracy, values


def at_equal_accuracy(runs: list[dict], metric: str, first: dict, second: dict) -> tuple[list[float], list[float]]:
    """A metric of two arms, one value per seed each, at the accuracy that the less accurate one of them ends with:
    the other's value is interpolated along its training."""
    values: tuple[list, list] = ([], [])
    for seed in sorted({run["seed"] for run in runs}):
        curves = [curve(run, metric) for arm in (first, second) for run in runs
                  if run["arm"] == arm and run["seed"] == seed]
        meeting = min(accuracies[-1] for accuracies, _ in curves)
        for (accuracies, measured), found in zip(curves, values, strict=True):
            ends_here = accuracies[-1] == meeting
            found.append(measured[-1] if ends_here else float(
                np.interp(meeting, np.maximum.accumulate(accuracies), measured)))
    return values


def gates(runs: list[dict]) -> dict[str, dict]:
    """What must hold before an endpoint may compare networks: name → {"value", "needs", "passed", "of"}, where `of`
    are the endpoints that need it."""
    untrained, teacher = {"method": "untrained"}, {"model": "teacher"}
    rows = [("maps add up", max(run["metrics"]["residual"] for run in runs), 0, 1e-3, ("instability",)),
            ("the teacher's maps are more faithful than another image's",
             stats.t_interval(select(runs, "faithfulness", teacher)).low, 0, math.inf, ("faithfulness",))]
    if "share_ig" in runs[0]["metrics"]:
        trivial = [name for name in runs[0]["metrics"] if name.startswith("share_trivial_")]
        means = [np.mean(select(runs, name, untrained)) for name in (*trivial, "share_ig")]
        above = stats.paired_interval(*(select(runs, "share_ig", arm) for arm in (teacher, untrained))).low
        marked = select(runs, "detectors", {"method": "distilled"})
        controls = (select(runs, "detectors_turned", {"method": "distilled"}), select(runs, "detectors", untrained))
        turned, unmarked = (stats.paired_interval(marked, control).low for control in controls)
        rows += [("trivial maps are at chance", max(map(abs, means[:-1])), 0, NEAR, ("share_ig",)),
                 ("untrained networks are at chance", abs(means[-1]), 0, NEAR, ("share_ig",)),
                 ("the teacher is above untrained networks", above, 0, math.inf, ("share_ig",)),
                 ("units turned at random mark fewer concepts", turned, 0, math.inf, ("detectors",)),
                 ("units of untrained networks mark fewer concepts", unmarked, 0, math.inf, ("detectors",))]
    return {name: {"value": float(value), "of": of,
                   "needs": f"above {low}" if high == math.inf else f"{low} to {high:g}",
                   "passed": bool(value > low if high == math.inf else low <= value <= high)}
            for name, value, low, high, of in rows}


def select(runs: list[dict], metric: str, arm: dict) -> list[float]:
    """studies.select for exactly this arm: a setting that it does not name must be absent."""
    return studies.select(runs, metric, **{"model": None, "method": None, "width": None} | arm)


def _failed(runs: list[dict], metric: str, treated: dict, control: dict) -> str:
    """The reason why a metric may not compare these arms, or ""."""
    failed = [name for name, gate in gates(runs).items() if metric in gate["of"] and not gate["passed"]]
    if not failed and metric == "share_ig":
        signs = [np.mean(select(runs, f"share_{name}", treated)) > np.mean(select(runs, f"share_{name}", control))
                 for name in EXPLAINERS]
        if signs[0] != (sum(signs) >= 2):
            failed = ["two of three explainers agree"]
    return f"sanity check failed ({'; '.join(failed)})" if failed else ""


def claims(dataset: str) -> list[studies.Claim]:
    """Primary: distilled against alone in every endpoint, at the end and at equal accuracy; and at equal accuracy
    against the controls. The rest is exploratory."""
    endpoints = tuple(ENDPOINTS) if dataset == "pairs" else WITHOUT_MASKS
    alone, augmented, smoothed, permuted, distilled, transfer, both, e2kd = (
        {"method": method} for method in METHODS[1:])
    rows = [_claim("distilled against alone", metric, distilled, alone, equal=False) for metric in endpoints]
    rows += [_claim("distilled against alone, at equal accuracy", metric, distilled, alone) for metric in endpoints]
    against = "distilled with the transfer set against augmented alone, at equal accuracy"
    rows += [_claim(against, metric, transfer, augmented)
             for metric in ("share_ig", "effects_share", "faithfulness") if metric in endpoints]
    first = endpoints[0]
    rows += [_claim(f"distilled against {name}, at equal accuracy", first, distilled, control)
             for name, control in (("smoothed labels", smoothed), ("permuted targets", permuted))]
    rows += [_claim(f"{name}, at equal accuracy", first, treated, control, primary=False)
             for name, treated, control in (
                 ("e2kd against distilled", e2kd, distilled),
                 ("distilled with the transfer set against a wider student alone", transfer, WIDE),
                 ("distilled with augmentation against augmented alone", both, augmented))]
    if dataset == "pairs":
        rows += [_claim(f"distilled against {name}", "detectors", distilled, control, equal=False, primary=False)
                 for name, control in (("alone", alone), ("smoothed labels", smoothed))]
    else:
        rows += [_claim(name, "test_accuracy", treated, control, equal=False, primary=False)
                 for name, treated, control in (
                     ("distilled against alone", distilled, alone),
                     ("distilled with the transfer set against distilled", transfer, distilled),
                     ("augmented alone against alone", augmented, alone),
                     ("distilled with augmentation against augmented alone", both, augmented),
                     ("e2kd against distilled", e2kd, distilled))]
    return rows


def _end(metric: str, arm: dict) -> Callable:
    return lambda runs: select(runs, metric, arm)


def _claim(name: str, metric: str, treated: dict, control: dict, *, equal: bool = True,
           primary: bool = True) -> studies.Claim:
    label, unit, smallest, higher_is_better = (ENDPOINTS | _EXPLORED)[metric]

    def values(k: int, arm: dict) -> Callable:
        return (lambda runs: at_equal_accuracy(runs, metric, treated, control)[k]) if equal else _end(metric, arm)

    return studies.Claim(name, metric, values(0, treated), values(1, control), smallest, higher_is_better,
                         lambda runs: _failed(runs, metric, treated, control), label, unit, primary)


STUDY = studies.Study("title", arms, run, claims, datasets=("pairs", "fashion_mnist", "cifar10_folder"),
                      keys=("model", "method", "width"))
