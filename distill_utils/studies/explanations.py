"""Study "explanations": does distillation make a small network easier to explain, or its reasons better?

Every training image carries a corner cue that names its class with probability 0.95. Students are always trained on
those biased images; a teacher is trained either on them too ("biased") or on images whose cue says nothing
("clean"). Students: alone, with targets as soft as the teacher's but the same for all wrong classes ("smoothed"),
distilled, distilled with each image's wrong classes permuted (control: as soft, no likeness of classes), matched to
the teacher's Grad-CAM ("e2kd") or attention as well, and untrained. What a network relies on is measured first
without any explainer, by exact counterfactuals; explainers are judged against that before they judge a network.

Declared before the run: the primary endpoints with their smallest effects of interest, and the gates. A claim whose
gate fails gets no verdict. Fashion-MNIST has no masks and no cue: there the endpoints that need neither.
"""

import copy
import functools
import math
import operator

import scipy.stats
import torch
from torch import Tensor, nn

from distill_utils import _store, explain, glyphs, stats, studies
from distill_utils.evaluation import compare, score
from distill_utils.explain import metrics
from distill_utils.studies.biased_cue import ALONE, BIASED, CLEAN, DISTILLED, explained, images, model
from distill_utils.training import logits

CALIBRATION = (CLEAN, 0.5, BIASED, 1.0)  # how often the cue is right where explainers are calibrated
PRIMARY = {
    "glyphs": ("object_mass_ig", "region_correlation_ig", "log_sensitivity", "conflict_accuracy"),
    "fashion_mnist": ("abpc_ig", "log_sensitivity"),
}
# Metrics that are compared: in words, unit of a difference, smallest difference that would matter, is more better?
# Sensitivity is a ratio, so it is compared as a logarithm: a tenth more or less matters.
COMPARED = {
    "object_mass_ig": ("relevance on the object", "", 0.05, True),
    "region_correlation_ig": ("rank correlation of maps with the effect of each region", "", 0.05, True),
    "abpc_ig": ("effect of hiding what maps point at", "", 0.05, True),
    "log_sensitivity": (
        "change of maps under a little noise, as a logarithm (less is better)", "", math.log(1.1), False),
    "conflict_accuracy": ("accuracy with a wrong cue", "points", 0.02, True),
    "maps_cosine_ig": ("cosine of the maps with the teacher's", "", 0.05, True),
    "unit_iou": ("overlap of single units with the object", "", 0.02, True),
}
_BY_NAME = {"ig": explain.integrated_gradients, "deeplift": explain.deeplift, "occlusion": explain.occlusion}
EXPLAINERS = {name: functools.partial(explainer, baseline="grey") for name, explainer in _BY_NAME.items()}
# Counterfactuals show that these networks read the glyph, so a metric must rank them above untrained ones.
READERS = ({"model": "teacher", "kind": "clean"}, DISTILLED)


def arms(dataset: str) -> list[dict]:
    """The teachers, the students of each, and students alone at other reliabilities of the cue (calibration)."""
    with_cue = dataset == "glyphs"
    teachers = ["clean", "biased"] if with_cue else ["clean"]
    rows = [{"model": "teacher", "kind": name} for name in teachers]
    rows += [{"method": method} for method in ("untrained", "alone")]
    rows += [{"method": method, "of": "clean"} for method in ("smoothed", "permuted", "attention")]
    rows += [{"method": method, "of": name} for name in teachers for method in ("distilled", "e2kd")]
    rows += [{"method": method, "of": "clean", "matched": True} for method in ("alone", "distilled")]
    if with_cue:
        rows += [{"method": "alone", "cue": rho} for rho in CALIBRATION if rho != BIASED]
    return rows


