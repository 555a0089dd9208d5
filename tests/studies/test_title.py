"""The study of the title: arms met at equal accuracy, gates that withhold a verdict, and the figure."""

import math

import pytest
import torch

from distill_utils import data, recipes, studies
from distill_utils.studies import title
from distill_utils.studies.title_figure import draw
from distill_utils.training import Schedule

UNTRAINED = {"method": "untrained"}


@pytest.fixture
def small(monkeypatch):
    """The study's machinery with networks that are trained for twenty steps on few images."""
    monkeypatch.setattr(title, "STUDENT", Schedule(steps=20, batch_size=26))
    monkeypatch.setattr(title, "TEACHER", Schedule(steps=20, batch_size=26, views=9))
    monkeypatch.setattr(title, "SHOWN", 52)
    monkeypatch.setattr(title, "FEW", 52)
    monkeypatch.setattr(title, "POINTS", (4, 20))
    for part, size in {"train": 104, "transfer": 78, "validation": 52, "test": 130}.items():
        monkeypatch.setitem(data._BIASED_SIZES, part, size)
    recipes._dataset.cache_clear()
    title._counterfactuals.cache_clear()
    yield
    recipes._dataset.cache_clear()
    title._counterfactuals.cache_clear()


def test_a_run_measures_every_endpoint_along_its_training_and_at_its_end(small):
    metrics = title.run({"method": "e2kd"}, 0, "pairs")
    assert all(math.isfinite(value) for value in metrics.values())
    assert {f"{name}@{point}" for name in title.ENDPOINTS for point in (4, 20)} <= set(metrics)
    for name in title.ENDPOINTS:
        assert metrics[name] == metrics[f"{name}@20"]
    assert metrics["share_ig"] != metrics["share_ig@4"]
    assert metrics["residual"] < 1e-3
    untrained = title.run(UNTRAINED, 0, "pairs")
    assert set(untrained) == {name for name in metrics if "@" not in name}


def test_without_masks_a_run_measures_what_needs_none(small, monkeypatch):
    name = "without masks"
    plain = data.load("pairs")
    parts = {part: data.ImageSet(getattr(plain, part).images, getattr(plain, part).labels)
             for part in ("train", "transfer", "validation", "test")}  # fmt: skip
    monkeypatch.setitem(data.DATASETS, name, lambda *_: data.ImageData(name, **parts, classes=plain.classes))
    metrics = title.run(title.WIDE, 0, name)
    assert {"faithfulness", "instability", "instability@4", "test_accuracy"} <= set(metrics)
    assert not {"share_ig", "swap_changes", "tree_fidelity", "detectors"} & set(metrics)


def test_explained_images_are_balanced_and_neighbours_differ_in_class():
    labels = torch.randint(5, (300,))
    shown = title.explained(data.ImageSet(torch.rand(300, 1, 8, 8), labels), 27)
    assert shown.labels.tolist() == [0, 1, 2, 3, 4] * 5


def runs(seeds=10, after=0.0, **changes):
    """Made-up runs whose endpoints grow with accuracy in the same way for all arms; the students that have a teacher
    end at twice the accuracy. after: what the distilled one has beyond that; changes: metric → value for all runs."""
    made = []
    for arm in title.arms("pairs"):
        end = {"untrained": 0.04, "alone": 0.2, "smoothed": 0.2, "permuted": 0.2}.get(arm.get("method"), 0.4)
        for seed in range(seeds):
            jitter = 0.002 * math.sin(7 * seed + len(str(arm)))
            extra = after * (arm.get("method") == "distilled")
            metrics = {"residual": 1e-6, "detectors": 10 * end + jitter, "detectors_turned": 0.5 + 0.1 * jitter}
            metrics |= {"share_trivial_Sobel": 0.01}
            metrics |= {"share_trivial_a": 0.0, "share_trivial_b": 0.0, "validation_accuracy": end}
            for name in (*title.ENDPOINTS, "share_deeplift", "share_occlusion"):
                metrics[name] = 0.5 * end - 0.02 + jitter + extra
                for point in title.POINTS:
                    accuracy = end * point / title.POINTS[-1]
                    metrics |= {f"validation_accuracy@{point}": accuracy,
                                f"{name}@{point}": 0.5 * accuracy - 0.02 + jitter + extra}  # fmt: skip
            made.append({"arm": arm, "seed": seed, "metrics": metrics | changes})
    return made


