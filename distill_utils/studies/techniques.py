"""Study "techniques": published techniques of distillation against plain distillation, with an equal budget.

Every technique trains the same student (the plain CNN of width 8) from the same first weights, on the same batches of
the labelled images without augmentation, for the same number of steps; and each may choose among three settings, on
validation, at one seed that is not reported. What a technique adds to (hints, attention, relations) is distillation
at the temperature below, the middle one of the three among which plain distillation chooses. Teachers of the same
seed are shared. SimKD alone ends with a larger network, since it keeps a projector and the teacher's head, and says
so in `parameters`. Each technique is a method of training with its own name (see recipes.method).
"""

import functools
import statistics
import time
from dataclasses import replace

from torch import nn

from distill_utils import feature_losses, losses, recipes, studies, training
from distill_utils.evaluation import evaluate, look_alikes, soft_confusions
from distill_utils.recipes import Context, Recipe, load_or_train, method
from distill_utils.training import Schedule

TEMPERATURE = 16.0  # of what is split or added to: near the limit, where the loss hardly depends on it
SMALLEST = 0.01  # of accuracy: a difference of one point would matter
TUNING_SEED = 1000


# What a technique needs besides the student and the batch


def _look_alike_groups(context: Context, **options) -> dict:
    """Half as many groups as there are classes, by the teacher's mean soft targets on the training images, so that
    neither validation nor test is looked at."""
    assert context.recorded is not None
    alike = soft_confusions(context.recorded[0].float(), context.train.labels, TEMPERATURE)
    return {"groups": look_alikes(alike, len(context.data.classes) // 2)}


def _teacher(context: Context, **options) -> dict:
    return {"teacher": context.teacher}


def _with_hint(student: nn.Module, context: Context) -> nn.Module:
    return feature_losses.Hinted(student, context.teacher, 1, context.train.images.shape[1:])


def _with_teachers_head(student: nn.Module, context: Context) -> nn.Module:
    return feature_losses.SimKD(student, context.teacher)


# The techniques


@method("look-alike groups", prepare=_look_alike_groups)
def _groups(model, batch, *, within, groups):
    student = model(batch.images)
    return losses.group_kd_loss(student, batch.teacher_logits, groups, TEMPERATURE, within=within), {}


@method("DKD")
def _dkd(model, batch, *, beta):
    student, warm_up = model(batch.images), min(12 * batch.progress, 1.0)  # the paper's 20 of 240 epochs
    soft = losses.dkd_loss(student, batch.teacher_logits, batch.labels, TEMPERATURE, beta=beta)
    return losses.hard_label_loss(student, batch.labels) + warm_up * soft, {}


@method("grouped KD")
def _primary(model, batch, *, mass):
    groups = losses.primary_groups(batch.teacher_logits, TEMPERATURE, mass)
    outer, inner = losses.group_kd_parts(model(batch.images), batch.teacher_logits, groups, TEMPERATURE)
    return outer + inner[0], {}


@method("logit standardisation")
def _standardised(model, batch, *, temperature):
    student = model(batch.images)
    soft = losses.logit_standardised_loss(student, batch.teacher_logits, temperature)
    return 0.1 * losses.hard_label_loss(student, batch.labels) + 9 * soft, {}


@method("DIST")
def _dist(model, batch, *, temperature):
    student = model(batch.images)
    relations = losses.dist_loss(student, batch.teacher_logits, temperature, inter=2.0, intra=2.0)
    return losses.hard_label_loss(student, batch.labels) + relations, {}


@method("FitNets hint", prepare=_teacher, wrap=_with_hint)
def _hint(model, batch, *, weight, teacher):
    name = [feature_losses.stages(model.student)[model.stage]]
    student, (maps,) = feature_losses.read(model.student, batch.images, name)
    (hints,) = feature_losses.read_teacher(teacher, batch.images, name, student.shape[1])
    return _soft(student, batch) + weight * feature_losses.hint_loss(maps, hints, model.regressor), {}


@method("attention transfer", prepare=_teacher)
def _attention(model, batch, *, weight, teacher):
    names = feature_losses.stages(model)
    student, maps = feature_losses.read(model, batch.images, names)
    hints = feature_losses.read_teacher(teacher, batch.images, names, student.shape[1])
    return _soft(student, batch) + weight * sum(map(feature_losses.attention_transfer_loss, maps, hints)), {}


@method("RKD", prepare=_teacher)
def _relations(model, batch, *, weight, teacher):
    student, (own,) = feature_losses.read(model, batch.images, ["pool"])
    (target,) = feature_losses.read_teacher(teacher, batch.images, ["pool"], student.shape[1])
    pair = own.flatten(1), target.flatten(1)
    relations = 25 * feature_losses.rkd_distance_loss(*pair) + 50 * feature_losses.rkd_angle_loss(*pair)
    return _soft(student, batch) + weight * relations, {}


@method("SimKD", prepare=_teacher, wrap=_with_teachers_head)
def _simkd(model, batch, *, weight, teacher):
    projected = model.projected(batch.images)
    (target,) = feature_losses.read_teacher(teacher, batch.images, ["pool"], model.head.out_features)
    loss = nn.functional.mse_loss(projected, target.flatten(1))
    return loss + weight * _soft(model.head(projected), batch) if weight else loss, {}


def _soft(student_logits, batch):
    return losses.soft_target_loss(student_logits, batch.teacher_logits, TEMPERATURE)


def _each(name: str, *values: float) -> list[dict]:
    return [{name: value} for value in values]


PLAIN = "distillation"
# Three settings each; "alone" and "cut from the teacher" are settings of the series' own methods.
TECHNIQUES = {
    "alone": _each("smoothing", 0.0, 0.1, 0.2),
    PLAIN: _each("temperature", 8.0, 16.0, 32.0),
    "cut from the teacher": _each("temperature", 8.0, 16.0, 32.0),
    "look-alike groups": _each("within", 0.5, 2.0, 4.0),
    "DKD": _each("beta", 0.5, 1.0, 2.0),
    "grouped KD": _each("mass", 0.8, 0.95, 0.99),
    "logit standardisation": _each("temperature", 1.0, 2.0, 4.0),
    "DIST": _each("temperature", 4.0, 8.0, 16.0),
    "FitNets hint": _each("weight", 1.0, 10.0, 100.0),
    "attention transfer": _each("weight", 10.0, 100.0, 1000.0),
    "RKD": _each("weight", 0.1, 1.0, 10.0),
    "SimKD": _each("weight", 0.0, 0.1, 1.0),
}


def arms(dataset: str) -> list[dict]:
    """The teacher, and every technique."""
    return [{"model": "teacher"}, *({"technique": name} for name in TECHNIQUES)]


def teacher_recipe(seed: int, dataset: str) -> Recipe:
    """The series' own teacher, of this seed."""
    return replace(recipes.TEACHER, dataset=dataset, seed=seed, data_seed=seed)


def recipe(name: str, setting: dict, seed: int, dataset: str) -> Recipe:
    """The recipe of a technique's network at one of its settings."""
    teacher = teacher_recipe(seed, dataset)
    student = Recipe(dataset=dataset, method_options=setting, seed=seed, data_seed=seed)
    if name == "alone":
        return student
    if name == "cut from the teacher":
        return replace(student, method=PLAIN, teacher=teacher, cut=True, options={"width": 8})
    return replace(student, method=name, teacher=teacher)


@functools.cache
def tuned(name: str, dataset: str) -> list[float]:
    """Validation accuracy of each setting of a technique, at the tuning seed."""
    validation = recipes.dataset(dataset, TUNING_SEED).validation
    trained = [load_or_train(recipe(name, setting, TUNING_SEED, dataset), quiet=True) for setting in TECHNIQUES[name]]
    return [evaluate(one.model, validation)["accuracy"] for one in trained]


def relative_cost(name: str, setting: dict, seed: int, dataset: str) -> float:
    """Processor time of a training step in units of a step of plain distillation on recorded logits: the median of
    five measurements of fifteen steps, in turns."""

    def seconds(name, setting):
        short = replace(recipe(name, setting, seed, dataset), schedule=Schedule(steps=15))
        network, given = recipes.untrained(short, quiet=True), recipes.ingredients(short, quiet=True)
        start = time.process_time()
        training.fit(network, **given | {"validation": None})
        return time.process_time() - start

    plain = TECHNIQUES[PLAIN][0]
    return statistics.median(seconds(name, setting) / seconds(PLAIN, plain) for _ in range(5))


def run(arm: dict, seed: int, dataset: str) -> dict:
    """Accuracies in [0, 1], NLL in nats, calibration and agreement of one technique at its chosen setting; which
    setting that is (counted from 0) and what each got at the tuning seed; parameters; cost per step against plain."""
    if "model" in arm:
        return scores(load_or_train(teacher_recipe(seed, dataset), quiet=True).model, seed, dataset)
    name = arm["technique"]
    tuning = tuned(name, dataset)
    place = tuning.index(max(tuning))
    setting = TECHNIQUES[name][place]
    network = load_or_train(recipe(name, setting, seed, dataset), quiet=True).model
    network = getattr(network, "student", network)  # a regressor is thrown away
    return {
        **scores(network, seed, dataset),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "relative_cost": relative_cost(name, setting, seed, dataset),
        "setting": place,
        **{f"tuning_accuracy_{i}": accuracy for i, accuracy in enumerate(tuning)},
    }


def scores(network: nn.Module, seed: int, dataset: str) -> dict:
    """Accuracies in [0, 1], NLL in nats, calibration, and agreement with the series' own teacher of this seed."""
    image_data = recipes.dataset(dataset, seed)
    test = evaluate(network, image_data.test, load_or_train(teacher_recipe(seed, dataset), quiet=True).model)
    return {
        "validation_accuracy": evaluate(network, image_data.validation)["accuracy"],
        **{f"test_{name}": test.pop(name) for name in ("accuracy", "nll", "ece")}, **test,
    }


def claims(dataset: str) -> list[studies.Claim]:
    """Is each technique better than plain distillation?"""

    def accuracy(name):
        return lambda runs: studies.select(runs, "test_accuracy", technique=name)

    return [studies.Claim(f"{name} against plain distillation", "test_accuracy", accuracy(name), accuracy(PLAIN),
                          SMALLEST) for name in TECHNIQUES if name != PLAIN]


STUDY = studies.Study(
    "techniques", arms, run, claims, datasets=("glyphs", "fashion_mnist"), keys=("model", "technique"),
    not_compared=("relative_cost", "setting", "tuning_accuracy_0", "tuning_accuracy_1", "tuning_accuracy_2"),
)