def run(arm: dict, seed: int, dataset: str) -> dict:
    """What one network relies on, by counterfactuals and by explainers, and whether its explanations can be used."""
    network = model(arm, seed, dataset)
    test, validation = images(dataset, "test", seed), images(dataset, "validation", seed)
    shown = explained(test)
    outputs = logits(network, test.images)
    found = {
        "test_accuracy": score(outputs, test.labels)["accuracy"],
        "validation_accuracy": score(logits(network, validation.images), validation.labels)["accuracy"],
    }
    teacher = {"model": "teacher", "kind": arm.get("of", "clean")}
    found["agreement"] = compare(outputs, logits(model(teacher, seed, dataset), test.images))["agreement"]
    maps = _maps(arm, seed, dataset)
    found |= _faithfulness(network, shown, maps) | _validity(network, shown, maps["deeplift"], seed, dataset)
    for name, others in _maps(teacher, seed, dataset).items():
        alike = metrics.agreement(maps[name], others)
        found |= {f"maps_{key}_{name}": alike[key] - alike[f"{key}_mismatched"] for key in ("cosine", "overlap")}
    if test.masks is not None:
        found |= _reliance(network, outputs, test, seed, dataset) | _localisation(network, shown, maps)
        found |= _units(network, test)
    return found


def _maps(arm: dict, seed: int, dataset: str) -> dict[str, Tensor]:
    """The maps of the explained images for their labels, by explainer; stored, since the teachers' are read often."""
    shown = explained(images(dataset, "test", seed))
    network = model(arm, seed, dataset)

    def make(partial):
        explainers = EXPLAINERS | {"ig_blurred": explain.integrated_gradients}
        return {name: f(network, shown.images, shown.labels).maps for name, f in explainers.items()}, {}

    key = {"weights": _store.checksum(network.state_dict()), "images": _store.checksum({"images": shown.images})}
    return _store.load_or_make("maps", key, make)[0]


def _faithfulness(network, shown, maps) -> dict:
    infill = explain.grey(shown.images)
    sensitivity = metrics.average_sensitivity(EXPLAINERS["deeplift"], network, shown.images, shown.labels, samples=3)
    found = {"sensitivity": float(sensitivity.mean()), "log_sensitivity": float(sensitivity.log().mean()),
             "infidelity_ig": metrics.infidelity(network, shown.images, maps["ig"], shown.labels, infill)}
    for name in EXPLAINERS:
        found[f"abpc_{name}"] = metrics.abpc(network, shown.images, maps[name], shown.labels, infill)
        found[f"effective_pixels_{name}"] = float(metrics.effective_pixels(maps[name]).mean())
    return found


def _validity(network, shown, maps, seed, dataset) -> dict:
    """Completeness, against a flat and another image; the map of a network with random weights; scale and shift."""
    residuals = [explain.deeplift(network, shown.images, shown.labels, baseline).residual.median()
                 for baseline in ("grey", "another image")]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1000)
        random = copy.deepcopy(network)
        for module in random.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        disguised = _Disguised(network, shown.images[0].numel()).eval()
    other = EXPLAINERS["deeplift"](random, shown.images, shown.labels).maps
    same = EXPLAINERS["deeplift"](disguised, shown.images, shown.labels).maps / 3
    alike = metrics.agreement(maps, other)
    return {"residual": float(max(residuals)), "invariance_error": float((same - maps).norm() / maps.norm()),
            "randomised_cosine": alike["cosine"], "randomised_spearman": alike["spearman"]}


