"""Study "techniques": published techniques of distillation against plain distillation, with equal means.

Every technique trains the same student (the plain CNN of width 8) from the same first weights, on the same batches of
the labelled images without augmentation, for the same number of steps; and each may choose among three settings, on
validation, at one seed that is not reported. What a technique adds to (hints, attention, relations) is distillation
at the temperature below, the middle one of the three among which plain distillation chooses. Teachers of the same
seed are shared. SimKD alone ends with a larger network, since it keeps a projector and the teacher's head, and says
so in `parameters`.
"""

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distill_utils import features, losses, models, recipes, store, studies, teacher_cache, training
from distill_utils.data import ImageData
from distill_utils.evaluation import compare, look_alikes, score, soft_confusions
from distill_utils.recipes import load_or_train
from distill_utils.training import Schedule, logits

TEMPERATURE = 16.0  # of what is split or added to: near the limit, where the loss hardly depends on it
SMALLEST = 0.01  # of accuracy: a difference of one point would matter
TUNING_SEED = 1000
SCHEDULE = Schedule()


class Around(NamedTuple):
    """What a technique may use beside the student and the batch."""

    data: ImageData
    teacher: nn.Module
    recorded: list[Tensor]  # the teacher's logits on the training images, see teacher_cache
    groups: Tensor  # C, classes that look alike to the teacher


class Technique(NamedTuple):
    """loss(model, batch, around, **setting), its settings, and what is trained: the student, or a wrapper of it."""

    loss: Callable
    settings: list[dict]
    model: Callable[[nn.Module, Around], nn.Module] = lambda student, around: student


def _alone(model, batch, around, *, smoothing):
    return losses.hard_label_loss(model(batch.images), batch.labels, smoothing=smoothing)


def _distillation(model, batch, around, *, temperature):
    return losses.soft_target_loss(model(batch.images), batch.teacher_logits, temperature)


def _groups(model, batch, around, *, within):
    student = model(batch.images)
    return losses.group_kd_loss(student, batch.teacher_logits, around.groups, TEMPERATURE, within=within)


def _dkd(model, batch, around, *, beta):
    student, warm_up = model(batch.images), min(12 * batch.done, 1.0)  # the paper's 20 of 240 epochs
    soft = losses.dkd_loss(student, batch.teacher_logits, batch.labels, TEMPERATURE, beta=beta)
    return losses.hard_label_loss(student, batch.labels) + warm_up * soft


def _primary(model, batch, around, *, mass):
    groups = losses.primary_groups(batch.teacher_logits, TEMPERATURE, mass)
    outer, inner = losses.group_kd_parts(model(batch.images), batch.teacher_logits, groups, TEMPERATURE)
    return outer + inner[0]


def _standardised(model, batch, around, *, temperature):
    student = model(batch.images)
    soft = losses.logit_standardised_loss(student, batch.teacher_logits, temperature)
    return 0.1 * losses.hard_label_loss(student, batch.labels) + 9 * soft


def _dist(model, batch, around, *, temperature):
    student = model(batch.images)
    relations = losses.dist_loss(student, batch.teacher_logits, temperature, inter=2.0, intra=2.0)
    return losses.hard_label_loss(student, batch.labels) + relations


def _hint(model, batch, around, *, weight):
    name = [features.stages(model.student)[model.stage]]
    student, (maps,) = features.read(model.student, batch.images, name)
    (hints,) = features.read_teacher(around.teacher, batch.images, name, student.shape[1])
    return _soft(student, batch) + weight * features.hint_loss(maps, hints, model.regressor)


def _attention(model, batch, around, *, weight):
    names = features.stages(model)
    student, maps = features.read(model, batch.images, names)
    hints = features.read_teacher(around.teacher, batch.images, names, student.shape[1])
    return _soft(student, batch) + weight * sum(map(features.attention_transfer_loss, maps, hints))


