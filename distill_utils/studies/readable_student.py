"""Study "readable_student": what a tree that can be read costs in accuracy, and what a teacher gives back.

Soft decision trees and CARTs of several depths, trained on labels or distilled from a convolutional teacher of the
same seed: on digits, on MNIST with the series' 3,000 labels and the other images unlabelled, and, at depth 8, on
MNIST with every label, as in Frosst and Hinton (2017). At one depth, ablations show what a teacher adds: softer
targets, targets for unlabelled images, and targets for slightly changed images.

Trees of depth 4 with twelve pixels per gate are the ones that lesson 09 draws and puts into words. Their claims were
declared after the others, before their first run, and are secondary: does a teacher help such a tree, too, what do
its few pixels cost, and how far is it behind its teacher?

On glyphs a linear gate cannot use the pixels (polarity and place are random). There a CART on the generator's factors
is fitted to the predictions of the series' networks: how deep must it be to follow them?

Steps, learning rates, temperatures and the size of small changes were chosen on validation images of seeds 0 and 1,
for trees on labels and for distilled trees separately.
"""

from dataclasses import asdict, dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_utils import _store, hard_tree, recipes, studies
from distill_utils._checkpoint import with_prefix
from distill_utils.augment import DIGITS, NONE, Augmentation, augment
from distill_utils.data import ImageSet
from distill_utils.evaluation import compare, score
from distill_utils.hard_tree import HardTree
from distill_utils.recipes import Recipe, load_or_train
from distill_utils.training import Schedule, logits

DEPTHS = (3, 4, 5, 6, 8)
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
    nearby: Augmentation = NONE  # small changes of the images on which a distilled tree is trained
    views: int = 0  # how many changed copies of every image
    depths: tuple = DEPTHS
    trees: tuple = ("soft", "cart")
    ablation_depth: int = 8
    ablations: dict = field(default_factory=dict)  # name of a claim → arm at ablation_depth


_ENDLESS = 1_000_000  # views: every epoch sees new ones
_LABELLED = {"target": "distilled", "images": "labelled"}
_HARD_LABELS_ONLY = {"target": "distilled", "temperature": 0.01}  # so low that only the teacher's class is left
_SPARSE = {"target": "distilled", "filters": "sparse"}
DRAWN = {"tree": "soft", "depth": 4, "filters": "twelve"}  # twelve pixels per gate: a person can read it
_FILTERS = {"sparse": {"sparsity": 1e-4, "smoothness": 1e-4}, "twelve": {"pixels": 12}}  # name -> method_options
_ANNEALED = {"target": "distilled", "final_inverse_temperature": 3.0}
_SETTINGS = {
    "digits": _Setting(
        {}, Schedule(steps=1500, views=_ENDLESS), Augmentation(rotation=0.15, shift=0.7),
        labels=Schedule(steps=3000, lr=1e-2), distilled=Schedule(steps=3000, lr=1e-2), temperature=1.0,
        nearby=Augmentation(rotation=0.05, shift=0.3), views=16, ablation_depth=5,
        ablations={
            "labels on images nearby against labels": {"target": "labels", "images": "nearby"},
            "soft targets on labelled images against labels": _LABELLED,
            "soft targets on unlabelled images too against labels": {"target": "distilled", "images": "unlabelled"},
            "soft targets against bare answers, both on all images": _HARD_LABELS_ONLY,
            "annealed against not annealed, distilled": _ANNEALED,
            "sparse and smooth filters against others, distilled": _SPARSE,
        },
    ),
    "mnist": _Setting(
        {"width": 16}, Schedule(steps=2000, views=_ENDLESS), DIGITS,
        labels=Schedule(steps=2000, lr=3e-3), distilled=Schedule(steps=8000, lr=3e-3), temperature=1.0,
        ablations={
            "soft targets on labelled images against labels": _LABELLED,
            "soft targets against bare answers, both on all images": _HARD_LABELS_ONLY,
            "annealed against not annealed, distilled": _ANNEALED,
        },
    ),
    "mnist_all": _Setting(
        {"width": 16}, Schedule(steps=2000, views=_ENDLESS), DIGITS,
        labels=Schedule(steps=8000, lr=3e-3), distilled=Schedule(steps=8000, lr=3e-3), temperature=2.0,
        depths=(8,), trees=("soft",),
    ),
}
TARGETS = ("labels", "distilled")
MODELS = ("untrained", "teacher", "alone", "distilled")  # of the series, on glyphs
# What the arms of the grid leave out. images: "labelled", "unlabelled" (those as well) or "nearby" (all of them, and
# changed copies); filters: "sparse" or "twelve".
WHOLE = dict.fromkeys(("images", "temperature", "final_inverse_temperature", "filters"))
SURROGATE_DEPTHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20)
_FACTORS = (
    "label", "face", "rotation", "shear", "aspect", "cap_height", "x", "y", "contrast",
    "distractor", "distractor_x", "distractor_y", "distractor_contrast",
)


