"""Recipes: everything that shapes a trained model, written down; and load-or-train, which turns one into a model.

A recipe is data. Two equal recipes on equal data are one artifact, trained once; a changed number is another one.
What a model is trained to minimise is a *method*, registered by name:

    @recipes.method("distillation")
    def distillation(model, batch, *, temperature=4.0, alpha=1.0):
        return loss, {"soft": a part to record}
"""

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distill_utils import _recorded, _store, _validate, data, losses, models, parallel, settings, training
from distill_utils._checkpoint import OtherRun, seeded, with_prefix
from distill_utils._recorded import Recorded
from distill_utils.augment import NONE, Augmentation, augment
from distill_utils.training import Schedule


class Context(NamedTuple):
    """What a method may use besides the student and the batch."""

    data: data.ImageData
    train: data.ImageSet  # what the student is trained on
    teacher: nn.Module | None
    recorded: Recorded | None  # the teacher's logits on every view of it, see record
    seed: int


class Method(NamedTuple):
    """A way to train a model, see method."""

    loss: Callable
    prepare: Callable[..., dict] | None
    wrap: Callable[[nn.Module, Context], nn.Module] | None
    version: int


METHODS: dict[str, Method] = {}


def method(name: str, *, prepare: Callable[..., dict] | None = None,
           wrap: Callable[[nn.Module, Context], nn.Module] | None = None, version: int = 1) -> Callable:
    """Register a loss as a method of training that recipes can name.

    The loss takes (model, batch, **options) and returns the scalar to minimise and a dict of parts to record, as
    training.fit wants it; options are the recipe's method_options. prepare(context, **options): further keyword
    arguments of the loss, computed once before training; "recorded" among them replaces the teacher's logits;
    wrap(student, context): the module to train in place of the student, such as one with a regressor; version: raise
    it when the method's models change.
    """

    def register(loss: Callable) -> Callable:
        METHODS[name] = Method(loss, prepare, wrap, version)
        return loss

    return register


@method("hard_labels")
def hard_labels(model, batch, *, smoothing=0.0):
    """Training alone: cross-entropy against the labels (lesson 01)."""
    return losses.hard_label_loss(model(batch.images), batch.labels, smoothing=smoothing), {}


@method("distillation")
def distillation(model, batch, *, temperature=4.0, alpha=1.0):
    """Distillation with weight alpha on the soft targets at a temperature (lesson 02)."""
    student = model(batch.images)
    soft = losses.soft_target_loss(student, batch.teacher_logits, temperature)
    if alpha == 1:
        return soft, {"soft": soft}
    return losses.distillation_loss(student, batch.teacher_logits, batch.labels, temperature, alpha), {"soft": soft}


@dataclass(frozen=True)
class Recipe:
    """How to get a trained model.

    model, options: what models.build is given; dataset: a name that data.load knows; method, method_options: a key
    of METHODS and its keyword arguments; teacher: the recipe of the teacher, where the method has one; transfer:
    train on the unlabelled transfer set as well; without: classes whose images are left out of training; cut: start
    from weights cut out of the teacher instead of from random ones; augmentation: of the training images (default:
    the dataset's own); snapshots: also keep the weights at each twentieth of training; seed: of the first weights,
    the batch order and dropout; data_seed: which images are drawn.
    """

    model: str = "student"
    dataset: str = field(default_factory=settings.dataset)
    options: dict = field(default_factory=dict)
    method: str = "hard_labels"
    method_options: dict = field(default_factory=dict)
    teacher: "Recipe | None" = None
    transfer: bool = False
    without: tuple[int, ...] = ()
    cut: bool = False
    schedule: Schedule = Schedule()
    augmentation: Augmentation | None = None
    snapshots: bool = False
    seed: int = 0
    data_seed: int = 0

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}: one of {', '.join(METHODS)}")
        if self.cut and self.teacher is None:
            raise ValueError("a student that is cut out of its teacher needs one: give teacher")


class Trained(NamedTuple):
    """A trained model in eval mode, its training history (see training.fit), its recipe and its snapshots: state
    dicts after 1, 2, … twentieths of training."""

    model: nn.Module
    history: dict
    recipe: Recipe
    snapshots: list[dict]


TEACHER = Recipe(model="teacher", schedule=Schedule(steps=2000, views=1_000_000))


