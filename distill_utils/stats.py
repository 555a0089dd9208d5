"""Statistics over seeds (lesson 03). The unit is the seed: the images of one seed are not independent evidence.

The verdict on a difference is computed from a smallest effect of interest that is declared before anything is run.
All functions raise ValueError for values that are not one finite number per seed.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from distill_utils import _validate


class Interval(NamedTuple):
    """A mean with its t-interval and the number of seeds."""

    mean: float
    low: float
    high: float
    n: int


def t_interval(values, *, level: float = 0.95) -> Interval:
    """Student's t-interval for the mean of one value per seed; infinitely wide for a single seed."""
    _validate.number("level", level, 0, 1, inside=True)
    values = _values(values)
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def paired_interval(treated, control, *, level: float = 0.95) -> Interval:
    """t-interval of the mean difference treated − control, paired by seed."""
    return t_interval(_differences(treated, control), level=level)


def p_value(treated, control) -> float:
    """Two-sided p-value of the paired t-test; 1 for a single seed or equal differences, which have no spread."""
    differences = _differences(treated, control)
    if len(differences) < 2 or np.ptp(differences) == 0:
        return 1.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given: they control the family-wise error rate."""
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values must be a 1-D array in [0, 1], got {p.tolist()}")
    order = p.argsort(kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = stepped.clip(max=1)
    return adjusted.tolist()


def equivalent(treated, control, smallest: float) -> bool:
    """Whether two one-sided tests at 5 % (Schuirmann 1987) show that the difference lies in (−smallest, smallest)."""
    _validate.number("smallest", smallest, 0, inside=True)
    _, low, high, _ = paired_interval(treated, control, level=0.9)
    return -smallest < low and high < smallest


def seeds_to_decide(treated, control, smallest: float, *, level: float = 0.05) -> int:
    """How many seeds would show a difference of `smallest` in four of five studies (a power of 80 %).

    It is computed for the paired t-test at this level, from the spread of these differences over at least two seeds;
    a level of 0.05 / claims is that of the first step of holm. Raises ValueError for fewer seeds.
    """
    _validate.number("smallest", smallest, 0, inside=True)
    _validate.number("level", level, 0, 1, inside=True)
    differences = _differences(treated, control)
    if len(differences) < 2:
        raise ValueError("seeds_to_decide needs the spread of at least two seeds, got one")
    effect = smallest / max(float(differences.std(ddof=1)), 1e-9 * smallest)
    n = np.arange(2, 1001)
    power = stats.nct.sf(stats.t.ppf(1 - level / 2, n - 1), n - 1, np.minimum(effect * np.sqrt(n), 30))
    if power[-1] >= 0.8:
        return int(n[power >= 0.8][0])
    return math.ceil(((stats.norm.ppf(1 - level / 2) + stats.norm.ppf(0.8)) / effect) ** 2)


def verdict(treated, control, smallest: float, *, p: float | None = None, higher_is_better: bool = True) -> str:
    """What a paired difference shows, in words.

    smallest: the smallest difference that matters, above 0, declared beforehand; p: a p-value to use in place of the
    paired t-test's own, such as one adjusted by holm. Returns "improves", "improves, less than matters", "worsens",
    "worsens, less than matters", "no meaningful difference" or "inconclusive".
    """
    _validate.number("smallest", smallest, 0, inside=True)
    p = p_value(treated, control) if p is None else p
    mean = float(_differences(treated, control).mean())
    if p < 0.05:
        word = "improves" if (mean > 0) == higher_is_better else "worsens"
        return word if abs(mean) >= smallest else f"{word}, less than matters"
    return "no meaningful difference" if equivalent(treated, control, smallest) else "inconclusive"


def proportion_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share of `count` images, such as an accuracy: the uncertainty of a test set."""
    _validate.number("share", share, 0, 1)
    _validate.number("count", count, 1, whole=True)
    result = stats.binomtest(round(share * count), count).proportion_ci(0.95, method="wilson")
    return float(result.low), float(result.high)


def _differences(treated, control) -> np.ndarray:
    if len(treated) != len(control):
        raise ValueError(f"treated and control must have the same seeds, got {len(treated)} and {len(control)}")
    return _values(treated) - _values(control)


def _values(values) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"values must be one finite number per seed, got {values.tolist()}")
    return values