def arms(dataset: str) -> list[dict]:
    """The teacher; both kinds of tree on both kinds of target at every depth; the ablations."""
    if dataset == "glyphs":
        return [{"model": name} for name in MODELS]
    setting = _SETTINGS[dataset]
    grid = [{"tree": tree, "depth": depth, "target": target}
            for tree in setting.trees for target in TARGETS for depth in setting.depths]
    ablations = [{"tree": "soft", "depth": setting.ablation_depth, **part} for part in setting.ablations.values()]
    drawn = [DRAWN | {"target": target} for target in TARGETS if DRAWN["depth"] in setting.depths]
    return [{"tree": "teacher"}, *grid, *ablations, *drawn]


def recipe(arm: dict, seed: int, dataset: str) -> Recipe:
    """The recipe of the teacher or of a soft tree; data, teacher and tree share the seed. What an arm leaves out is
    that of the grid: labels on the labelled images, soft targets on all images and their changed copies."""
    setting = _SETTINGS[dataset]
    at = {"dataset": dataset, "seed": seed, "data_seed": seed}
    if arm["tree"] == "teacher":
        return Recipe(model="teacher", options=setting.network, schedule=setting.teacher, augmentation=setting.jitter,
                      **at)
    on_labels = arm["target"] == "labels"
    images = arm.get("images", "labelled" if on_labels else "nearby")
    schedule = replace(setting.labels if on_labels else setting.distilled, views=setting.views * (images == "nearby"))
    options = {} if on_labels else {"temperature": arm.get("temperature", setting.temperature)}
    if "filters" in arm:
        options |= _FILTERS[arm["filters"]]
    if "final_inverse_temperature" in arm:
        options["final_inverse_temperature"] = arm["final_inverse_temperature"]
    side = recipes.dataset(dataset, seed).train.images.shape[-1]
    return Recipe(
        model="soft_tree", options={"in_features": side**2, "depth": arm["depth"]}, method_options=options,
        method="tree_on_labels" if on_labels else "tree_on_soft_targets",
        teacher=None if on_labels else recipe({"tree": "teacher"}, seed, dataset),
        transfer=not on_labels and images != "labelled", schedule=schedule, augmentation=setting.nearby, **at,
    )


def teacher(seed: int, dataset: str) -> nn.Module:
    """The convolutional teacher of the trees, loaded or trained."""
    return load_or_train(recipe({"tree": "teacher"}, seed, dataset), quiet=True).model


def carts(target: str, seed: int, dataset: str) -> dict[int, HardTree]:
    """CARTs of every depth: on labels, or on the teacher's centred logits for all images and their changed copies."""
    setting, image_data = _SETTINGS[dataset], recipes.dataset(dataset, seed)

    def make(partial):
        images, targets = image_data.train.images, F.one_hot(image_data.train.labels, 10).float()
        if target == "distilled":
            network, whole = teacher(seed, dataset), torch.cat([images, image_data.transfer.images])
            nearby = [augment(whole, torch.arange(len(whole)), v, setting.nearby) for v in range(setting.views)]
            recorded = recipes.record(network, whole, quiet=True)
            if setting.views:
                recorded += recipes.record(network, whole, views=setting.views, augmentation=setting.nearby,
                                           quiet=True)
            images, targets = torch.cat([whole, *nearby]), torch.cat(recorded).float()
            targets = targets - targets.mean(1, keepdim=True)
        grown = hard_tree.cart(images, targets, max(DEPTHS), seed=seed)
        found = {depth: hard_tree.from_cart(grown, depth=depth, logits=target == "distilled") for depth in DEPTHS}
        tensors = {f"{depth}.{name}": x for depth, tree in found.items() for name, x in tree.state_dict().items()}
        return tensors, {}

    key = {"target": target, "seed": seed, "setting": asdict(setting), "data": image_data.fingerprint}
    kept, _ = _store.load_or_make("cart", key, make)
    return {depth: HardTree(**with_prefix(kept, f"{depth}.")) for depth in DEPTHS}


def run(arm: dict, seed: int, dataset: str) -> dict:
    """Accuracies and agreements in [0, 1]; for a tree also the complexity and hardening_fidelity of its export."""
    if dataset == "glyphs":
        return _surrogate_fidelity_metrics(arm["model"], seed)
    image_data = recipes.dataset(dataset, seed)
    validation, test = image_data.validation, image_data.test
    if arm["tree"] == "teacher":
        answer = teacher(seed, dataset)
        return {"validation_accuracy": _accuracy(answer, validation), "test_accuracy": _accuracy(answer, test)}
    metrics = {}
    if arm["tree"] == "cart":
        answer = hard = carts(arm["target"], seed, dataset)[arm["depth"]]
    else:
        tree = load_or_train(recipe(arm, seed, dataset), quiet=True).model
        hard = hard_tree.harden(tree, torch.cat([image_data.train.images, image_data.transfer.images]))
        answer = tree.path_logits
        metrics |= {"test_accuracy_mixture": _accuracy(tree, test), "test_accuracy_hard": _accuracy(hard, test)}
        fidelity = hard_tree.hardening_fidelity(tree, hard, test.images)
        metrics |= {f"hard_{name}": value for name, value in fidelity.items()}
    metrics |= {"validation_accuracy": _accuracy(answer, validation), "test_accuracy": _accuracy(answer, test)}
    with torch.no_grad():
        teachers = logits(teacher(seed, dataset), test.images)
        metrics["agreement"] = compare(answer(test.images), teachers)["agreement"]
    return metrics | hard_tree.complexity(hard, test.images)


