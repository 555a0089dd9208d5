"""Study "biased_cue": does a student rely on what gives the class away, and does its teacher change that?

On the glyphs a patch in a corner, the cue, names the class with a probability: 0.95 in "glyphs_biased", one in 36 in
"glyphs_clean", where the patch says nothing. Students see biased images whoever their teacher is. An arm is a small
dict: {"model": "teacher", "kind": "clean" or "biased"}, or {"method": …} with "of", its teacher's kind. Methods:
alone, smoothed (targets as soft as the teacher's, but the same for all wrong classes), permuted (each image's wrong
classes in random order), distilled, e2kd (Grad-CAM matched too), attention (attention matched too) and untrained.
What a network relies on is measured by exact counterfactuals, without any explainer (lesson 08).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from distill_utils import glyphs, recipes, stateless_random, studies
from distill_utils.data import BIASED_LOOK, ImageSet
from distill_utils.evaluation import compare, score
from distill_utils.explain import distill
from distill_utils.recipes import Context, Recipe, load_or_train
from distill_utils.training import Schedule, logits

BIASED, CLEAN = "glyphs_biased", "glyphs_clean"
ALONE = {"method": "alone"}
TEACHER, STUDENT = recipes.TEACHER.schedule, Schedule()
TEMPERATURE = 8.0
MATCH_WEIGHT = 5.0  # of 1 - cosine of the maps; declared, not tuned
SMALLEST = 0.02  # difference in accuracy that would matter


def with_false_cue(test: ImageSet) -> ImageSet:
    """The same images, noise and all, with the patch of another class in the corner."""
    factors = test.factors or {}
    seed = int(factors["seed"][0])
    factors = glyphs.sample(factors["index"], seed, replace(BIASED_LOOK, cue=0.0))
    return ImageSet(glyphs.render(factors)[0], factors["label"], None, factors)


def explained(test: ImageSet, count: int = 108) -> ImageSet:
    """The images that are explained: the first of which every part is visible."""
    visible = torch.ones(len(test), dtype=torch.bool)
    for mask in (test.masks or {}).values():
        visible &= mask.flatten(1).any(1)
    return test.subset(visible.nonzero()[:count, 0])


def arms(dataset: str) -> list[dict]:
    """Both teachers, students without a teacher, and students of each."""
    rows = [{"model": "teacher", "kind": kind} for kind in ("clean", "biased")]
    rows += [{"method": "untrained"}, ALONE]
    rows += [{"method": method, "of": "clean"} for method in ("smoothed", "permuted", "attention")]
    return rows + [{"method": method, "of": kind} for kind in ("clean", "biased") for method in ("distilled", "e2kd")]


def recipe(arm: dict, seed: int) -> Recipe:
    """The recipe of an arm; data, teacher and student share the seed."""
    if arm.get("model") == "teacher":
        name = CLEAN if arm["kind"] == "clean" else BIASED
        return replace(recipes.TEACHER, dataset=name, schedule=TEACHER, seed=seed, data_seed=seed)
    student = Recipe(dataset=BIASED, schedule=STUDENT, seed=seed, data_seed=seed)
    if arm["method"] in ("alone", "untrained"):
        return student
    method = "distillation" if arm["method"] == "distilled" else arm["method"]
    return replace(student, method=method, method_options={"temperature": TEMPERATURE},
                   teacher=recipe({"model": "teacher", "kind": arm["of"]}, seed))


def run(arm: dict, seed: int, dataset: str) -> dict:
    """Accuracy as in training, with another class's cue and with none; the share of answers that the cue changes."""
    chosen, test = recipe(arm, seed), recipes.dataset(BIASED, seed).test
    if arm.get("method") == "untrained":
        network = recipes.untrained(chosen).eval()
    else:
        network = load_or_train(chosen, quiet=True).model
    teacher = load_or_train(recipe({"model": "teacher", "kind": arm.get("of", "clean")}, seed), quiet=True).model
    without_cue = glyphs.render(glyphs.without(test.factors or {}, "cue"))[0]
    own = logits(network, test.images)
    false_cue, no_cue = (logits(network, images) for images in (with_false_cue(test).images, without_cue))
    right_cue = (test.factors or {})["cue"] == test.labels
    return {
        "test_accuracy": score(own, test.labels)["accuracy"],
        "agreement": compare(own, logits(teacher, test.images))["agreement"],
        "conflict_accuracy": score(false_cue, test.labels)["accuracy"],
        "no_cue_accuracy": score(no_cue, test.labels)["accuracy"],
        "cue_reliance": float((own.argmax(1) != false_cue.argmax(1))[right_cue].float().mean()),
    }


