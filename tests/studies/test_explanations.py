"""The study of explanations: its images and targets, and verdicts that a failed gate withholds."""

import json
import math

import pytest
import torch

from distill_utils import data, recipes, settings, studies
from distill_utils.studies import biased_cue
from distill_utils.studies import explanations as study
from distill_utils.studies.biased_cue import ALONE, DISTILLED, permuted, smoothed
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


def test_sets_with_other_cues_are_the_same_images_but_for_the_corner(small):
    biased, conflict = biased_cue.images("glyphs", "test", 0), biased_cue.images("glyphs", "test", 0, 0.0)
    assert torch.equal(biased.labels, conflict.labels)
    assert not bool((conflict.factors["cue"] == conflict.labels).any())
    assert (biased.factors["cue"] == biased.labels).float().mean() > 0.85
    assert torch.equal(biased.images[:, 0][~biased.masks["cue"]], conflict.images[:, 0][~biased.masks["cue"]])


def test_every_part_of_the_explained_images_can_be_seen(small):
    shown = biased_cue.explained(biased_cue.images("glyphs", "test", 0), 20)
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


def test_an_arm_of_equal_accuracy_is_an_earlier_or_the_last_state_of_the_more_accurate_student(small):
    arms = [{**ALONE, "of": "clean", "matched": True}, {**DISTILLED, "matched": True}]
    states = [biased_cue.model(arm, 0, "glyphs").state_dict() for arm in arms]
    curves = []
    for arm, state in zip((ALONE, DISTILLED), states, strict=True):
        trained = recipes.load_or_train(biased_cue.recipe(arm, 0, "glyphs"), quiet=True)
        points = [k for k, at in enumerate(trained.snapshots, 1) if torch.equal(at["head.bias"], state["head.bias"])]
        assert len(points) == 1
        curves.append((trained.history["validation_accuracy"], points[0]))
    (alone, i), (distilled, j) = curves
    assert len(alone) == 20
    assert i == 20 or alone[-1] > distilled[-1]
    assert j == 20 or distilled[-1] > alone[-1]
    assert 20 in (i, j)


@pytest.mark.parametrize("arm", [{"method": "untrained"}, {"method": "e2kd", "of": "clean"}])
def test_a_run_measures_what_the_committed_results_hold(arm, small):
    metrics = study.run(arm, 0, "glyphs")
    assert all(math.isfinite(value) for value in metrics.values())
    committed = json.loads((settings.ROOT / "results" / "explanations-glyphs.json").read_text(encoding="utf-8"))
    assert set(metrics) == set(committed["runs"][0]["metrics"])
    assert metrics["residual"] < 1e-3
    assert metrics["invariance_error"] < 1e-3
    assert 0 <= metrics["cue_reliance"] <= 1


def runs(seeds=6, **changes):
    """Made-up runs in which distillation helps and every gate passes; changes: metric → value for all runs."""
    rows = []
    for arm in study.arms("glyphs"):
        for seed in range(seeds):
            jitter, cue = 0.002 * math.sin(7 * seed + len(str(arm))), arm.get("cue", biased_cue.BIASED)
            method = arm.get("method", "teacher")
            good = {"untrained": 0.0, "alone": 0.3}.get(method, 0.5) + jitter
            metrics = {
                "residual": 1e-6, "randomised_cosine": 0.1, "invariance_error": 1e-5, "trivial_object_mass": 0.01,
                "cue_reliance": cue + jitter, "conflict_accuracy": good, "log_sensitivity": -good, "unit_iou": good,
                "unit_iou_turned": 0.1,
            }  # fmt: skip
            for name in study.EXPLAINERS:
                metrics |= {f"cue_mass_{name}": cue / 2 + jitter, f"object_mass_{name}": good,
                            f"region_correlation_{name}": good, f"maps_cosine_{name}": good}  # fmt: skip
            rows.append({"arm": arm, "seed": seed, "metrics": metrics | changes})
    return rows


def verdicts(made):
    rows = studies.verdicts(study.claims("glyphs"), made)
    return {
        row["metric"]: row["verdict"]
        for row in rows
        if row["claim"] == "distilled from a clean teacher against alone" and row["primary"]
    }


def test_with_every_gate_passed_the_verdicts_are_computed():
    assert all(gate["passed"] for gate in study.gates(runs()).values())
    assert set(verdicts(runs()).values()) == {"improves"}


@pytest.mark.filterwarnings("ignore:An input array is constant")
@pytest.mark.parametrize(
    ("changes", "gate", "withheld"),
    [
        ({"residual": 0.01}, "complete", {"object_mass_ig", "region_correlation_ig", "log_sensitivity"}),
        ({"randomised_cosine": 0.9}, "random weights change the map",
         {"object_mass_ig", "region_correlation_ig", "log_sensitivity"}),
        ({"trivial_object_mass": 0.1}, "trivial maps do not find the object", {"object_mass_ig"}),
        ({"cue_mass_ig": 0.2}, "cue mass follows the known reliance", {"object_mass_ig", "region_correlation_ig"}),
    ],
)  # fmt: skip
def test_a_failed_gate_withholds_the_verdicts_that_hang_on_it(changes, gate, withheld):
    found = verdicts(runs(**changes))
    assert {
        metric for metric, word in found.items() if word.startswith("not assessed: sanity check failed")
    } == withheld
    assert all(gate in found[metric] for metric in withheld)
    assert found["conflict_accuracy"] == "improves"  # uses no explainer


def test_an_untrained_network_as_good_as_a_trained_one_withholds_the_verdict():
    made = runs()
    for run in made:
        if run["arm"].get("method") == "untrained":
            run["metrics"]["region_correlation_ig"] = 0.45 + 0.02 * run["seed"]
    assert "maps of untrained networks predict effects less" in verdicts(made)["region_correlation_ig"]


@pytest.mark.parametrize(("metric", "value", "gate"), [
    ("unit_iou_turned", 0.6, "units turned at random mark the object less"),
    ("unit_iou", 0.5, "untrained networks mark the object less"),
])  # fmt: skip
def test_what_single_units_mark_gets_a_verdict_only_against_both_controls(metric, value, gate):
    claim = next(claim for claim in study.claims("glyphs") if claim.metric == "unit_iou")
    assert studies.verdicts([claim], runs())[0]["verdict"] == "improves"
    assert gate in studies.verdicts([claim], runs(**{metric: value}))[0]["verdict"]


def test_a_finding_of_one_explainer_alone_gets_no_verdict():
    made = runs()
    for run in made:
        if run["arm"] == DISTILLED:
            run["metrics"] |= {"object_mass_deeplift": 0.1, "object_mass_occlusion": 0.1}
    assert "two of three explainers agree" in verdicts(made)["object_mass_ig"]


def test_known_reliance_is_a_rank_correlation_over_the_calibration_arms():
    made = runs(seeds=1)
    assert study.known_reliance(made, "ig") == pytest.approx(1)
    chosen = [run["arm"] for run in made if run["arm"].get("method") == "alone" and not run["arm"].get("matched")]
    assert len(chosen) == len(study.CALIBRATION)


@pytest.mark.parametrize("dataset", study.STUDY.datasets)
def test_the_committed_verdicts_follow_from_the_committed_runs(dataset):
    committed = json.loads((settings.ROOT / "results" / f"explanations-{dataset}.json").read_text(encoding="utf-8"))
    again = studies.verdicts(study.claims(dataset), committed["runs"])
    assert [row["verdict"] for row in again] == [row["verdict"] for row in committed["verdicts"]]
