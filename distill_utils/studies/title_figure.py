"""The figure of the study "title": an endpoint against accuracy, along the training of every arm (lesson 08b)."""

import numpy as np
from matplotlib.figure import Figure

from distill_utils import plots, stats
from distill_utils.studies.title import ENDPOINTS, POINTS, curve, select

_WITHOUT_TEACHER, _CONTROL = {"linestyle": "--", "marker": "s"}, {"linestyle": ":", "marker": "D"}
_WITH_TEACHER = {"linestyle": "-.", "marker": "^"}
# The arms that are drawn, by method (None: the teacher), with their names and lines.
_DRAWN = {
    None: ("teacher", plots.TEACHER),
    "alone": ("alone", plots.ALONE),
    "augmented": ("alone, augmented", {"color": plots.RED, **_WITHOUT_TEACHER}),
    "smoothed": ("smoothed labels", {"color": plots.PURPLE, **_CONTROL}),
    "permuted": ("permuted targets", {"color": "0.5", **_CONTROL}),
    "distilled": ("distilled", plots.DISTILLED),
    "transfer": ("distilled, transfer set", {"color": plots.SKY, **_WITH_TEACHER}),
    "distilled_augmented": ("distilled, augmented", {"color": plots.GREEN, **_WITH_TEACHER}),
    "e2kd": ("distilled, maps matched", {"color": plots.YELLOW, **_WITH_TEACHER}),
}


def draw(found: dict, metric: str = "share_ig") -> tuple[Figure, list[dict]]:
    """An endpoint against accuracy along the training of every arm, and a table of where the arms end.

    found: a results file of the study, see studies.results; metric: a key of ENDPOINTS. Lines are means over seeds,
    bands their 95 % intervals. Untrained networks are drawn too, and for the relevance on the letter the trivial
    maps, on the left, because they have no accuracy. Raises ValueError for a metric that the results do not hold.
    """
    runs, untrained = found["runs"], {"method": "untrained"}
    known = [name for name in ENDPOINTS if name in runs[0]["metrics"]]
    if metric not in known:
        raise ValueError(f"metric must be one of {', '.join(known)}, got {metric!r}")
    fig, axis = plots.figure(width=9, height=5.5)
    table = []
    for method, (name, style) in _DRAWN.items():
        arm = {"model": "teacher"} if method is None else {"method": method}
        curves = [curve(run, metric) for run in runs if run["arm"] == arm]
        accuracy = [100 * float(np.mean([x[i] for x, _ in curves])) for i in range(len(POINTS))]
        points = [stats.t_interval([y[i] for _, y in curves]) for i in range(len(POINTS))]
        axis.plot(accuracy, [point.mean for point in points], label=name, markersize=6, **style)
        if len(curves) > 1:
            axis.fill_between(accuracy, [point.low for point in points], [point.high for point in points],
                              color=style["color"], alpha=0.15, linewidth=0)
        table.append(_row(name, f"{accuracy[-1]:.1f}", points[-1]))
    start = 100 * float(np.mean(select(runs, "validation_accuracy", untrained)))
    without_training = {"untrained": (metric, start, "X")}
    if metric == "share_ig":
        axis.axhline(0, color="0.5", linewidth=1)
        axis.text(0.99, 0, "chance", transform=axis.get_yaxis_transform(), ha="right", va="bottom", color="0.4")
        trivial = [name for name in runs[0]["metrics"] if name.startswith("share_trivial_")]
        without_training |= {name.removeprefix("share_trivial_"): (name, 0.0, marker)
                             for name, marker in zip(trivial, "+x1", strict=True)}
    for name, (measure, at, marker) in without_training.items():
        interval = stats.t_interval(select(runs, measure, untrained))
        axis.plot(at, interval.mean, marker, color="0.3", clip_on=False, label=name)
        table.append(_row(name, f"{at:.1f}" if at else "none", interval))
    axis.set(xlabel="accuracy on validation images, %", ylabel=ENDPOINTS[metric][0], xlim=(0, None))
    fig.legend(loc="outside right upper", fontsize=11)
    return fig, table


def _row(name: str, accuracy: str, interval: stats.Interval) -> dict:
    low, high = (f"{value:+.3f}" if interval.n > 1 else "one seed" for value in interval[1:3])
    return {"network": name, "accuracy, %": accuracy, "at the end": interval.mean, "low": low, "high": high}
