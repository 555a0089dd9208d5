"""Study "readable_student": what a tree that can be read costs in accuracy, and what a teacher gives back.

Soft decision trees and CARTs of several depths, each grown on labels and distilled from a convolutional teacher of
the same seed: on digits (scikit-learn's 8×8 images), on MNIST with the series' 3,000 labels and the other images
unlabelled, and, at depth 8, on MNIST with every label as Frosst and Hinton (2017) had it. There they report 94.45 %
on labels (as a reader rebuilt it) and 96.76 % distilled, single runs. On one depth the distilled soft tree is taken
apart: a teacher brings softer targets, answers on images without a label, and answers on images changed a little.

On glyphs no tree reads the pixels (random polarity and place leave a linear gate nothing to add up), so there a CART
on the generator's own factors is fitted to what the series' networks say: how deep must it be to follow them?

Steps, learning rates, temperatures and the size of small changes were chosen on validation images of seeds 0 and 1,
for trees on labels and for distilled trees each by itself.
"""

import functools
from dataclasses import asdict, dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_utils import models, readable, recipes, soft_tree, store, studies, teacher_cache, training
from distill_utils.augment import DIGITS, NONE, Augmentation, augment
from distill_utils.data import ImageSet
from distill_utils.evaluation import compare, score
from distill_utils.readable import HardTree
from distill_utils.soft_tree import SoftDecisionTree
from distill_utils.training import Schedule, logits

DEPTHS = (3, 4, 5, 6, 8)
PUBLISHED = {"labels": 0.9445, "distilled": 0.9676}  # path accuracy at depth 8 on MNIST
SMALLEST = 0.005  # of accuracy or agreement: half a point would matter


@dataclass(frozen=True)
class _Setting:
    """How teacher and trees are made on one dataset."""

    network: dict  # options of the teacher's network
    teacher: Schedule
    jitter: Augmentation  # what the teacher is trained on
    labels: Schedule  # of a tree on labels
    distilled: Schedule  # of a distilled tree
    temperature: float
    nearby: Augmentation = NONE  # small changes of the images that a distilled tree is asked about
    views: int = 0  # how many changed copies of every image
    depths: tuple = DEPTHS
    trees: tuple = ("soft", "cart")
    taken_apart: int = 8  # the depth at which the distilled tree is taken apart …
    parts: dict = field(default_factory=dict)  # … into arms between labels alone and all of it


_ENDLESS = 1_000_000  # views: every epoch sees new ones
_LABELLED = {"target": "distilled", "images": "labelled"}
_BARE = {"target": "distilled", "temperature": 0.01}  # so cold that only the preferred class is left
_SPARSE = {"target": "distilled", "filters": "sparse"}
_ANNEALED = {"target": "distilled", "final_inverse_temperature": 3.0}
_SETTINGS = {
    "digits": _Setting(
        {}, Schedule(steps=1500, views=_ENDLESS), Augmentation(rotation=0.15, shift=0.7),
        labels=Schedule(steps=3000, lr=1e-2), distilled=Schedule(steps=3000, lr=1e-2), temperature=1.0,
        nearby=Augmentation(rotation=0.05, shift=0.3), views=16, taken_apart=5,
        parts={
            "labels on images nearby against labels": {"target": "labels", "images": "nearby"},
            "soft targets on labelled images against labels": _LABELLED,
            "soft targets on unlabelled images too against labels": {"target": "distilled", "images": "unlabelled"},
            "soft targets against bare answers, both on all images": _BARE,
            "annealed against not annealed, distilled": _ANNEALED,
            "sparse and smooth filters against others, distilled": _SPARSE,
        },
    ),
    "mnist": _Setting(
        {"width": 16}, Schedule(steps=2000, views=_ENDLESS), DIGITS,
        labels=Schedule(steps=2000, lr=3e-3), distilled=Schedule(steps=8000, lr=3e-3), temperature=1.0,
        parts={
            "soft targets on labelled images against labels": _LABELLED,
            "soft targets against bare answers, both on all images": _BARE,
            "annealed against not annealed, distilled": _ANNEALED,
        },
    ),
    "mnist_all": _Setting(
        {"width": 16}, Schedule(steps=2000, views=_ENDLESS), DIGITS,
        labels=Schedule(steps=8000, lr=3e-3), distilled=Schedule(steps=8000, lr=3e-3), temperature=2.0,
        depths=(8,), trees=("soft",),
    ),
}  # fmt: skip
TARGETS = ("labels", "distilled")
MODELS = ("untrained", "teacher", "alone", "distilled")  # of the series, on glyphs
# What the arms of the grid leave out. images: "labelled", "unlabelled" (those as well) or "nearby" (and all of them
# changed a little); filters: "sparse".
WHOLE = dict.fromkeys(("images", "temperature", "final_inverse_temperature", "filters"))
SURROGATE_DEPTHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20)
_FACTORS = (
    "label", "face", "rotation", "shear", "aspect", "cap_height", "x", "y", "contrast",
    "distractor", "distractor_x", "distractor_y", "distractor_contrast",
)  # fmt: skip


