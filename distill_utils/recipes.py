"""Recipes: everything that shapes a trained model, written down; and load-or-train, which turns one into a model.

A recipe is data. Two equal recipes on equal data are one artifact, trained once; a changed number is another one.
"""

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from distill_utils import data, losses, models, parallel, settings, store, teacher_cache, training
from distill_utils.training import Schedule

_CODE = ("counter", "glyphs", "data", "augment", "models", "losses", "training", "recipes")


def hard_labels(model, batch, *, smoothing=0.0):
    """Training alone: cross-entropy against the labels."""
    return losses.hard_label_loss(model(batch.images), batch.labels, smoothing=smoothing), {}


def distillation(model, batch, *, temperature=4.0, alpha=1.0):
    """Distillation with weight alpha on the soft targets at a temperature."""
    student = model(batch.images)
    soft = losses.soft_target_loss(student, batch.teacher_logits, temperature)
    total = losses.distillation_loss(student, batch.teacher_logits, batch.labels, temperature, alpha)
    return total, {"soft": soft}


METHODS: dict[str, Callable] = {"hard_labels": hard_labels, "distillation": distillation}


@dataclass(frozen=True)
class Recipe:
    """How to get a trained model.

    model, options: what models.build is given; method, method_options: a key of METHODS and its keyword arguments;
    teacher: the recipe of the teacher, where the method has one; transfer: train on the unlabelled transfer set as
    well; cut: start from weights cut out of the teacher instead of from chance; seed: of the first weights, the
    batch order and dropout; data_seed: which images are drawn.
    """

    model: str = "student"
    dataset: str = field(default_factory=settings.dataset)
    options: dict = field(default_factory=dict)
    method: str = "hard_labels"
    method_options: dict = field(default_factory=dict)
    teacher: "Recipe | None" = None
    transfer: bool = False
    cut: bool = False
    schedule: Schedule = Schedule()
    seed: int = 0
    data_seed: int = 0

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}: one of {', '.join(METHODS)}")
        if self.cut and self.teacher is None:
            raise ValueError("a student that is cut out of its teacher needs one: give teacher")


class Trained(NamedTuple):
    """A trained model in eval mode, its training history (see training.fit) and its recipe."""

    model: nn.Module
    history: dict
    recipe: Recipe


TEACHER = Recipe(model="teacher", schedule=Schedule(steps=2000, views=1_000_000))


def load_or_train(recipe: Recipe, *, quiet: bool = False) -> Trained:
    """The model of a recipe: loaded where it was trained before, else trained, with its teacher first."""
    model = untrained(recipe, quiet=quiet)

    def make(partial):
        history = training.fit(model, checkpoint=partial, **ingredients(recipe, quiet=quiet))
        return model.state_dict(), {"history": history}

    tensors, record = store.load_or_make(recipe.model, _key(recipe), make)
    model.load_state_dict(tensors)
    return Trained(model.eval(), record["history"], recipe)


def ingredients(recipe: Recipe, *, teacher: nn.Module | None = None, quiet: bool = False) -> dict:
    """What training.fit is given besides the model: images, loss, schedule, the teacher's recorded outputs, ….

    teacher: the network to record (default: that of the recipe's own teacher, trained where it is missing).
    """
    image_data = dataset(recipe.dataset, recipe.data_seed)
    train = image_data.train + image_data.transfer if recipe.transfer else image_data.train
    recorded = None
    if recipe.teacher is not None:
        teacher = teacher or load_or_train(recipe.teacher, quiet=quiet).model
        recorded = teacher_cache.record(teacher, train.images, views=recipe.schedule.views,
                                        augmentation=image_data.augmentation, quiet=quiet)  # fmt: skip
    return {
        "train": train, "loss": functools.partial(METHODS[recipe.method], **recipe.method_options),
        "schedule": recipe.schedule, "seed": recipe.seed, "augmentation": image_data.augmentation,
        "teacher": recorded, "validation": image_data.validation, "what": f"training the {recipe.model}",
        "quiet": quiet,
    }  # fmt: skip


def load_or_train_all(recipes: list[Recipe], *, workers: int | None = None) -> list[Trained]:
    """load_or_train for several recipes, in several processes of one thread each (see parallel).

    Teachers that several recipes share are trained once, first.
    """
    for teacher in _unique([recipe.teacher for recipe in recipes if recipe.teacher is not None]):
        load_or_train(teacher)
    todo = [(recipe,) for recipe in _unique(recipes) if not store.holds(recipe.model, _key(recipe))]
    parallel.run_all(_train_quietly, todo, workers=workers, what="training", unit="model")
    return [load_or_train(recipe) for recipe in recipes]


def _key(recipe: Recipe) -> dict:
    fingerprint = dataset(recipe.dataset, recipe.data_seed).fingerprint
    return {"recipe": asdict(recipe), "data": fingerprint, "code": store.code_version(*_CODE)}


def _train_quietly(recipe: Recipe) -> None:
    load_or_train(recipe, quiet=True)


def _unique(recipes: list[Recipe]) -> list[Recipe]:
    return list({store.digest(asdict(recipe)): recipe for recipe in recipes}.values())


@functools.lru_cache(maxsize=2)
def dataset(name: str, seed: int = 0) -> data.ImageData:
    """data.load, remembered: the sets of a notebook are read once."""
    return data.load(name, seed=seed)


def untrained(recipe: Recipe, *, quiet: bool = False) -> nn.Module:
    """The network of a recipe before its first step: drawn from its seed, or cut out of its teacher."""
    image_data = dataset(recipe.dataset, recipe.data_seed)
    if recipe.cut:
        assert recipe.teacher is not None  # or the recipe had been refused
        teacher = load_or_train(recipe.teacher, quiet=quiet).model
        model = models.cut_student(teacher, **recipe.options)
        training.reestimate_batch_norm(model, image_data.train.images)
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return models.build(recipe.model, len(image_data.classes), image_data.in_channels, **recipe.options)
