"""Statistics over seeds. The unit is the seed: images of one seed are not independent evidence about a method."""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean with its t-interval and the number of seeds."""

    mean: float
    low: float
    high: float
    n: int


def t_interval(values, *, level: float = 0.95) -> Interval:
    """Student's t-interval for the mean of one value per seed; infinitely wide for a single one."""
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"expected one finite value per seed, found {values.tolist()}")
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def paired_interval(treated, control, *, level: float = 0.95) -> Interval:
    """t-interval of the difference treated - control, paired by seed."""
    if len(treated) != len(control):
        raise ValueError(f"pairs need as many treated as control seeds: found {len(treated)} and {len(control)}")
    return t_interval(np.asarray(treated, dtype=float) - np.asarray(control, dtype=float), level=level)


def proportion_interval(share: float, count: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a share of `count` images, such as an accuracy: the doubt that the test set leaves."""
    result = stats.binomtest(round(share * count), count).proportion_ci(level, method="wilson")
    return float(result.low), float(result.high)
