"""Study "explanations": does distillation make a small network easier to explain, or its reasons better?

Every training image carries a corner cue that names its class with probability 0.95. Students are always trained on
those biased images; a teacher is trained either on them too ("biased") or on images whose cue says nothing
("clean"). Students: alone, with targets as soft as the teacher's but the same for all wrong classes ("smoothed"),
distilled, distilled with each image's wrong classes permuted (control: as soft, no likeness of classes), matched to
the teacher's Grad-CAM ("e2kd") or attention as well, and untrained. What a network relies on is measured first
without any explainer, by exact counterfactuals; explainers are judged against that before they judge a network.

Declared before the run: the primary endpoints below with their smallest effects of interest, and the gates. A claim
whose gate fails gets no verdict. Fashion-MNIST has no masks and no cue: there the endpoints that need neither.
"""

import copy
import functools
import math

import scipy.stats
import torch
from torch import Tensor, nn

from distill_utils import _store, explain, glyphs, stats, studies
from distill_utils.evaluation import compare, score
from distill_utils.explain import metrics
from distill_utils.studies.biased_cue import ALONE, BIASED, CLEAN, DISTILLED, WITH_CUE, explained, images, model
from distill_utils.training import logits

CALIBRATION = (CLEAN, 0.5, BIASED, 1.0)  # how often the cue is right where explainers are calibrated
# The endpoints: what, which difference would matter, is more better? Sensitivity is a ratio, so it is compared as a
# logarithm: a tenth more or less matters.
PRIMARY = {
    "object_mass_ig": (0.05, True), "region_correlation_ig": (0.05, True),
    "log_sensitivity": (math.log(1.1), False), "conflict_accuracy": (0.02, True),
}
PRIMARY_WITHOUT_MASKS = {"abpc_ig": (0.05, True), "log_sensitivity": (math.log(1.1), False)}
# In words, with the unit of a difference.
_MEASURED = {
    "object_mass_ig": ("relevance on the object", ""),
    "region_correlation_ig": ("rank correlation of maps with the effect of each region", ""),
    "abpc_ig": ("effect of hiding what maps point at", ""),
    "log_sensitivity": ("change of maps under a little noise, as a logarithm (less is better)", ""),
    "conflict_accuracy": ("accuracy with a wrong cue", "points"),
    "maps_cosine_ig": ("cosine of the maps with the teacher's", ""),
    "unit_iou": ("overlap of single units with the object", ""),
}
EXPLAINERS = {
    "ig": functools.partial(explain.integrated_gradients, baseline="grey"),
    "deeplift": functools.partial(explain.deeplift, baseline="grey"),
    "occlusion": functools.partial(explain.occlusion, baseline="grey"),
}


# Counterfactuals show that these read the glyph: what says nothing good of them says nothing.
READERS = ({"model": "teacher", "kind": "clean"}, DISTILLED)


# Arms


def arms(dataset: str) -> list[dict]:
    """The teachers, the students of each, and students alone at other reliabilities of the cue (calibration)."""
    with_cue = dataset in WITH_CUE
    teachers = ["clean", "biased"] if with_cue else ["clean"]
    rows = [{"model": "teacher", "kind": name} for name in teachers]
    rows += [{"method": method} for method in ("untrained", "alone")]
    rows += [{"method": method, "of": "clean"} for method in ("smoothed", "permuted", "attention")]
    rows += [{"method": method, "of": name} for name in teachers for method in ("distilled", "e2kd")]
    rows += [{"method": method, "of": "clean", "matched": True} for method in ("alone", "distilled")]
    if with_cue:
        rows += [{"method": "alone", "cue": rho} for rho in CALIBRATION if rho != BIASED]
    return rows


# Measurements


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
    """The maps of the explained images for their labels, by explainer; the teachers' are asked for often."""
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
    found = {
        "sensitivity": float(sensitivity.mean()),
        "log_sensitivity": float(sensitivity.log().mean()),
        "infidelity_ig": metrics.infidelity(network, shown.images, maps["ig"], shown.labels, infill),
    }
    for name in EXPLAINERS:
        found[f"abpc_{name}"] = metrics.abpc(network, shown.images, maps[name], shown.labels, infill)
        found[f"effective_pixels_{name}"] = float(metrics.effective_pixels(maps[name]).mean())
    return found


def _validity(network, shown, maps, seed, dataset) -> dict:
    """Completeness, against a flat and another image; the map of a network with random weights; scale and shift."""
    residuals = [
        float(explain.deeplift(network, shown.images, shown.labels, baseline).residual.median())
        for baseline in ("grey", "another image")
    ]
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
    return {
        "residual": max(residuals),
        "randomised_cosine": alike["cosine"],
        "randomised_spearman": alike["spearman"],
        "invariance_error": float((same - maps).norm() / maps.norm()),
    }


