"""Networks trained on images whose corner gives the class away, and students of such networks.

On the glyphs a patch in a corner names the class with a probability: 0.95 makes a set "biased", one in 36 makes it
"clean", the patch then says nothing. Students see biased images whoever their teacher is. An arm is a small dict:
{"model": "teacher", "kind": "clean" or "biased"}, or {"method": …} with, where they apply, "of" (its teacher's
kind), "matched" (in accuracy), "cue" (another probability), "transfer" (also on biased images without labels) and
"width". Methods: alone, smoothed (targets as soft as the teacher's, but the same for all wrong classes), permuted
(each image's wrong classes in random order), distilled, e2kd (Grad-CAM matched too), attention (attention matched
too) and untrained. Fashion-MNIST has no cue: its one teacher counts as clean.
"""

import functools
import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from distill_utils import (
    augment,
    counter,
    explanation_distillation,
    glyphs,
    models,
    parallel,
    recipes,
    store,
    teacher_cache,
    training,
)
from distill_utils.data import UNLABELLED, ImageSet
from distill_utils.training import Schedule

BIASED, CLEAN = 0.95, 1 / len(glyphs.CLASSES)
ALONE, DISTILLED = {"method": "alone"}, {"method": "distilled", "of": "clean"}
TEMPERATURE = 8.0
MATCH_WEIGHT = 5.0  # of 1 - cosine of the maps; declared, not tuned
LOOKS = {
    "glyphs": glyphs.Look(cue=BIASED, cue_size=6),
    "glyphs_matched": replace(glyphs.MATCHED, cue=BIASED, cue_size=6),
}
SIZES = {"train": 3000, "transfer": 9000, "validation": 1000, "test": 2000}
TEACHER, STUDENT = Schedule(steps=2000, views=1_000_000), Schedule()
_CODE = ("counter", "glyphs", "data", "augment", "models", "losses", "training", "recipes", "explain",
         "explanation_distillation", "cued")  # fmt: skip


@functools.lru_cache(maxsize=16)
def images(dataset: str, part: str, seed: int, cue: float = BIASED) -> ImageSet:
    """A split of SIZES images, with cues that are right with this probability.

    Two values of cue give the same images but for the corner.
    """
    place = ("train", "transfer", "validation", "test").index(part)
    size = SIZES[part]
    if dataset not in LOOKS:
        return getattr(recipes.dataset(dataset, seed), part).subset(torch.arange(size))
    index = torch.arange(size) + place * 1_000_000
    factors = glyphs.sample(index, seed, replace(LOOKS[dataset], cue=cue))
    pictures, masks = glyphs.render(factors)
    labels = torch.full_like(index, UNLABELLED) if part == "transfer" else factors["label"]
    return ImageSet(pictures, labels, masks, factors)


def explained(test: ImageSet, count: int = 108) -> ImageSet:
    """The images that are explained: the first of which every part can be seen."""
    visible = torch.ones(len(test), dtype=torch.bool)
    for mask in (test.masks or {}).values():
        visible &= mask.flatten(1).any(1)
    return test.subset(visible.nonzero()[:count, 0])


def model(arm: dict, seed: int, dataset: str) -> nn.Module:
    """The network of an arm, loaded or trained, in eval mode."""
    network = _untrained(arm, seed, dataset)
    if arm.get("method") == "untrained":
        return network
    if arm.get("matched"):
        return _at_equal_accuracy(arm, seed, dataset)
    tensors, _ = _trained(arm, seed, dataset)
    network.load_state_dict(_below(tensors, "20."))
    return network


def networks(arms: list[dict], seed: int, dataset: str) -> list[nn.Module]:
    """The networks of several arms, trained in several processes, teachers first."""
    for teachers in (True, False):
        calls = [
            (arm, seed, dataset) for arm in arms if ("model" in arm) == teachers and not _kept(arm, seed, dataset)
        ]
        parallel.run_all(model, calls, what="training", unit="model")
    return [model(arm, seed, dataset) for arm in arms]