def load_or_train(recipe: Recipe, *, quiet: bool = False) -> Trained:
    """The model of a recipe: loaded where it was trained before, else trained, with its teacher first."""
    model = untrained(recipe, quiet=quiet)

    def make(partial):
        snapshots: dict[str, Tensor] = {}

        def keep(report: int) -> None:
            snapshots.update({f"snapshot {report}.{name}": x.clone() for name, x in model.state_dict().items()})

        options = {"on_report": keep} if recipe.snapshots else {"checkpoint": partial}  # which holds no snapshots
        given = ingredients(recipe, quiet=quiet)
        try:
            history = training.fit(model, **options, **given)
        except OtherRun:  # killed before the code of its loss was edited: its name is that of this recipe
            partial.unlink()
            history = training.fit(model, **options, **given)
        return model.state_dict() | snapshots, {"history": history}

    tensors, record = _store.load_or_make("model", _key(recipe), make, prefix=recipe.model)
    model.load_state_dict({name: x for name, x in tensors.items() if not name.startswith("snapshot ")})
    count = len(record["history"]["step"]) if recipe.snapshots else 0
    snapshots = [with_prefix(tensors, f"snapshot {report}.") for report in range(1, count + 1)]
    return Trained(model.eval(), record["history"], recipe, snapshots)


def load_or_train_all(recipes: list[Recipe], *, workers: int | None = None) -> list[Trained]:
    """load_or_train for several recipes, in several processes of one thread each (see parallel).

    Teachers that several recipes share are trained once, first.
    """
    teachers = [recipe.teacher for recipe in recipes if recipe.teacher is not None]
    for batch in (teachers, recipes):
        unique = {_store.digest(asdict(recipe)): recipe for recipe in batch}.values()
        # A worker has not imported the module that registered the method, so the method goes along.
        todo = [(recipe, METHODS[recipe.method]) for recipe in unique
                if not _store.holds("model", _key(recipe), prefix=recipe.model)]
        parallel.run_all(_train_quietly, todo, workers=workers, what="training", unit="model")
    return [load_or_train(recipe) for recipe in recipes]


def _train_quietly(recipe: Recipe, method: Method) -> None:
    METHODS[recipe.method] = method
    load_or_train(recipe, quiet=True)


def _key(recipe: Recipe) -> dict:
    method, teacher = METHODS[recipe.method], recipe.teacher
    return {
        "recipe": _without_blanks(asdict(recipe)), "data": dataset(recipe.dataset, recipe.data_seed).fingerprint,
        "method_version": method.version, "teacher": None if teacher is None else _store.digest(_key(teacher)),
    }


def _without_blanks(record: dict) -> dict:
    """Without what is None, False, 0 or empty: an option that is added later and switched off changes no key."""
    return {name: _without_blanks(x) if isinstance(x, dict) else x for name, x in record.items() if x}


def untrained(recipe: Recipe, *, quiet: bool = False) -> nn.Module:
    """The network of a recipe before its first step: drawn from its seed, or cut out of its teacher.

    Its attribute classes has the names of the classes.
    """
    image_data = dataset(recipe.dataset, recipe.data_seed)
    if recipe.cut:
        assert recipe.teacher is not None  # checked by Recipe
        model = models.cut_student(load_or_train(recipe.teacher, quiet=quiet).model, **recipe.options)
        training.reestimate_batch_norm(model, image_data.train.images)
    else:
        with seeded(recipe.seed):
            model = models.build(recipe.model, len(image_data.classes), image_data.in_channels, **recipe.options)
            wrap = METHODS[recipe.method].wrap
            if wrap is not None:
                model = wrap(model, _context(recipe, quiet=quiet)).to(memory_format=torch.channels_last)
    model.classes = image_data.classes
    return model


def ingredients(recipe: Recipe, *, teacher: nn.Module | None = None, quiet: bool = False) -> dict:
    """What training.fit is given besides the model: images, loss, schedule, the teacher's recorded outputs, ….

    teacher: the network to record (default: that of the recipe's own teacher, trained where it is missing).
    """
    context = _context(recipe, teacher=teacher, quiet=quiet)
    method = METHODS[recipe.method]
    options = recipe.method_options | (method.prepare(context, **recipe.method_options) if method.prepare else {})
    recorded = options.pop("recorded", context.recorded)
    return {
        "train": context.train, "loss": functools.partial(method.loss, **options), "schedule": recipe.schedule,
        "seed": recipe.seed, "augmentation": _augmentation(recipe), "teacher": recorded,
        "validation": context.data.validation, "what": f"training the {recipe.model}", "quiet": quiet,
    }


def _context(recipe: Recipe, *, teacher: nn.Module | None = None, quiet: bool = False) -> Context:
    image_data = dataset(recipe.dataset, recipe.data_seed)
    train = image_data.train + image_data.transfer if recipe.transfer else image_data.train
    for label in recipe.without:
        train = train.subset(train.labels != label)
    recorded = None
    if recipe.teacher is not None:
        teacher = teacher or load_or_train(recipe.teacher, quiet=quiet).model
        recorded = record(teacher, train.images, views=recipe.schedule.views, augmentation=_augmentation(recipe),
                          classes=image_data.classes, quiet=quiet)
    return Context(image_data, train, teacher, recorded, recipe.seed)