def _relations(model, batch, around, *, weight):
    student, (own,) = features.read(model, batch.images, ["pool"])
    (target,) = features.read_teacher(around.teacher, batch.images, ["pool"], student.shape[1])
    pair = own.flatten(1), target.flatten(1)
    relations = 25 * features.rkd_distance_loss(*pair) + 50 * features.rkd_angle_loss(*pair)
    return _soft(student, batch) + weight * relations


def _simkd(model, batch, around, *, weight):
    projected = model.projected(batch.images)
    (target,) = features.read_teacher(around.teacher, batch.images, ["pool"], model.head.out_features)
    loss = nn.functional.mse_loss(projected, target.flatten(1))
    return loss + weight * _soft(model.head(projected), batch) if weight else loss


def _soft(student_logits, batch):
    return losses.soft_target_loss(student_logits, batch.teacher_logits, TEMPERATURE)


def _cut(student, around):
    student = models.cut_student(around.teacher, student.features[0].out_channels)
    training.reestimate_batch_norm(student, around.data.train.images)
    return student


def _hinted(student, around):
    return features.Hinted(student, around.teacher, 1, around.data.train.images.shape[1:])


def _with_teachers_head(student, around):
    return features.SimKD(student, around.teacher)


def _each(name: str, *values: float) -> list[dict]:
    return [{name: value} for value in values]


PLAIN = "distillation"
TECHNIQUES = {
    "alone": Technique(_alone, _each("smoothing", 0.0, 0.1, 0.2)),
    PLAIN: Technique(_distillation, _each("temperature", 8.0, 16.0, 32.0)),
    "cut from the teacher": Technique(_distillation, _each("temperature", 8.0, 16.0, 32.0), _cut),
    "look-alike groups": Technique(_groups, _each("within", 0.5, 2.0, 4.0)),
    "DKD": Technique(_dkd, _each("beta", 0.5, 1.0, 2.0)),
    "grouped KD": Technique(_primary, _each("mass", 0.8, 0.95, 0.99)),
    "logit standardisation": Technique(_standardised, _each("temperature", 1.0, 2.0, 4.0)),
    "DIST": Technique(_dist, _each("temperature", 4.0, 8.0, 16.0)),
    "FitNets hint": Technique(_hint, _each("weight", 1.0, 10.0, 100.0), _hinted),
    "attention transfer": Technique(_attention, _each("weight", 10.0, 100.0, 1000.0)),
    "RKD": Technique(_relations, _each("weight", 0.1, 1.0, 10.0)),
    "SimKD": Technique(_simkd, _each("weight", 0.0, 0.1, 1.0), _with_teachers_head),
}


def arms(dataset: str) -> list[dict]:
    """The teacher, and every technique."""
    return [{"model": "teacher"}, *({"technique": name} for name in TECHNIQUES)]


