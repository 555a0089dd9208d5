"""Study "dropout": dropout rate × {alone, distilled} × width of the student, every run kept.

The student is the plain CNN with dropout before its head, trained on the labelled images without augmentation;
distillation is at the temperature below with no hard labels, from a teacher of the same seed. For every width and
method the rate is chosen on validation, as a mean over seeds, and test is reported for that rate alone.
"""

from dataclasses import replace

from distill_utils import recipes, studies
from distill_utils.evaluation import evaluate
from distill_utils.recipes import Recipe, load_or_train

TEMPERATURE = 8.0
SMALLEST = 0.01  # of accuracy: a difference of one point would matter
_RATES = {"glyphs": (0.0, 0.05, 0.1, 0.2, 0.3, 0.5), "fashion_mnist": (0.0, 0.1, 0.3, 0.5)}
_WIDTHS = {"glyphs": (4, 8, 16), "fashion_mnist": (4, 8)}
_TEACHER_RATES = {"glyphs": (0.0, 0.1, 0.3), "fashion_mnist": (0.1,)}
METHODS = ("alone", "distilled")


def arms(dataset: str) -> list[dict]:
    """The teachers (the series' own has rate 0.1), the grid of students, and students of the other teachers."""
    teachers = [{"model": "teacher", "rate": rate} for rate in _TEACHER_RATES[dataset]]
    grid = [{"method": method, "width": width, "rate": rate, "teacher_rate": 0.1}
            for width in _WIDTHS[dataset] for method in METHODS for rate in _RATES[dataset]]
    others = [{"method": "distilled", "width": 8, "rate": 0.0, "teacher_rate": rate}
              for rate in _TEACHER_RATES[dataset] if rate != 0.1]
    return teachers + grid + others


def recipe(arm: dict, seed: int, dataset: str) -> Recipe:
    """The recipe of an arm; data, teacher and student share the seed. Options that are the defaults are left out, so
    that the series' own models are among the study's."""
    rate = arm["rate"] if arm.get("model") == "teacher" else arm["teacher_rate"]
    options = {} if rate == 0.1 else {"dropout": rate}
    teacher = replace(recipes.TEACHER, dataset=dataset, options=options, seed=seed, data_seed=seed)
    if arm.get("model") == "teacher":
        return teacher
    options = {"width": arm["width"]} if arm["width"] != 8 else {}
    options |= {"dropout": arm["rate"]} if arm["rate"] else {}
    student = Recipe(dataset=dataset, options=options, seed=seed, data_seed=seed)
    if arm["method"] == "alone":
        return student
    return replace(student, method="distillation", method_options={"temperature": TEMPERATURE}, teacher=teacher)


def run(arm: dict, seed: int, dataset: str) -> dict:
    """Accuracies in [0, 1], losses in nats, calibration and agreement with the teacher of one run."""
    chosen, image_data = recipe(arm, seed, dataset), recipes.dataset(dataset, seed)
    model = load_or_train(chosen, quiet=True).model
    teacher = chosen.teacher and load_or_train(chosen.teacher, quiet=True).model
    validation, train = evaluate(model, image_data.validation), evaluate(model, image_data.train)
    test = evaluate(model, image_data.test, teacher)
    return {
        "validation_accuracy": validation["accuracy"], "validation_nll": validation["nll"],
        "train_accuracy": train["accuracy"], "train_loss": train["nll"],
        **{f"test_{name}": test.pop(name) for name in ("accuracy", "nll", "ece")}, **test,
    }


def chosen_rate(runs: list[dict], width: int, method: str) -> float:
    """The dropout rate with the best mean validation accuracy over seeds (the lower one of two equals)."""
    grid = [run for run in runs if run["arm"].get("teacher_rate") == 0.1]
    rates = sorted({run["arm"]["rate"] for run in grid})

    def mean(rate):
        values = studies.select(grid, "validation_accuracy", width=width, method=method, rate=rate)
        return sum(values) / len(values)

    return max(rates, key=mean)


def claims(dataset: str) -> list[studies.Claim]:
    """Per width: does the chosen rate beat no dropout, alone and distilled; does distillation beat training alone,
    each at its chosen rate? And do the teachers' other rates give better soft targets than none?"""

    def at(width, method, rate=None):
        def values(runs):
            p = chosen_rate(runs, width, method) if rate is None else rate
            return studies.select(runs, "test_accuracy", width=width, method=method, rate=p, teacher_rate=0.1)

        return values

    def of_teacher(rate):
        return lambda runs: studies.select(runs, "test_accuracy", method="distilled", width=8, rate=0.0,
                                           teacher_rate=rate)

    rows = []
    for width in _WIDTHS[dataset]:
        for method in METHODS:
            name = f"dropout at the rate chosen on validation against none, {method}, width {width}"
            rows.append(studies.Claim(name, "test_accuracy", at(width, method), at(width, method, 0.0), SMALLEST))
        name = f"distilled against alone, each at its chosen rate, width {width}"
        rows.append(studies.Claim(name, "test_accuracy", at(width, "distilled"), at(width, "alone"), SMALLEST))
    for rate in _TEACHER_RATES[dataset][1:]:
        name = f"student of a teacher with dropout {rate:g} against one without, width 8"
        rows.append(studies.Claim(name, "test_accuracy", of_teacher(rate), of_teacher(0.0), SMALLEST))
    return rows


STUDY = studies.Study(
    "dropout", arms, run, claims, datasets=tuple(_RATES), keys=("model", "method", "width", "rate", "teacher_rate")
)