def _untrained(arm: dict, seed: int, dataset: str) -> nn.Module:
    train = images(dataset, "train", seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = {"width": arm["width"]} if "width" in arm else {}
        classes, channels = int(train.labels.max()) + 1, train.images.shape[1]
        return models.build(arm.get("model", "student"), classes, channels, **options).eval()


def _trained(arm: dict, seed: int, dataset: str) -> tuple[dict, dict]:
    """Weights at the end ("20.NAME") and, where arms are matched by accuracy, at each twentieth before."""
    cue = arm.get("cue", CLEAN if arm.get("kind") == "clean" else BIASED)
    train, keep = images(dataset, "train", seed, cue), arm in (ALONE, DISTILLED)
    if arm.get("transfer"):
        train = train + images(dataset, "transfer", seed)
    real = dataset not in LOOKS
    augmentation = recipes.dataset(dataset, seed).augmentation if real else augment.GLYPHS

    def make(partial):
        network = _untrained(arm, seed, dataset).train()
        schedule, loss, targets = STUDENT, recipes.hard_labels, None
        if arm.get("model") == "teacher":
            schedule = TEACHER
        elif arm["method"] != "alone":
            loss, targets = _loss(arm, seed, dataset, train)
        kept = {}

        def seen(network, batch):
            twentieth = round(20 * batch.done, 6)
            if keep and twentieth > 0 and twentieth == int(twentieth):
                kept.update({f"{int(twentieth)}.{k}": v.clone() for k, v in network.state_dict().items()})
            return loss(network, batch)

        history = training.fit(network, train, seen, schedule, seed=seed, augmentation=augmentation, teacher=targets,
                               validation=images(dataset, "validation", seed), quiet=True)  # fmt: skip
        return kept | {f"20.{k}": v for k, v in network.state_dict().items()}, {"history": history}

    return store.load_or_make("explanations", _key(arm, seed, dataset), make)


def _key(arm: dict, seed: int, dataset: str) -> dict:
    return {"arm": arm, "seed": seed, "dataset": dataset, "code": store.code_version(*_CODE)}


def _kept(arm: dict, seed: int, dataset: str) -> bool:
    return arm.get("method") == "untrained" or store.holds("explanations", _key(arm, seed, dataset))


def _loss(arm: dict, seed: int, dataset: str, train: ImageSet):
    """What a student of a teacher minimises, and the logits that it is given."""
    teacher = model({"model": "teacher", "kind": arm["of"]}, seed, dataset)
    targets = teacher_cache.record(teacher, train.images, quiet=True)[0].float()
    loss = functools.partial(recipes.distillation, temperature=TEMPERATURE)
    if arm["method"] == "smoothed":
        targets = smoothed(targets, train.labels)
    if arm["method"] == "permuted":
        targets = permuted(targets, seed)
    if arm["method"] in ("e2kd", "attention"):
        # Grad-CAM at the last features, as published; attention where maps are finer and every place is read.
        options = {"kind": "attention", "layer": "features.6"} if arm["method"] == "attention" else {}
        maps = explanation_distillation.record_maps(teacher, train.images, targets.argmax(1), **options)
        loss = functools.partial(explanation_distillation.explanation_distillation, teacher_maps=maps,
                                 temperature=TEMPERATURE, weight=MATCH_WEIGHT, **options)  # fmt: skip
    return loss, [targets]


def permuted(targets: Tensor, seed: int) -> Tensor:
    """Logits N×C with each image's classes but the preferred one in random order: as soft, but likeness is gone."""
    index = torch.arange(len(targets))
    order = counter.uniform(seed, "permuted targets", index, targets.shape[1] - 1).argsort(1)
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
    """Of the student alone and the distilled one, the more accurate is taken where it was nearest to the other's end.

    Accuracy is that on validation.
    """
    mine, other = (ALONE, DISTILLED) if arm["method"] == "alone" else (DISTILLED, ALONE)
    tensors, record = _trained(mine, seed, dataset)
    course = record["history"]["validation_accuracy"]
    aim = _trained(other, seed, dataset)[1]["history"]["validation_accuracy"][-1]
    point = 20
    if course[-1] > aim:
        point = 1 + min(range(20), key=lambda i: (abs(course[i] - aim), -i))
    network = _untrained(arm, seed, dataset)
    network.load_state_dict(_below(tensors, f"{point}."))
    return network


def _below(tensors: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