@functools.lru_cache(maxsize=2)
def around(dataset: str, seed: int) -> Around:
    """Data, teacher, its recorded logits, and half as many groups of look-alikes as there are classes.

    Classes are grouped by the teacher's mean soft targets on the training images, so neither validation nor test is
    looked at.
    """
    data = recipes.dataset(dataset, seed)
    recipe = replace(recipes.TEACHER, dataset=dataset, seed=seed, data_seed=seed)
    teacher = load_or_train(recipe, quiet=True).model
    recorded = teacher_cache.record(teacher, data.train.images, quiet=True)
    alike = soft_confusions(recorded[0].float(), data.train.labels, TEMPERATURE)
    return Around(data, teacher, recorded, look_alikes(alike, len(data.classes) // 2))


def trained(name: str, setting: dict, seed: int, dataset: str) -> nn.Module:
    """A technique's network at one of its settings, loaded or trained, in eval mode."""
    about = around(dataset, seed)
    network = _untrained(name, seed, about)

    def make(partial):
        history = _fit(network, name, setting, seed, about, SCHEDULE, checkpoint=partial)
        return network.state_dict(), {"history": history}

    key = {"technique": name, "setting": setting, "seed": seed, "data": about.data.fingerprint,
           "code": store.code_version(*STUDY.code)}  # fmt: skip
    tensors, _ = store.load_or_make("technique", key, make)
    network.load_state_dict(tensors)
    return network.eval()


def _untrained(name: str, seed: int, about: Around) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = models.build("student", len(about.data.classes), about.data.in_channels)
        return TECHNIQUES[name].model(student, about).to(memory_format=torch.channels_last)


def _fit(network, name, setting, seed, about, schedule, **options) -> dict:
    def loss(model, batch):
        return TECHNIQUES[name].loss(model, batch, about, **setting), {}

    return training.fit(network, about.data.train, loss, schedule, seed=seed, teacher=about.recorded, quiet=True,
                        **options)  # fmt: skip


@functools.cache
def tuned(name: str, dataset: str) -> list[float]:
    """Validation accuracy of each setting of a technique, at the tuning seed."""
    validation = recipes.dataset(dataset, TUNING_SEED).validation
    networks = [trained(name, setting, TUNING_SEED, dataset) for setting in TECHNIQUES[name].settings]
    return [score(logits(network, validation.images), validation.labels)["accuracy"] for network in networks]


def relative_cost(name: str, setting: dict, seed: int, dataset: str, *, steps: int = 15, repeats: int = 5) -> float:
    """Processor time of a training step in units of a step of plain distillation on recorded logits, measured in
    turns; the median."""
    about = around(dataset, seed)

    def seconds(name, setting):
        network = _untrained(name, seed, about)
        start = time.process_time()
        _fit(network, name, setting, seed, about, Schedule(steps=steps))
        return time.process_time() - start

    plain = TECHNIQUES[PLAIN].settings[0]
    return statistics.median(seconds(name, setting) / seconds(PLAIN, plain) for _ in range(repeats))


def run(arm: dict, seed: int, dataset: str) -> dict:
    """Accuracies in [0, 1], NLL in nats, calibration and agreement of one technique at its chosen setting; which
    setting that is (counted from 0) and what each got at the tuning seed; parameters; cost per step against plain."""
    if arm.get("model") == "teacher":
        return _scores(around(dataset, seed).teacher, seed, dataset)
    name = arm["technique"]
    tuning = tuned(name, dataset)
    place = tuning.index(max(tuning))
    setting = TECHNIQUES[name].settings[place]
    network = trained(name, setting, seed, dataset)
    network = getattr(network, "student", network)  # a regressor is thrown away
    return {
        **_scores(network, seed, dataset),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "relative_cost": relative_cost(name, setting, seed, dataset),
        "setting": place,
        **{f"tuning_accuracy_{i}": accuracy for i, accuracy in enumerate(tuning)},
    }


def _scores(network: nn.Module, seed: int, dataset: str) -> dict:
    about = around(dataset, seed)
    test, validation = about.data.test, about.data.validation
    outputs = logits(network, test.images)
    scores = score(outputs, test.labels)
    return {
        "validation_accuracy": score(logits(network, validation.images), validation.labels)["accuracy"],
        "test_accuracy": scores["accuracy"], "test_nll": scores["nll"], "test_ece": scores["ece"],
        **compare(outputs, logits(about.teacher, test.images)),
    }  # fmt: skip


def claims(dataset: str) -> list[studies.Claim]:
    """Is each technique better than plain distillation?"""

    def accuracy(name):
        return lambda runs: studies.select(runs, "test_accuracy", technique=name)

    return [
        studies.Claim(
            f"{name} against plain distillation", "test_accuracy", accuracy(name), accuracy(PLAIN), SMALLEST
        )
        for name in TECHNIQUES
        if name != PLAIN
    ]


STUDY = studies.Study(
    "techniques", arms, run, claims,
    code=("counter", "glyphs", "data", "augment", "models", "losses", "features", "training", "evaluation", "recipes",
          "study_techniques"),
    datasets=("glyphs", "fashion_mnist"),
)  # fmt: skip
