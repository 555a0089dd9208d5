"""Makes docs/teacher-student.png from trained models, which it trains where they are missing.

Left, one validation image and the teacher's probabilities; right, test accuracies over seeds. Data, teacher and
student share the seed, small dots are seeds, bands are t-intervals of their mean. Run: python docs/make_picture.py
"""

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter

from distill_utils import _store, plots, recipes, stats
from distill_utils.evaluation import evaluate
from distill_utils.training import logits

PICTURE = Path(__file__).with_name("teacher-student.png")
SEEDS = range(5)
TRUE, LOOKALIKES = "Q", {"Q", "O", "0"}


def models(seed: int) -> dict[str, recipes.Recipe]:
    teacher = replace(recipes.TEACHER, dataset="glyphs", seed=seed, data_seed=seed)
    alone = recipes.Recipe(dataset="glyphs", seed=seed, data_seed=seed)
    distilled = replace(alone, method="distillation", teacher=teacher, method_options={"temperature": 8.0})
    transfer = replace(distilled, method_options={"temperature": 4.0}, transfer=True)
    return {
        "student alone": alone, "distilled": distilled,
        "distilled, with\nunlabelled images": transfer, "teacher": teacher,
    }  # fmt: skip


def accuracies() -> dict[str, list[float]]:
    """Model → its test accuracy, one value per seed."""
    values = {name: [] for name in models(0)}
    for seed in SEEDS:
        test = recipes.dataset("glyphs", seed).test
        for name, recipe in models(seed).items():
            values[name].append(evaluate(recipes.load_or_train(recipe).model, test)["accuracy"])
    return values


def hesitation(image_data, teacher) -> tuple:
    """The image of a Q that the teacher recognises with high probability and that looks most like O and 0 to it.

    Returns the image, the teacher's logits and the indices of its three likeliest classes.
    """
    validation, classes = image_data.validation, image_data.classes
    outputs = logits(teacher, validation.images)
    sure, soft = outputs.softmax(1), (outputs / 4).softmax(1)
    order = soft.argsort(1, descending=True)
    places = [
        i
        for i, label in enumerate(validation.labels.tolist())
        if classes[label] == classes[order[i, 0]] == TRUE
        and sure[i, label] > 0.9
        and {classes[k] for k in order[i, :3]} == LOOKALIKES
    ]
    place = max(places, key=lambda i: soft[i, order[i, 2]])
    return validation.images[place], outputs[place], order[place, :3]


def picture() -> plt.Figure:
    image_data = recipes.dataset("glyphs", 0)
    teacher = recipes.load_or_train(models(0)["teacher"]).model
    image, outputs, likeliest = hesitation(image_data, teacher)
    fig = plt.figure(figsize=(11.5, 3.6))
    left, _, right = fig.subfigures(1, 3, width_ratios=[1.15, 0.04, 1])
    left.suptitle("What a teacher says of one image", fontweight="bold", fontsize=15)
    right.suptitle(f"Accuracy on new images ({len(SEEDS)} seeds)", fontweight="bold", fontsize=15)
    seen, plain, soft = left.subplots(1, 3, width_ratios=[1.6, 1, 1])
    plots.draw_image(seen, image)
    seen.set_title("a Q, an O, a 0?")
    names = [f"digit {name}" if name.isdigit() else name for name in (image_data.classes[k] for k in likeliest)]
    for axis, temperature in ((plain, 1), (soft, 4)):
        draw_soft_targets(axis, (outputs / temperature).softmax(0)[likeliest], names if axis is plain else None)
        axis.set_title(f"temperature {temperature}")
    draw_accuracies(right.subplots(), accuracies())
    return fig


def draw_soft_targets(axis, probabilities, names) -> None:
    rows = range(len(probabilities))
    axis.barh(rows, probabilities, color=plots.GREEN, height=0.62)
    for row, probability in zip(rows, probabilities.tolist(), strict=True):
        axis.annotate(
            f"{100 * probability:.0f} %", (probability, row), (5, 0), textcoords="offset points", va="center"
        )
    axis.set_yticks(rows, names or [""] * len(rows))
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(0, 1.4)
    axis.set_xticks([])
    axis.tick_params(axis="y", length=0)
    axis.spines["bottom"].set_visible(False)


def draw_accuracies(axis, values_of: dict[str, list[float]]) -> None:
    looks = [plots.ALONE, plots.DISTILLED, plots.DISTILLED | {"marker": "D"}, plots.TEACHER]
    for row, (values, look) in enumerate(zip(values_of.values(), looks, strict=True)):
        mean, low, high, _ = stats.t_interval(values)
        color = look["color"]
        axis.plot([low, high], [row, row], color=color, linewidth=16, alpha=0.3, solid_capstyle="butt")
        axis.plot(mean, row, linestyle="", marker=look["marker"], color=color, markersize=7)
        axis.plot(values, [row + 0.3] * len(values), linestyle="", marker="o", color=color, markersize=3.5, alpha=0.7)
        axis.annotate(f"{100 * mean:.0f} %", (high, row), (8, 0), textcoords="offset points", va="center")
    axis.set_yticks(range(len(values_of)), list(values_of))
    axis.set_ylim(len(values_of) - 0.5, -0.5)
    axis.set_xlim(0.48, 0.94)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def main() -> None:
    with plt.rc_context(plots.STYLE | {"savefig.dpi": 160}), _store.atomic(PICTURE) as temporary:
        picture().savefig(temporary, format="png", metadata={"Software": None})
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