def _augmentation(recipe: Recipe) -> Augmentation:
    return recipe.augmentation or dataset(recipe.dataset, recipe.data_seed).augmentation


def dataset(name: str, seed: int = 0) -> data.ImageData:
    """data.load, remembered: the sets of a notebook are read once.

    Raises ValueError where DISTILL_DATASET has changed since this module was imported: TEACHER would be of the old
    dataset, and the student of the new one.
    """
    if settings.dataset() != TEACHER.dataset:
        raise ValueError(f"DISTILL_DATASET was {TEACHER.dataset!r} at import and is {settings.dataset()!r} now: "
                         "restart the kernel, and set it before distill_utils is imported")
    return _dataset(name, seed)


@functools.lru_cache(maxsize=2)
def _dataset(name: str, seed: int) -> data.ImageData:
    return data.load(name, seed=seed)


def record(teacher: nn.Module, images: Tensor, *, views: int = 0, augmentation: Augmentation = NONE,
           classes: tuple[str, ...] | None = None, batch_size: int = 500, quiet: bool = False) -> Recorded:
    """The teacher's logits on every view of the images, recorded or loaded (lesson 02).

    images: float N×channels×H×W; views: how many augmented views; 0: the unaugmented images; classes: names of your
    classes in the order of the labels, compared with the teacher's own, if it has any; batch_size: images in memory
    at a time. Returns one float16 tensor N×C per view, which fit compares with the images that it trains on and
    looks up by (view, position in the set). Logits, not probabilities: the temperature can still be chosen. Their
    error is at most 2⁻⁷ where they are below 32 in size. Each view is an artifact of its own, keyed by the teacher's
    weights, the images and the augmentation; a teacher that was recorded before is asked about eight images again,
    and recorded anew if it answers differently. Raises ValueError for images that contain NaN or inf, other classes,
    and logits above 65504 or not finite.
    """
    _validate.tensors(images=(images, "float N×channels×H×W"))
    _validate.number("views", views, 0, whole=True)
    _validate.number("batch_size", batch_size, 1, whole=True)
    _validate.finite_images("images to record", images)
    own = getattr(teacher, "classes", None)
    _recorded.check_classes(own, classes)
    key: dict = {
        "teacher": _store.checksum(teacher.state_dict()), "architecture": repr(teacher),
        "images": _recorded.fingerprint(images),
    }

    def asked(index: Tensor, view: int) -> Tensor:
        batch = augment(images[index], index, view, augmentation) if views else images[index]
        return training.logits(teacher, batch, batch_size=len(batch))

    made, total = [], max(views, 1) * len(images)
    with training.progress_bar(total, "recording the teacher", unit="image", quiet=quiet) as bar:

        def view_of(view: int) -> Tensor:
            view_key = key | {"view": view, "augmentation": asdict(augmentation)} if views else key

            def make(partial):
                parts = []
                for index in torch.arange(len(images)).split(batch_size):
                    parts.append(asked(index, view).half())
                    bar.update(len(index))
                made.append(view)
                if not all(bool(part.isfinite().all()) for part in parts):
                    raise ValueError("cannot record this teacher: its logits are not finite in half precision")
                return {"logits": torch.cat(parts)}, {}

            return _store.load_or_make("logits", view_key, make)[0]["logits"]

        first = view_of(0)
        while not made and not _answers_as_recorded(lambda index: asked(index, 0), first):
            key["forward"] = key.get("forward", 1) + 1  # beside what was recorded of another one with these weights
            first = view_of(0)
        recorded = [first]
        for view in range(1, views):
            bar.update(view * len(images) - bar.n)
            recorded.append(view_of(view))
    return Recorded(recorded, images=key["images"], views=views, augmentation=augmentation if views else None,
                    classes=tuple(own or classes or ()) or None)


def _answers_as_recorded(asked: Callable[[Tensor], Tensor], recorded: Tensor) -> bool:
    """Whether a teacher still answers about eight images as recorded, up to rounding. One that never answers twice
    alike cannot be compared, and passes."""
    index = torch.linspace(0, len(recorded) - 1, min(8, len(recorded))).long().unique()

    def differ(a: Tensor, b: Tensor) -> bool:
        return a.shape != b.shape or bool((a - b).abs().max() > 2**-7 * b.abs().max())

    now = asked(index).float()
    return not differ(now, recorded[index].float()) or differ(asked(index).float(), now)
