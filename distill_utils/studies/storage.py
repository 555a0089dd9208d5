"""Study "storage": what a student loses where less than its teacher's whole soft targets is kept (lesson 06b).

The plain CNN is distilled from the teacher's recorded answers to eight augmented views of each labelled image. Of the
soft targets of one image and view are kept: all classes; the k largest, divided by their sum ("top"); the k largest,
with what is missing spread evenly over the other classes ("spread"); or k classes drawn with replacement, once
("samples"). Top k takes 4·k bytes, k samples 2·k: 4 largest and 8 samples are equally long.
"""

import torch
from torch import Tensor

from distill_utils import losses, recipes, studies
from distill_utils.recipes import Recipe, load_or_train, method
from distill_utils.studies.techniques import scores, teacher_recipe
from distill_utils.training import Schedule

SMALLEST = 0.01  # of accuracy: a difference of one point would matter
SCHEDULE = Schedule(views=8)
HOT, MILD = 8.0, 2.0
KEPT = {HOT: [("all", 0), ("top", 2), ("top", 4), ("top", 8), ("spread", 4), ("samples", 4), ("samples", 8),
              ("samples", 16)],
        MILD: [("all", 0), ("top", 4), ("samples", 8)]}


def kept(p: Tensor, kind: str, k: int, generator: torch.Generator) -> Tensor:
    """What can be read back of soft targets N×C after storing a part of them: N×C, rows that sum to one."""
    if kind == "all":
        return p
    if kind == "samples":
        draws = p.multinomial(k, replacement=True, generator=generator)
        return torch.zeros_like(p).scatter_add(1, draws, torch.ones_like(draws, dtype=p.dtype)) / k
    largest, classes = p.topk(k, 1)
    total = largest.sum(1, keepdim=True)
    if kind == "top":
        return torch.zeros_like(p).scatter(1, classes, largest / total)
    return ((1 - total) / (p.shape[1] - k)).expand_as(p).scatter(1, classes, largest)


def _stored(context: recipes.Context, *, temperature: float, kind: str, k: int) -> dict:
    assert context.recorded is not None
    generator = torch.Generator().manual_seed(context.seed)
    soft = [kept((view.float() / temperature).softmax(1), kind, k, generator) for view in context.recorded]
    return {"recorded": [temperature * p.clamp(min=1e-7).log() for p in soft]}  # logits, as losses want them


@method("stored soft targets", prepare=_stored)
def _distil(model, batch, *, temperature, kind, k):
    return losses.soft_target_loss(model(batch.images), batch.teacher_logits, temperature), {}


def arms(dataset: str) -> list[dict]:
    """The teacher, and a student of everything that may be kept."""
    students = [{"temperature": t, "kind": kind, "k": k} for t, parts in KEPT.items() for kind, k in parts]
    return [{"model": "teacher"}, *students]


def recipe(arm: dict, seed: int, dataset: str) -> Recipe:
    """The recipe of an arm; data, teacher and student share the seed."""
    teacher = teacher_recipe(seed, dataset)
    if "model" in arm:
        return teacher
    return Recipe(dataset=dataset, method="stored soft targets", method_options=arm, teacher=teacher,
                  schedule=SCHEDULE, seed=seed, data_seed=seed)


def run(arm: dict, seed: int, dataset: str) -> dict:
    """Accuracies in [0, 1], NLL in nats, calibration and agreement with the teacher of one network."""
    return scores(load_or_train(recipe(arm, seed, dataset), quiet=True).model, seed, dataset)


def claims(dataset: str) -> list[studies.Claim]:
    """Does it cost accuracy to keep less, and which way of keeping as much is the better one?"""
    chosen = [("top 4", "all"), ("spread 4", "all"), ("samples 8", "all"), ("samples 8", "top 4"),
              ("samples 8", "spread 4"), ("spread 4", "top 4")]
    explored = [("top 2", "all"), ("top 8", "all"), ("samples 4", "all"), ("samples 16", "all")]
    rows = [_claim(*pair, HOT) for pair in chosen]
    rows += [_claim(*pair, HOT, primary=False) for pair in explored]
    return rows + [_claim(name, "all", MILD, primary=False) for name in ("top 4", "samples 8")]


def _claim(treated: str, control: str, temperature: float, *, primary: bool = True) -> studies.Claim:
    def accuracy(name):
        kind, _, k = name.partition(" ")
        return lambda runs: studies.select(runs, "test_accuracy", temperature=temperature, kind=kind, k=int(k or 0))

    return studies.Claim(f"{treated} against {control}, T = {temperature:g}", "test_accuracy", accuracy(treated),
                         accuracy(control), SMALLEST, primary=primary)


STUDY = studies.Study("storage", arms, run, claims, datasets=("glyphs",), keys=("model", "temperature", "kind", "k"))