class _Disguised(nn.Module):
    """The same classifier with three times the logits and a number added to all of them that depends on the image."""

    def __init__(self, network: nn.Module, pixels: int):
        super().__init__()
        self.network, self.shift = network, nn.Linear(pixels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.network(x) + self.shift(x.flatten(1))


def _reliance(network, outputs, test, seed, dataset) -> dict:
    """Without any explainer: accuracy with another class's cue and with none, and decisions that the cue changes."""
    conflict = logits(network, images(dataset, "test", seed, 0.0).images)
    without = logits(network, glyphs.render(glyphs.without(test.factors, "cue"))[0])
    own = test.factors["cue"] == test.labels
    return {
        "conflict_accuracy": score(conflict, test.labels)["accuracy"],
        "no_cue_accuracy": score(without, test.labels)["accuracy"],
        "cue_reliance": float((outputs.argmax(1) != conflict.argmax(1))[own].float().mean()),
    }


def _localisation(network, shown, maps) -> dict:
    """Relevance on the object minus that of the best trivial map, on the cue, and correlation with interventions."""
    regions, effects = metrics.interventions(network, shown.factors, shown.labels)
    trivial = metrics.trivial_maps(shown.images).values()
    measures = {"mass": metrics.relevance_mass, "rank": metrics.relevance_rank, "pointing": metrics.pointing_game}
    found = {}
    for short, measure in measures.items():
        best = max(float(measure(values, shown.masks["object"]).mean()) for values in trivial)
        if short == "mass":
            found["trivial_object_mass"] = best
        for name, values in maps.items():
            found[f"object_{short}_{name}"] = float(measure(values, shown.masks["object"]).mean()) - best
    for name, values in maps.items():
        found[f"cue_mass_{name}"] = float(metrics.relevance_mass(values, shown.masks["cue"]).mean())
        found[f"region_correlation_{name}"] = metrics.region_correlation(values, regions, effects)
    right = effects[0].clamp(min=0)  # of the object; 1 and 2 are cue and distractor
    found["right_reason"] = float((right / (right + effects[1].abs() + effects[2].abs() + 1e-6)).mean())
    return found


def _units(network, test) -> dict:
    """Network dissection of the second block, whose maps are 14×14: how well its units mark the object, mean over
    units; and the same after a rotation of the units."""
    seen = test.subset(torch.arange(min(500, len(test))))
    masks = seen.masks["object"][None]
    return {name: float(metrics.dissection(network, seen.images, masks, turned=turned).mean())
            for name, turned in (("unit_iou", None), ("unit_iou_turned", 0))}


# Gates: what must hold before an explainer may judge networks

_PASSES = {"below": operator.lt, "at most": operator.le, "at least": operator.ge, "above": operator.gt}
_OF_MAPS = ("complete", "random weights change the map", "scale and shift of the logits do not matter")
_OF_REGIONS = (*_OF_MAPS, "cue mass follows the known reliance")
# What a metric needs, by its name without the explainer.
_NEEDED = {
    "conflict_accuracy": (),
    "unit_iou": ("untrained networks mark the object less", "units turned at random mark the object less"),
    "log_sensitivity": _OF_MAPS,
    "maps_cosine": _OF_MAPS,
    "abpc": (*_OF_MAPS, "maps of untrained networks point at less"),
    "region_correlation": (*_OF_REGIONS, "maps of untrained networks predict effects less"),
    "object_mass": (*_OF_REGIONS, "untrained networks have less relevance on the object",
                    "trivial maps do not find the object"),
}


def gates(runs: list[dict], explainer: str = "ig") -> dict[str, dict]:
    """The gates of an explainer: name → {"value", "needs", "passed"}.

    For the untrained control, the value is how far its interval lies below those of READERS.
    """
    rows: dict[str, tuple[float, str, float]] = {
        "complete": (max(run["metrics"]["residual"] for run in runs), "below", 0.001),
        # By the signed cosine: |x - baseline| is a factor of every map, so ranks of |map| agree for any two networks.
        "random weights change the map": (abs(_mean(runs, "randomised_cosine", ALONE)), "below", 0.3),
        "scale and shift of the logits do not matter": (
            max(run["metrics"]["invariance_error"] for run in runs), "below", 0.001),
    }
    if "cue_reliance" in runs[0]["metrics"]:
        rows["trivial maps do not find the object"] = (_mean(runs, "trivial_object_mass", ALONE), "at most", 0.03)
        rows["cue mass follows the known reliance"] = (known_reliance(runs, explainer), "at least", 0.8)
        turned = [_mean(runs, "unit_iou", arm) - _mean(runs, "unit_iou_turned", arm) for arm in READERS]
        rows["units turned at random mark the object less"] = (min(turned), "above", 0)
    for metric, gate in (("object_mass", "untrained networks have less relevance on the object"),
                         ("region_correlation", "maps of untrained networks predict effects less"),
                         ("abpc", "maps of untrained networks point at less"),
                         ("unit_iou", "untrained networks mark the object less")):
        name = metric if metric == "unit_iou" else f"{metric}_{explainer}"
        if name in runs[0]["metrics"]:
            highest = stats.t_interval(_select(runs, name, {"method": "untrained"})).high
            lowest = min(stats.t_interval(_select(runs, name, arm)).low for arm in READERS)
            rows[gate] = (lowest - highest, "above", 0)
    return {name: {"value": value, "needs": f"{needs} {limit}", "passed": _PASSES[needs](value, limit)}
            for name, (value, needs, limit) in rows.items()}


def known_reliance(runs: list[dict], explainer: str) -> float:
    """Spearman's correlation, over students alone trained at all reliabilities of the cue, of the relevance on the
    cue with the share of decisions that the cue changes."""
    pairs = [(run["metrics"][f"cue_mass_{explainer}"], run["metrics"]["cue_reliance"]) for run in runs
             if run["arm"].get("method") == "alone" and not run["arm"].get("matched")]
    return float(scipy.stats.spearmanr(pairs).statistic)


def _select(runs: list[dict], metric: str, arm: dict) -> list[float]:
    """studies.select for exactly this arm: a setting that it does not name must be absent."""
    return studies.select(runs, metric, **{"model": None, "matched": None, "cue": None, "of": None} | arm)


def _mean(runs: list[dict], metric: str, arm: dict) -> float:
    values = _select(runs, metric, arm)
    return sum(values) / len(values)


def _failure(runs: list[dict], metric: str, treated: dict, control: dict) -> str:
    """The reason why a metric may not judge these two arms, or ""."""
    name = metric.removesuffix("_ig")
    found = gates(runs)
    failed = [gate for gate in _NEEDED[name] if not found[gate]["passed"]]
    if not failed and name != metric:
        signs = [_mean(runs, f"{name}_{e}", treated) > _mean(runs, f"{name}_{e}", control) for e in EXPLAINERS]
        if signs[0] != (sum(signs) >= 2):
            failed = ["two of three explainers agree"]
    return f"sanity check failed ({'; '.join(failed)})" if failed else ""


def claims(dataset: str) -> list[studies.Claim]:
    """Primary: distilled against alone and e2kd against distilled, from a clean teacher. The rest is exploratory."""
    clean, biased = DISTILLED, {"method": "distilled", "of": "biased"}
    e2kd, smoothed, permuted, attention = (
        {"method": method, "of": "clean"} for method in ("e2kd", "smoothed", "permuted", "attention")
    )
    of_clean, by_clean = (" from a clean teacher", ", clean teacher") if dataset == "glyphs" else ("", "")
    against_alone, matched_maps = f"distilled{of_clean} against alone", f"e2kd against distilled{by_clean}"
    pairs = (against_alone, clean, ALONE), (matched_maps, e2kd, clean)
    rows = [_claim(what, metric, *arms, primary=True) for what, *arms in pairs for metric in PRIMARY[dataset]]
    rows.append(_claim(matched_maps, "maps_cosine_ig", e2kd, clean))
    if dataset == "glyphs":
        matched = [{**arm, "of": "clean", "matched": True} for arm in (clean, ALONE)]
        rows += [_claim(what, "conflict_accuracy", treated, control) for what, treated, control in (
            ("distilled from a biased teacher against alone", biased, ALONE),
            ("e2kd against distilled, biased teacher", {"method": "e2kd", "of": "biased"}, biased),
            ("distilled against permuted targets, clean teacher", clean, permuted),
            ("distilled against smoothed labels, clean teacher", clean, smoothed),
            ("attention matched against distilled, clean teacher", attention, clean),
        )]
        rows.append(_claim(f"{against_alone}, at equal accuracy", "region_correlation_ig", *matched))
        rows.append(_claim(f"{against_alone}, single units mark the object", "unit_iou", clean, ALONE))
    return rows


def _claim(name: str, metric: str, treated: dict, control: dict, *, primary: bool = False) -> studies.Claim:
    label, unit, smallest, higher_is_better = COMPARED[metric]
    return studies.Claim(
        name, metric, lambda runs: _select(runs, metric, treated), lambda runs: _select(runs, metric, control),
        smallest, higher_is_better, lambda runs: _failure(runs, metric, treated, control), label, unit, primary)


STUDY = studies.Study("explanations", arms, run, claims, datasets=tuple(PRIMARY),
                      keys=("model", "kind", "method", "of", "matched", "cue"))