def arms(dataset: str) -> list[dict]:
    """The teacher; both kinds of tree on both kinds of target at every depth; the distilled soft tree taken apart."""
    if dataset == "glyphs":
        return [{"model": name} for name in MODELS]
    setting = _SETTINGS[dataset]
    grid = [
        {"tree": tree, "depth": depth, "target": target}
        for tree in setting.trees for target in TARGETS for depth in setting.depths
    ]  # fmt: skip
    apart = [{"tree": "soft", "depth": setting.taken_apart, **part} for part in setting.parts.values()]
    return [{"tree": "teacher"}, *grid, *apart]


# What is trained, each kept in the store


def teacher(seed: int, dataset: str, *, quiet: bool = True) -> nn.Module:
    """The convolutional teacher of the trees, loaded or trained."""
    setting, image_data = _SETTINGS[dataset], images_of(dataset, seed)
    network = _seeded(seed, lambda: models.build("teacher", 10, 1, **setting.network))

    def make(partial):
        history = training.fit(network, image_data.train, recipes.hard_labels, setting.teacher, seed=seed,
                               augmentation=setting.jitter, checkpoint=partial, quiet=quiet,
                               what="training the teacher")  # fmt: skip
        return network.state_dict(), {"history": history}

    network.load_state_dict(_kept({"tree": "teacher"}, seed, dataset, make))
    return network.eval()


def soft(arm: dict, seed: int, dataset: str, *, quiet: bool = True) -> SoftDecisionTree:
    """The soft tree of an arm, loaded or grown. What an arm leaves out is that of the grid: labels on the labelled
    images, soft targets on all images and on images nearby."""
    setting, image_data = _SETTINGS[dataset], images_of(dataset, seed)
    images = arm.get("images", "labelled" if arm["target"] == "labels" else "nearby")
    temperature = arm.get("temperature", setting.temperature)
    tree = _seeded(seed, lambda: SoftDecisionTree(image_data.train.images[0].numel(), 10, arm["depth"]))

    def make(partial):
        schedule = setting.labels if arm["target"] == "labels" else setting.distilled
        schedule = replace(schedule, views=setting.views if images == "nearby" else 0)
        train, recorded, loss = image_data.train, None, soft_tree.on_labels
        if arm["target"] == "distilled":
            train = train if images == "labelled" else train + image_data.transfer
            recorded = _recorded(seed, dataset, train.images, schedule.views)
            loss = functools.partial(soft_tree.on_soft_targets, temperature=temperature)
        if "filters" in arm:
            loss = functools.partial(loss, sparsity=1e-4, smoothness=1e-4)
        if "final_inverse_temperature" in arm:
            loss = functools.partial(loss, final_inverse_temperature=arm["final_inverse_temperature"])
        history = training.fit(tree, train, loss, schedule, seed=seed, augmentation=setting.nearby, teacher=recorded,
                               checkpoint=partial, what="growing a tree", quiet=quiet)  # fmt: skip
        return tree.state_dict(), {"history": history}

    tree.load_state_dict(_kept(arm, seed, dataset, make))
    return tree.eval()


