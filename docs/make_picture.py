"""Makes docs/teacher-student.png from trained models (which it trains where they are missing): python docs/make_picture.py

Left, one validation image and what the teacher says of it; right, test accuracies over seeds: data, teacher and
student share the seed, dots are seeds, bars are t-intervals of the mean.
"""

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter

from distill_utils import plots, recipes, settings, stats, store
from distill_utils.evaluation import evaluate
from distill_utils.training import logits

PICTURE = Path(__file__).with_name("teacher-student.png")
SEEDS = range(5)
LOOKALIKES = {"Q", "O", "0"}


def models(seed: int) -> dict[str, recipes.Recipe]:
    teacher = replace(recipes.TEACHER, seed=seed, data_seed=seed)
    alone = recipes.Recipe(seed=seed, data_seed=seed)
    distilled = replace(alone, method="distillation", teacher=teacher, method_options={"temperature": 8.0})
    transfer = replace(distilled, method_options={"temperature": 4.0}, transfer=True)
    return {
        "student\nalone": alone, "student\ndistilled": distilled,
        "distilled, with\nunlabelled images": transfer, "teacher": teacher,
    }  # fmt: skip


def hesitation(image_data, teacher) -> tuple:
    """A Q that the teacher is sure of, and that it says most about besides: image, its logits, letters to show."""
    validation = image_data.validation
    outputs = logits(teacher, validation.images)
    soft = (outputs / 4).softmax(1)
    order = soft.argsort(1, descending=True)
    best, place = -1.0, None
    for i, (three, label) in enumerate(zip(order[:, :3].tolist(), validation.labels.tolist(), strict=True)):
        sure = outputs[i].softmax(0)[label] > 0.9
        names = {image_data.classes[k] for k in three}
        if sure and three[0] == label and image_data.classes[label] == "Q" and names == LOOKALIKES:
            third = float(soft[i, three[2]])
            best, place = max((best, place), (third, i))
    return validation.images[place], outputs[place], order[place, :6]


def picture() -> plt.Figure:
    trained = {seed: {name: recipes.load_or_train(r) for name, r in models(seed).items()} for seed in SEEDS}
    accuracies = {
        name: [
            evaluate(trained[seed][name].model, recipes.dataset("glyphs", seed).test)["accuracy"] for seed in SEEDS
        ]
        for name in models(0)
    }
    image_data = recipes.dataset("glyphs", 0)
    image, outputs, letters = hesitation(image_data, trained[0]["teacher"].model)
    fig, axes = plots.figure(1, 4, width=11.5, height=3.9, width_ratios=[1.15, 0.8, 0.8, 2.1])
    plots.draw_image(axes[0], image)
    axes[0].set_title("the teacher sees")
    for axis, temperature in zip(axes[1:3], (1, 4), strict=True):
        soft_targets(axis, outputs, letters, image_data.classes, temperature)
    accuracy(axes[3], accuracies)
    return fig


def soft_targets(axis, outputs, letters, classes, temperature) -> None:
    soft = (outputs / temperature).softmax(0)[letters]
    axis.barh(range(len(letters)), soft, color=plots.BLACK, height=0.7)
    axis.set_yticks(range(len(letters)), [classes[k] for k in letters], fontweight="bold")
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    axis.tick_params(axis="y", length=0)
    axis.set_title(f"says at T = {temperature}")


def accuracy(axis, accuracies) -> None:
    looks = [plots.ALONE, plots.DISTILLED, plots.DISTILLED | {"marker": "D"}, plots.TEACHER]
    for row, (values, look) in enumerate(zip(accuracies.values(), looks, strict=True)):
        mean, low, high, _ = stats.t_interval(values)
        axis.plot([low, high], [row, row], color=look["color"], linewidth=7, alpha=0.3, solid_capstyle="butt")
        axis.plot(values, [row] * len(values), linestyle="", marker=".", color=look["color"], markersize=5)
        axis.plot(mean, row, linestyle="", marker=look["marker"], color=look["color"], markersize=11)
        axis.annotate(f"{100 * mean:.0f} %", (mean, row), (0, 11), textcoords="offset points", ha="center",
                      fontsize=13, color=look["color"])  # fmt: skip
    axis.set_yticks(range(len(accuracies)), list(accuracies))
    axis.set_ylim(len(accuracies) - 0.5, -0.7)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axis.set_title("right on test images")


def main() -> None:
    if settings.dataset() != "glyphs":
        raise SystemExit("the picture is of glyphs: unset DISTILL_DATASET")
    with plt.rc_context(plots.STYLE | {"savefig.dpi": 160}), store.atomic(PICTURE) as temporary:
        picture().savefig(temporary, format="png", metadata={"Software": None})
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
