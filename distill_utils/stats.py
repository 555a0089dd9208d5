"""Statistics over seeds. The unit is the seed: images of one seed are not independent evidence about a method.

Arms are paired by seed, intervals are Student's, several claims are corrected by Holm's method, and the word for a
difference is computed from a smallest effect of interest that is declared before anything is run. Values that are
not one finite number per seed raise ValueError.
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
    """Student's t-interval for the mean of one value per seed; infinitely wide for a single one."""
    _validate.number("level", level, 0, 1, inside=True)
    values = _values(values)
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def paired_interval(treated, control, *, level: float = 0.95) -> Interval:
    """t-interval of the difference treated - control, paired by seed."""
    return t_interval(_differences(treated, control), level=level)


def p_value(treated, control) -> float:
    """Two-sided p-value of the paired t-test for a mean difference of 0; 1 where there is no spread to judge by."""
    differences = _differences(treated, control)
    if len(differences) < 2 or np.ptp(differences) == 0:
        return 1.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given: all claims together err at the level each is tested at."""
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values are a row of numbers in [0, 1], found {p.tolist()}")
    order = p.argsort(kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = stepped.clip(max=1)
    return adjusted.tolist()


def equivalent(treated, control, smallest: float, *, alpha: float = 0.05) -> bool:
    """Two one-sided tests (Schuirmann 1987): is the difference surely smaller than `smallest` to either side?"""
    _validate.number("smallest", smallest, 0, inside=True)
    _validate.number("alpha", alpha, 0, 0.5, inside=True)
    _, low, high, _ = paired_interval(treated, control, level=1 - 2 * alpha)
    return -smallest < low and high < smallest


def verdict(treated, control, smallest: float, *, p: float | None = None, higher_is_better: bool = True) -> str:
    """The word for a paired difference.

    smallest: the smallest difference that would matter, above 0, declared beforehand; p: the p-value to judge by,
    such as one corrected by holm (default: the paired t-test's own). Returns "improves", "improves, less than
    matters", "worsens", "worsens, less than matters", "no meaningful difference" or "inconclusive".
    """
    if not smallest > 0:
        raise ValueError(f"the smallest effect of interest must be above 0, found {smallest}")
    _validate.number("the smallest effect of interest", smallest)
    p = p_value(treated, control) if p is None else p
    _validate.number("p", p, 0, 1)
    mean = float(_differences(treated, control).mean())
    if p < 0.05:
        word = "improves" if (mean > 0) == higher_is_better else "worsens"
        return word if abs(mean) >= smallest else f"{word}, less than matters"
    return "no meaningful difference" if equivalent(treated, control, smallest) else "inconclusive"


def proportion_interval(share: float, count: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a share of `count` images, such as an accuracy: the doubt that the test set leaves."""
    _validate.number("share", share, 0, 1)
    _validate.number("count", count, 1, whole=True)
    _validate.number("level", level, 0, 1, inside=True)
    result = stats.binomtest(round(share * count), count).proportion_ci(level, method="wilson")
    return float(result.low), float(result.high)


def _differences(treated, control) -> np.ndarray:
    if len(treated) != len(control):
        raise ValueError(f"pairs need as many treated as control seeds: found {len(treated)} and {len(control)}")
    return _values(treated) - _values(control)


def _values(values) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"expected one finite value per seed, found {values.tolist()}")
    return values