def carts(target: str, seed: int, dataset: str) -> dict[int, HardTree]:
    """CARTs of every depth: on labels, or on the teacher's centred logits on all images and on images nearby."""
    setting, image_data = _SETTINGS[dataset], images_of(dataset, seed)

    def make(partial):
        images, targets = image_data.train.images, F.one_hot(image_data.train.labels, 10).float()
        if target == "distilled":
            whole = torch.cat([images, image_data.transfer.images])
            everyone = torch.arange(len(whole))
            nearby = [augment(whole, everyone, view, setting.nearby) for view in range(setting.views)]
            answers = _recorded(seed, dataset, whole, 0)
            if setting.views:
                answers = [*answers, *_recorded(seed, dataset, whole, setting.views)]
            images, targets = torch.cat([whole, *nearby]), torch.cat(answers).float()
            targets = targets - targets.mean(1, keepdim=True)
        grown = readable.cart(images, targets, max(DEPTHS), seed=seed)
        found = {depth: readable.from_cart(grown, depth=depth, logits=target == "distilled") for depth in DEPTHS}
        tensors = {f"{depth}.{name}": x for depth, tree in found.items() for name, x in tree.state_dict().items()}
        return tensors, {}

    kept = _kept({"tree": "cart", "target": target}, seed, dataset, make)
    names = ("weights", "biases", "below", "leaves", "nodes")
    return {depth: HardTree(*(kept[f"{depth}.{name}"] for name in names)) for depth in DEPTHS}


def images_of(dataset: str, seed: int):
    """The images of the study on a dataset, drawn by seed."""
    return recipes.dataset(dataset, seed)


def _recorded(seed: int, dataset: str, images: Tensor, views: int) -> list[Tensor]:
    nearby = _SETTINGS[dataset].nearby
    return teacher_cache.record(teacher(seed, dataset), images, views=views, augmentation=nearby, quiet=True)