def claims(dataset: str) -> list[studies.Claim]:
    """Primary: distilled against alone and e2kd against distilled, from a clean teacher. The rest is exploratory."""
    def of(method: str, kind: str = "clean") -> dict:
        return {"method": method, "of": kind}

    rows = (
        ("distilled from a clean teacher against alone", of("distilled"), ALONE, True),
        ("e2kd against distilled, clean teacher", of("e2kd"), of("distilled"), True),
        ("distilled from a biased teacher against alone", of("distilled", "biased"), ALONE, False),
        ("e2kd against distilled, biased teacher", of("e2kd", "biased"), of("distilled", "biased"), False),
        ("distilled against permuted targets, clean teacher", of("distilled"), of("permuted"), False),
        ("distilled against smoothed labels, clean teacher", of("distilled"), of("smoothed"), False),
        ("attention matched against distilled, clean teacher", of("attention"), of("distilled"), False),
    )
    return [_claim(name, treated, control, primary) for name, treated, control, primary in rows]


def _claim(name: str, treated: dict, control: dict, primary: bool) -> studies.Claim:
    def values(arm: dict):
        return lambda runs: studies.select(runs, "conflict_accuracy", **{"model": None} | arm)

    return studies.Claim(name, "conflict_accuracy", values(treated), values(control), SMALLEST,
                         label="accuracy with a wrong cue", primary=primary)


# Methods of training that only these studies use


def _targets(context: Context) -> Tensor:
    assert context.recorded is not None
    return context.recorded[0].float()


def _smoothed_targets(context: Context, *, temperature: float) -> dict:
    return {"recorded": [smoothed(_targets(context), context.train.labels, temperature)]}


def _permuted_targets(context: Context, *, temperature: float) -> dict:
    return {"recorded": [permuted(_targets(context), context.seed)]}


def _teacher_maps(context: Context, *, temperature: float, **options) -> dict:
    classes = _targets(context).argmax(1)
    maps = distill.record_maps(context.teacher, context.train.images, classes, **options)
    return {"teacher_maps": maps, "weight": MATCH_WEIGHT, **options}


def _attention_maps(context: Context, *, temperature: float) -> dict:
    # where maps are finer than the last features and every place is read
    return _teacher_maps(context, temperature=temperature, kind="attention", layer="features.6")


recipes.method("smoothed", prepare=_smoothed_targets)(recipes.distillation)
recipes.method("permuted", prepare=_permuted_targets)(recipes.distillation)
recipes.method("e2kd", prepare=_teacher_maps)(distill.explanation_distillation)
recipes.method("attention", prepare=_attention_maps)(distill.explanation_distillation)


def permuted(targets: Tensor, seed: int) -> Tensor:
    """Logits N×C with each image's classes but the preferred one in random order: as soft, but no likeness left."""
    index = torch.arange(len(targets))
    order = stateless_random.uniform(seed, "permuted targets", index, targets.shape[1] - 1).argsort(1)
    best = targets.argmax(1)
    others = torch.arange(targets.shape[1]).expand_as(targets)
    others = others[others != best[:, None]].view(len(targets), -1)
    result = targets.clone()
    return result.scatter_(1, others, targets.gather(1, others.gather(1, order)))


def smoothed(targets: Tensor, labels: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Logits N×C whose softmax at the temperature is the smoothed label with the mean entropy of these targets."""
    soft = (targets / temperature).softmax(1)
    wanted = float(torch.special.entr(soft).sum(1).mean())
    classes, low, high = targets.shape[1], 0.0, 1.0
    for _ in range(50):  # entropy grows with the share that is spread
        spread = (low + high) / 2
        rest = spread / classes
        entropy = -(classes - 1) * rest * math.log(rest) - (1 - spread + rest) * math.log(1 - spread + rest)
        low, high = (spread, high) if entropy < wanted else (low, spread)
    label = nn.functional.one_hot(labels, classes)
    return temperature * ((1 - spread) * label + spread / classes).log()


STUDY = studies.Study("biased_cue", arms, run, claims, datasets=("glyphs",), keys=("model", "kind", "method", "of"))