def verdict(made, claim, metric="share_ig"):
    rows = studies.verdicts(title.claims("pairs"), made)
    return next(row["verdict"] for row in rows if row["claim"] == claim and row["metric"] == metric)


def test_equal_accuracy_is_where_the_better_arm_passes_the_end_of_the_other():
    made = runs(seeds=2)
    distilled, alone = title.at_equal_accuracy(made, "share_ig", {"method": "distilled"}, {"method": "alone"})
    assert alone == title.select(made, "share_ig", {"method": "alone"})
    assert distilled == pytest.approx([0.08, 0.08], abs=0.003)  # half of its accuracy of 0.4
    alone, distilled = title.at_equal_accuracy(made, "share_ig", {"method": "alone"}, {"method": "distilled"})
    assert distilled == pytest.approx([0.08, 0.08], abs=0.003)


def test_what_only_follows_accuracy_improves_at_the_end_and_not_at_equal_accuracy():
    assert verdict(runs(), "distilled against alone") == "improves"
    assert verdict(runs(), "distilled against alone, at equal accuracy") == "no meaningful difference"
    assert verdict(runs(after=0.1), "distilled against alone, at equal accuracy") == "improves"
    assert verdict(runs(after=0.1), "distilled against alone, at equal accuracy", "swap_changes") == "worsens"


@pytest.mark.parametrize(
    ("changes", "metric", "failed"),
    [
        ({"share_trivial_Sobel": 0.05}, "share_ig", "trivial maps are at chance"),
        ({"share_ig": 0.2}, "share_ig", "untrained networks are at chance"),
        ({"residual": 0.1}, "instability", "maps add up"),
        ({"detectors_turned": 9.0}, "detectors", "units turned at random mark fewer concepts"),
        ({"detectors": 0.0, "detectors_turned": 0.0}, "detectors", "units turned at random mark fewer concepts"),
        ({"faithfulness": -0.1}, "faithfulness", "the teacher's maps are more faithful than another image's"),
    ],
)
def test_a_failed_gate_withholds_the_verdicts_that_need_it_and_no_others(changes, metric, failed):
    assert not [name for name, gate in title.gates(runs()).items() if not gate["passed"]]
    said = verdict(runs(**changes), "distilled against alone", metric)
    assert said.startswith("not assessed")
    assert failed in said
    assert verdict(runs(**changes), "distilled against alone", "effects_share") == "improves"


def test_a_claim_that_two_explainers_deny_gets_no_verdict():
    made = runs()
    for run in made:
        if run["arm"] == {"method": "distilled"}:
            run["metrics"] |= {"share_deeplift": 0.0, "share_occlusion": 0.0}
    assert "two of three explainers agree" in verdict(made, "distilled against alone")


def test_arms_without_masks_have_claims_on_what_needs_none():
    assert {claim.metric for claim in title.claims("cifar10_folder")} == {*title.WITHOUT_MASKS, "test_accuracy"}


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="unknown method 'destilled': one of untrained, alone, "):
        title.recipe({"method": "destilled"}, 0, "pairs")


def test_the_figure_shows_every_arm_and_names_a_metric_that_is_missing():
    fig, table = draw({"runs": runs(seeds=3)})
    assert [row["network"] for row in table][-4:] == ["untrained", "Sobel", "a", "b"]
    distilled = next(row for row in table if row["network"] == "distilled")
    assert distilled["accuracy, %"] == "40.0"
    assert distilled["at the end"] == pytest.approx(0.18, abs=0.003)
    assert len(fig.axes[0].collections) == 9  # a band for each line
    with pytest.raises(ValueError, match="metric must be one of share_ig, .*, got 'share'"):
        draw({"runs": runs(seeds=1)}, "share")