def _seeded(seed: int, build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _kept(arm: dict, seed: int, dataset: str, make) -> dict[str, Tensor]:
    key = {"arm": arm, "seed": seed, "setting": asdict(_SETTINGS[dataset]),
           "data": images_of(dataset, seed).fingerprint, "code": store.code_version(*STUDY.code)}  # fmt: skip
    tensors, _ = store.load_or_make("tree", key, make)
    return tensors


# What is measured


def run(arm: dict, seed: int, dataset: str) -> dict:
    """Accuracies and agreements in [0, 1]; of a tree also what it takes to read it (readable.measures of the hard
    export) and how near the soft tree is to that export (readable.hardness)."""
    if dataset == "glyphs":
        return _followed(arm["model"], seed)
    image_data = images_of(dataset, seed)
    validation, test = image_data.validation, image_data.test
    if arm["tree"] == "teacher":
        network = teacher(seed, dataset)
        return {"validation_accuracy": _accuracy(network, validation), "test_accuracy": _accuracy(network, test)}
    metrics = {}
    if arm["tree"] == "cart":
        answer = hard = carts(arm["target"], seed, dataset)[arm["depth"]]
    else:
        tree = soft(arm, seed, dataset)
        hard = readable.harden(tree, torch.cat([image_data.train.images, image_data.transfer.images]))
        answer = tree.path_logits
        metrics |= {"test_accuracy_mixture": _accuracy(tree, test), "test_accuracy_hard": _accuracy(hard, test)}
        metrics |= {f"hard_{name}": value for name, value in readable.hardness(tree, hard, test.images).items()}
    metrics |= {"validation_accuracy": _accuracy(answer, validation), "test_accuracy": _accuracy(answer, test)}
    with torch.no_grad():
        teachers = logits(teacher(seed, dataset), test.images)
        metrics["agreement"] = compare(answer(test.images), teachers)["agreement"]
    return metrics | readable.measures(hard, test.images)


def _accuracy(answer, image_set: ImageSet) -> float:
    with torch.no_grad():
        return score(answer(image_set.images), image_set.labels)["accuracy"]


def _followed(name: str, seed: int) -> dict:
    """How often a CART on the factors of glyphs says what a network of the series says, by depth."""
    image_data = recipes.dataset("glyphs", seed)
    at = {"dataset": "glyphs", "seed": seed, "data_seed": seed}
    theirs = replace(recipes.TEACHER, **at)
    alone = recipes.Recipe(**at)
    chosen = {
        "teacher": theirs, "alone": alone,
        "distilled": replace(alone, method="distillation", method_options={"temperature": 8.0}, teacher=theirs),
    }  # fmt: skip
    if name == "untrained":
        network = _seeded(seed, lambda: models.build("student", len(image_data.classes)))
    else:
        network = recipes.load_or_train(chosen[name], quiet=True).model
    seen, held_out = (_factors_and_answers(network, part) for part in (image_data.transfer, image_data.test))
    fidelity = readable.surrogate_fidelity(*seen, held_out, SURROGATE_DEPTHS)
    return {"test_accuracy": _accuracy(lambda images: logits(network, images), image_data.test),
            **{f"fidelity_{depth}": value for depth, value in fidelity.items()}}  # fmt: skip


def _factors_and_answers(network, part: ImageSet) -> tuple[Tensor, Tensor]:
    return torch.stack([part.factors[name].float() for name in _FACTORS], 1), logits(network, part.images).argmax(1)


# What is asked


def claims(dataset: str) -> list[studies.Claim]:
    """Does distillation help each kind of tree at each depth; what of it helps; and who is easier to follow?"""
    if dataset == "glyphs":
        name = "a CART of depth 8 on the factors follows the distilled student better than the student alone"
        distilled, alone = (_pick("fidelity_8", model=model) for model in ("distilled", "alone"))
        return [studies.Claim(name, "fidelity_8", distilled, alone, SMALLEST)]
    rows = []
    for tree in _SETTINGS[dataset].trees:
        for depth in _SETTINGS[dataset].depths:
            at = {"tree": tree, "depth": depth}
            pair = (_pick("test_accuracy", **at, target=target) for target in ("distilled", "labels"))
            rows.append(_claim(f"distilled against labels, {tree} tree, depth {depth}", *pair))
    at = {"tree": "soft", "depth": _SETTINGS[dataset].taken_apart}
    labels, whole = (_pick("test_accuracy", **at, target=target) for target in TARGETS)
    for name, part in _SETTINGS[dataset].parts.items():
        pick = _pick("test_accuracy", **at, **part)
        pair = (whole, pick) if part is _BARE else (pick, whole if part in (_ANNEALED, _SPARSE) else labels)
        rows.append(_claim(name, *pair))
    return rows


def _claim(name: str, treated, control) -> studies.Claim:
    return studies.Claim(name, "test_accuracy", treated, control, SMALLEST)


def _pick(metric: str, **arm):
    """Chooses the runs of exactly this arm: what it leaves out, the arm leaves out as well."""
    arm = WHOLE | arm
    return lambda runs: studies.select(runs, metric, **arm)


STUDY = studies.Study(
    "readable_student", arms, run, claims,
    code=("counter", "glyphs", "data", "augment", "models", "losses", "training", "recipes", "soft_tree", "readable",
          "study_readable_student"),
    datasets=("digits", "mnist", "mnist_all", "glyphs"),
)  # fmt: skip
