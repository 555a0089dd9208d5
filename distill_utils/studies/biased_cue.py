"""Networks trained on images whose corner gives the class away, and students of such networks.

On the glyphs a patch in a corner names the class with a probability: 0.95 in "glyphs_biased", one in 36 in
"glyphs_clean", where the patch says nothing. Students see biased images whoever their teacher is. An arm is a small
dict: {"model": "teacher", "kind": "clean" or "biased"}, or {"method": …} with, where they apply, "of" (its teacher's
kind), "matched" (in accuracy) and "cue" (another probability). Methods: alone, smoothed (targets as soft as the
teacher's, but the same for all wrong classes), permuted (each image's wrong classes in random order), distilled, e2kd
(Grad-CAM matched too), attention (attention matched too) and untrained. Fashion-MNIST has no cue: its one teacher
counts as clean.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from distill_utils import glyphs, recipes, stateless_random
from distill_utils.data import BIASED_LOOK, ImageSet
from distill_utils.explain import distill
from distill_utils.recipes import Context, Recipe, load_or_train
from distill_utils.training import Schedule

BIASED, CLEAN = 0.95, 1 / 36  # how often the patch is right
ALONE, DISTILLED = {"method": "alone"}, {"method": "distilled", "of": "clean"}
MATCHED = (ALONE, DISTILLED)  # compared at equal accuracy as well, so their snapshots are kept
TEACHER, STUDENT = recipes.TEACHER.schedule, Schedule()
TEMPERATURE = 8.0
MATCH_WEIGHT = 5.0  # of 1 - cosine of the maps; declared, not tuned
# The glyphs by how often the patch is right.
CUE_SETS = {CLEAN: "glyphs_clean", 0.5: "glyphs_half_biased", BIASED: "glyphs_biased", 1.0: "glyphs_cue_only"}


def images(dataset: str, part: str, seed: int, cue: float = BIASED) -> ImageSet:
    """A split, with cues that are right with this probability; two values give the same images but for the corner.

    Of Fashion-MNIST, the first 3,000, 1,000 and 2,000 images of train, validation and test.
    """
    if dataset != "glyphs":
        size = {"train": 3000, "validation": 1000, "test": 2000}[part]
        return getattr(recipes.dataset(dataset, seed), part).subset(torch.arange(size))
    if cue in CUE_SETS:
        return getattr(recipes.dataset(CUE_SETS[cue], seed), part)
    index = (images(dataset, part, seed).factors or {})["index"]
    factors = glyphs.sample(index, seed, replace(BIASED_LOOK, cue=cue))
    return ImageSet(glyphs.render(factors)[0], factors["label"], None, factors)


def explained(test: ImageSet, count: int = 108) -> ImageSet:
    """The images that are explained: the first of which every part is visible."""
    visible = torch.ones(len(test), dtype=torch.bool)
    for mask in (test.masks or {}).values():
        visible &= mask.flatten(1).any(1)
    return test.subset(visible.nonzero()[:count, 0])


def recipe(arm: dict, seed: int, dataset: str) -> Recipe:
    """The recipe of an arm; data, teacher and student share the seed."""
    cue = arm.get("cue", CLEAN if arm.get("kind") == "clean" else BIASED)
    name = CUE_SETS[cue] if dataset == "glyphs" else dataset
    if arm.get("model") == "teacher":
        return replace(recipes.TEACHER, dataset=name, schedule=TEACHER, seed=seed, data_seed=seed)
    student = Recipe(dataset=name, snapshots=arm in MATCHED, schedule=STUDENT, seed=seed, data_seed=seed)
    if arm["method"] in ("alone", "untrained"):
        return student
    method = "distillation" if arm["method"] == "distilled" else arm["method"]
    return replace(student, method=method, method_options={"temperature": TEMPERATURE},
                   teacher=recipe({"model": "teacher", "kind": arm["of"]}, seed, dataset))


def model(arm: dict, seed: int, dataset: str) -> nn.Module:
    """The network of an arm, loaded or trained, in eval mode."""
    if arm.get("method") == "untrained":
        return recipes.untrained(recipe(arm, seed, dataset)).eval()
    if arm.get("matched"):
        return _at_equal_accuracy(arm, seed, dataset)
    return load_or_train(recipe(arm, seed, dataset), quiet=True).model


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


def _at_equal_accuracy(arm: dict, seed: int, dataset: str) -> nn.Module:
    """Of the student alone and the distilled one, the more accurate (on validation) is taken at the snapshot whose
    accuracy is nearest to the other's at its end."""
    own, reference = (ALONE, DISTILLED) if arm["method"] == "alone" else (DISTILLED, ALONE)
    trained = load_or_train(recipe(own, seed, dataset), quiet=True)
    curve = trained.history["validation_accuracy"]
    target = load_or_train(recipe(reference, seed, dataset), quiet=True).history["validation_accuracy"][-1]
    if curve[-1] > target:
        best = min(range(len(curve)), key=lambda i: (abs(curve[i] - target), -i))
        trained.model.load_state_dict(trained.snapshots[best])
    return trained.model.eval()