def _accuracy(answer, image_set: ImageSet) -> float:
    with torch.no_grad():
        return score(answer(image_set.images), image_set.labels)["accuracy"]


def _surrogate_fidelity_metrics(name: str, seed: int) -> dict:
    """How often a CART on the factors of glyphs predicts what a network of the series predicts, by depth."""
    image_data = recipes.dataset("glyphs", seed)
    at = {"dataset": "glyphs", "seed": seed, "data_seed": seed}
    theirs, alone = replace(recipes.TEACHER, **at), Recipe(**at)
    distilled = replace(alone, method="distillation", method_options={"temperature": 8.0}, teacher=theirs)
    chosen = {"teacher": theirs, "alone": alone, "distilled": distilled}
    network = recipes.untrained(alone) if name == "untrained" else load_or_train(chosen[name], quiet=True).model

    def factors_and_answers(part: ImageSet) -> tuple[Tensor, Tensor]:
        factors = torch.stack([part.factors[name].float() for name in _FACTORS], 1)
        return factors, logits(network, part.images).argmax(1)

    fidelity = hard_tree.surrogate_fidelity(
        *factors_and_answers(image_data.transfer), factors_and_answers(image_data.test), SURROGATE_DEPTHS)
    return {"test_accuracy": _accuracy(lambda images: logits(network, images), image_data.test),
            **{f"fidelity_{depth}": value for depth, value in fidelity.items()}}


def claims(dataset: str) -> list[studies.Claim]:
    """Does distillation help each kind of tree at each depth; what of it helps; and who is easier to follow?"""
    if dataset == "glyphs":
        name = "a CART of depth 8 on the factors follows the distilled student better than the student alone"
        distilled, alone = (_pick("fidelity_8", model=model) for model in ("distilled", "alone"))
        # The more accurate network answers more often what the label predicts, and any CART finds the label.
        beyond = (_beyond_accuracy("distilled"), _beyond_accuracy("alone"))
        return [studies.Claim(name, "fidelity_8", distilled, alone, SMALLEST, label="agreement of the CART"),
                studies.Claim(f"{name}, beyond their accuracies", "fidelity_8", *beyond, SMALLEST,
                              label="agreement of the CART minus accuracy of the network")]
    setting, rows = _SETTINGS[dataset], []

    def claim(name: str, treated: dict, control: dict, *, primary: bool = True) -> None:
        pair = (_pick("test_accuracy", **arm) for arm in (treated, control))
        rows.append(studies.Claim(name, "test_accuracy", *pair, SMALLEST, label="test accuracy of the tree",
                                  primary=primary))

    for tree in setting.trees:
        for depth in setting.depths:
            labels, whole = ({"tree": tree, "depth": depth, "target": target} for target in TARGETS)
            claim(f"distilled against labels, {tree} tree, depth {depth}", whole, labels)
    labels, whole = ({"tree": "soft", "depth": setting.ablation_depth, "target": target} for target in TARGETS)
    for name, part in setting.ablations.items():
        if part is _HARD_LABELS_ONLY:
            claim(name, whole, labels | part)
        else:
            claim(name, labels | part, whole if part in (_ANNEALED, _SPARSE) else labels)
    deepest = {"tree": "soft", "depth": max(setting.depths), "target": TARGETS[1]}
    claim(f"a distilled tree of depth {max(setting.depths)} against its teacher", deepest, {"tree": "teacher"},
          primary=False)
    if DRAWN["depth"] in setting.depths:
        on_labels, drawn = (DRAWN | {"target": target} for target in TARGETS)
        every_pixel = {key: value for key, value in drawn.items() if key != "filters"}
        for name, control in (("distilled against labels", on_labels), ("against all pixels, distilled", every_pixel),
                              ("distilled against its teacher", {"tree": "teacher"})):
            claim(f"twelve pixels per gate, depth 4, {name}", drawn, control, primary=False)
    return rows


def _beyond_accuracy(model: str):
    pick, accuracy = _pick("fidelity_8", model=model), _pick("test_accuracy", model=model)
    return lambda runs: [a - b for a, b in zip(pick(runs), accuracy(runs), strict=True)]


def _pick(metric: str, **arm):
    """Chooses the runs of exactly this arm, without other settings."""
    return lambda runs: studies.select(runs, metric, **WHOLE | arm)


STUDY = studies.Study(
    "readable_student", arms, run, claims, datasets=("digits", "mnist", "mnist_all", "glyphs"),
    keys=("model", "tree", "depth", "target", "images", "temperature", "final_inverse_temperature", "filters"),
)