class _Disguised(nn.Module):
    """The same classifier with three times the logits and a number added to all of them that depends on the image."""

    def __init__(self, network: nn.Module, pixels: int):
        super().__init__()
        self.network, self.flat, self.shift = network, nn.Flatten(), nn.Linear(pixels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.network(x) + self.shift(self.flat(x))


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
    """Relevance on the object minus that of the best trivial map, relevance on the cue, and the correlation with
    interventions."""
    regions, effects = metrics.interventions(network, shown.factors, shown.labels)
    trivial = metrics.trivial_maps(shown.images).values()
    best = {
        measure: max(float(measure(values, shown.masks["object"]).mean()) for values in trivial)
        for measure in (metrics.relevance_mass, metrics.relevance_rank, metrics.pointing_game)
    }
    found = {"trivial_object_mass": best[metrics.relevance_mass]}
    for name, values in maps.items():
        for measure, chance in best.items():
            short = {"relevance_mass": "mass", "relevance_rank": "rank", "pointing_game": "pointing"}
            mean = float(measure(values, shown.masks["object"]).mean())
            found[f"object_{short[measure.__name__]}_{name}"] = mean - chance
        found[f"cue_mass_{name}"] = float(metrics.relevance_mass(values, shown.masks["cue"]).mean())
        found[f"region_correlation_{name}"] = metrics.region_correlation(values, regions, effects)
    object_, cue, distractor = (effects[i] for i in range(3))
    right = object_.clamp(min=0)
    found["right_reason"] = float((right / (right + cue.abs() + distractor.abs() + 1e-6)).mean())
    return found


def _units(network, test) -> dict:
    """Network dissection of the second block (its maps are 14×14, those after it too coarse for strokes): how well
    its units mark the object, mean over units; and the same after a rotation of the units."""
    seen = test.subset(torch.arange(min(500, len(test))))
    arguments = network, seen.images, seen.masks["object"][None]
    units = {name: metrics.dissection(*arguments, turned=turned)
             for name, turned in (("unit_iou", None), ("unit_iou_turned", 0))}
    return {name: float(iou.mean()) for name, iou in units.items()}


# Gates


def gates(runs: list[dict], explainer: str = "ig") -> dict[str, dict]:
    """What must hold before an explainer may judge networks: gate → {"value", "needs", "passed"}.

    Value is the number that is judged; for the untrained control it is how far its interval lies below those of the
    clean teacher and its student, which counterfactuals show to read the glyph.
    """
    rows = {
        "complete": (max(run["metrics"]["residual"] for run in runs), "below 0.001", lambda v: v < 1e-3),
        # By the signed cosine: |x - baseline| is a factor of every map, so ranks of |map| agree for any two networks.
        "random weights change the map": (
            abs(_mean(runs, "randomised_cosine", **ALONE)), "below 0.3", lambda v: v < 0.3),
        "scale and shift of the logits do not matter": (
            max(run["metrics"]["invariance_error"] for run in runs), "below 0.001", lambda v: v < 1e-3),
    }
    if "cue_reliance" in runs[0]["metrics"]:
        rows["trivial maps do not find the object"] = (
            _mean(runs, "trivial_object_mass", **ALONE), "at most 0.03", lambda v: v <= 0.03)
        rows["cue mass follows the known reliance"] = (
            known_reliance(runs, explainer), "at least 0.8", lambda v: v >= 0.8)
        turned = [_mean(runs, "unit_iou", **arm) - _mean(runs, "unit_iou_turned", **arm) for arm in READERS]
        rows["units turned at random score lower in unit_iou"] = (min(turned), "above 0", lambda v: v > 0)
    for metric in ("object_mass", "region_correlation", "abpc", "unit_iou"):
        name = metric if metric == "unit_iou" else f"{metric}_{explainer}"
        if name in runs[0]["metrics"]:
            rows[f"untrained networks score lower in {metric}"] = (
                _distance(runs, name), "above 0", lambda v: v > 0)
    return {name: {"value": value, "needs": needs, "passed": test(value)}
            for name, (value, needs, test) in rows.items()}


def known_reliance(runs: list[dict], explainer: str) -> float:
    """Spearman's correlation, over students alone trained at all reliabilities of the cue, of the relevance on the
    cue with the share of decisions that the cue changes."""
    chosen = [run["metrics"] for run in runs if run["arm"].get("method") == "alone" and not run["arm"].get("matched")]
    pairs = [(found[f"cue_mass_{explainer}"], found["cue_reliance"]) for found in chosen]
    return float(scipy.stats.spearmanr(pairs).statistic)


def _select(runs: list[dict], metric: str, **arm) -> list[float]:
    """studies.select, where a setting that is not named must be absent."""
    whole = {"model": None, "matched": None, "cue": None, "of": None} | arm
    return studies.select(runs, metric, **whole)


def _mean(runs, metric, **arm) -> float:
    values = _select(runs, metric, **arm)
    return sum(values) / len(values)


def _distance(runs, metric) -> float:
    _, _, highest, _ = stats.t_interval(_select(runs, metric, method="untrained"))
    return min(stats.t_interval(_select(runs, metric, **arm)).low for arm in READERS) - highest


def _gate(metric: str, treated: dict, control: dict):
    """The reason why a metric may not judge these two arms, or ""."""
    name, _, explainer = metric.rpartition("_")
    needed = ["complete", "random weights change the map", "scale and shift of the logits do not matter"]
    if metric == "unit_iou":
        needed = ["untrained networks score lower in unit_iou", "units turned at random score lower in unit_iou"]
    if name in ("object_mass", "region_correlation"):
        needed.append("cue mass follows the known reliance")
    if name in ("object_mass", "region_correlation", "abpc"):
        needed.append(f"untrained networks score lower in {name}")
    if name == "object_mass":
        needed.append("trivial maps do not find the object")

    def gate(runs):
        if metric == "conflict_accuracy":
            return ""  # no explainer is asked
        found = gates(runs, explainer if explainer in EXPLAINERS else "ig")
        failed = [gate for gate in needed if not found[gate]["passed"]]
        if not failed and explainer in EXPLAINERS:
            signs = [
                _mean(runs, f"{name}_{e}", **treated) > _mean(runs, f"{name}_{e}", **control) for e in EXPLAINERS
            ]
            if signs[0] != (sum(signs) >= 2):
                failed = ["two of three explainers agree"]
        return f"sanity check failed ({'; '.join(failed)})" if failed else ""

    return gate


# Claims


def claims(dataset: str) -> list[studies.Claim]:
    """Primary: distilled against alone and e2kd against distilled, from a clean teacher. The rest is exploratory."""
    with_cue = dataset in WITH_CUE
    e2kd = {"method": "e2kd", "of": "clean"}
    primary = PRIMARY if with_cue else PRIMARY_WITHOUT_MASKS
    rows = [
        _claim(what, metric, treated, control, *rule, primary=True)
        for what, treated, control in (
            ("distilled against alone", DISTILLED, ALONE),
            ("e2kd against distilled", e2kd, DISTILLED),
        )
        for metric, rule in primary.items()
    ]
    exploratory = [("e2kd against distilled, maps like the teacher's", "maps_cosine_ig", e2kd, DISTILLED, 0.05)]
    if with_cue:
        clean, biased = ({"method": "distilled", "of": name} for name in ("clean", "biased"))
        matched = [{**arm, "of": "clean", "matched": True} for arm in (DISTILLED, ALONE)]
        conflict, region = "conflict_accuracy", "region_correlation_ig"
        exploratory += [
            ("distilled from a biased teacher against alone", conflict, biased, ALONE, 0.02),
            ("e2kd against distilled, biased teacher", conflict, {"method": "e2kd", "of": "biased"}, biased, 0.02),
            ("distilled against permuted targets", conflict, clean, {"method": "permuted", "of": "clean"}, 0.02),
            ("distilled against smoothed labels", conflict, clean, {"method": "smoothed", "of": "clean"}, 0.02),
            ("attention matched against distilled", conflict, {"method": "attention", "of": "clean"}, clean, 0.02),
            ("distilled against alone, at equal accuracy", region, *matched, 0.05),
            ("distilled against alone, single units mark the object", "unit_iou", DISTILLED, ALONE, 0.02),
        ]
    return rows + [_claim(what, *rest) for what, *rest in exploratory]


def _claim(name, metric, treated, control, smallest, higher_is_better=True, *, primary=False) -> studies.Claim:
    def of(arm):
        return lambda runs: _select(runs, metric, **arm)

    label, unit = _MEASURED[metric]
    return studies.Claim(name, metric, of(treated), of(control), smallest, higher_is_better,
                         _gate(metric, treated, control), label, unit, primary)


STUDY = studies.Study(
    "explanations", arms, run, claims, datasets=(*WITH_CUE, "fashion_mnist"),
    keys=("model", "kind", "method", "of", "matched", "cue"),
)
