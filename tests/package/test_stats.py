"""Statistics over seeds: intervals, their coverage, correction for several claims, and the words for a difference."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from distill_utils import stats

VALUES = [0.61, 0.64, 0.58, 0.66, 0.63]


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_interval_is_students(level):
    mean, low, high, n = stats.t_interval(VALUES, level=level)
    expected = scipy_stats.t.interval(level, 4, loc=np.mean(VALUES), scale=scipy_stats.sem(VALUES))
    assert (low, high) == pytest.approx(expected)
    assert (mean, n) == (pytest.approx(np.mean(VALUES)), 5)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_a_95_percent_interval_covers_the_truth_in_95_percent_of_studies(seeds):
    """The effect of the seed on both arms is larger than the difference; pairing removes it."""
    random = np.random.default_rng(seeds)
    control = random.normal(0.0, 5.0, (2000, seeds))
    treated = control + random.normal(3.0, 2.0, (2000, seeds))
    held = [low <= 3.0 <= high for _, low, high, _ in map(stats.paired_interval, treated, control)]
    assert 0.93 < np.mean(held) < 0.97


def test_the_interval_of_a_single_seed_is_infinitely_wide():
    assert stats.t_interval([0.7]) == (0.7, -math.inf, math.inf, 1)


def test_pairing_removes_the_effect_of_the_seed_on_both_arms():
    seeds = np.array([0.0, 10.0, -7.0, 4.0, 2.0])
    gain = np.array([0.9, 1.0, 1.1, 1.2, 0.8])
    interval = stats.paired_interval(seeds + gain, seeds)
    assert interval == pytest.approx(stats.t_interval(gain))
    assert interval.low > 0
    assert stats.t_interval(seeds + gain).low < 0
    flipped = stats.paired_interval(seeds, seeds + gain)
    assert (flipped.low, flipped.high) == pytest.approx((-interval.high, -interval.low))


def test_the_p_value_is_that_of_the_paired_t_test():
    control = [0.6, 0.62, 0.6, 0.61, 0.64]
    assert stats.p_value(VALUES, control) == pytest.approx(scipy_stats.ttest_rel(VALUES, control).pvalue)
    assert stats.p_value([0.7], [0.5]) == 1
    assert stats.p_value([3, 4], [2, 3]) == 1


def test_seeds_to_decide_are_enough_for_four_of_five_studies_and_one_less_is_not():
    random = np.random.default_rng(0)
    pilot = [0.0, 0.06, -0.03, 0.05, 0.02]
    needed = stats.seeds_to_decide(pilot, [0.0] * 5, 0.04)
    found = []
    for seeds in (needed, needed - 1):
        samples = random.normal(0.04, np.std(pilot, ddof=1), (4000, seeds))
        found.append(np.mean(scipy_stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05))
    assert found[0] > 0.79 > found[1]
    assert stats.seeds_to_decide(pilot, [0.0] * 5, 0.04, level=0.05 / 20) > needed
    assert stats.seeds_to_decide(pilot, [0.0] * 5, 0.0004) == pytest.approx(1e4 * needed, rel=0.3)
    with pytest.raises(ValueError, match="needs the spread of at least two seeds, got one"):
        stats.seeds_to_decide([1.0], [0.5], 0.1)


def test_holm_multiplies_by_the_claims_that_are_left_and_keeps_their_order():
    assert stats.holm([0.03]) == [0.03]
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.9, 0.001, 0.8]) == pytest.approx([1, 0.003, 1])
    assert stats.holm([]) == []


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ([2.0, 2.1, 1.9], "improves"),
        ([-2.0, -2.1, -1.9], "worsens"),
        ([0.5, 0.51, 0.49], "improves, less than matters"),
        ([-0.5, -0.51, -0.49], "worsens, less than matters"),
        ([0.1, -0.1, 0.02], "no meaningful difference"),
        ([5.0, -5.0, 0.3], "inconclusive"),
        ([9.0], "inconclusive"),
    ],
)
def test_the_verdict_follows_from_the_declared_smallest_effect(differences, word):
    control = np.arange(len(differences)) * 10.0
    assert stats.verdict(control + differences, control, 1.0) == word
    opposite = {"improves": "worsens", "worsens": "improves"}
    head, *tail = word.split(", ")
    expected = ", ".join([opposite.get(head, head), *tail])
    assert stats.verdict(control + differences, control, 1.0, higher_is_better=False) == expected


def test_three_seeds_of_pure_noise_are_inconclusive_but_for_the_declared_error():
    """A direction is found in 5 % of claims, and equivalence almost never, because three noisy seeds cannot show it.
    Of two claims corrected together, one is decided in no more than 5 % of studies."""
    noise, none = np.random.default_rng(3).normal(0.0, 1.0, (2000, 2, 3)), np.zeros(3)
    error = 3 * (0.05 * 0.95 / 2000) ** 0.5
    p = np.array([[stats.p_value(claim, none) for claim in study] for study in noise])
    alone = [stats.verdict(study[0], none, 0.1, p=p[0]) for study, p in zip(noise, p, strict=True)]
    assert np.mean([word.startswith(("improves", "worsens")) for word in alone]) == pytest.approx(0.05, abs=error)
    assert np.mean([word != "inconclusive" for word in alone]) < 0.05 + error
    together = [
        [stats.verdict(claim, none, 0.1, p=p) for claim, p in zip(study, stats.holm(p), strict=True)]
        for study, p in zip(noise, p, strict=True)
    ]
    assert np.mean([words != ["inconclusive"] * 2 for words in together]) < 0.05 + error


def test_equivalence_is_wrong_at_most_at_its_level():
    """Where the true difference is the smallest that matters, equivalence is claimed in 5 % of trials."""
    draws = np.random.default_rng(2).normal(1.0, 0.3, (2000, 6))
    claimed = np.mean([stats.equivalent(draw, np.zeros(6), 1.0) for draw in draws])
    assert claimed == pytest.approx(0.05, abs=0.016)
    close = np.random.default_rng(4).normal(0.0, 0.1, (500, 5))
    assert all(stats.equivalent(draw, np.zeros(5), 1.0) for draw in close)


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    [(0.0, 10, (0, 0.27753)), (1.0, 10, (0.72247, 1)), (0.5, 100, (0.40383, 0.59617))],
)
def test_wilsons_interval_has_its_closed_form(share, count, expected):
    z = scipy_stats.norm.ppf(0.975)
    middle, spread = share + z**2 / (2 * count), z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    closed = [(middle - spread) / (1 + z**2 / count), (middle + spread) / (1 + z**2 / count)]
    assert stats.proportion_interval(share, count) == pytest.approx(closed, abs=1e-9)
    assert stats.proportion_interval(share, count) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.t_interval([0.5, math.nan]), "one finite number per seed"),
        (lambda: stats.paired_interval([1, 2, 3], [1, 2]), "must have the same seeds, got 3 and 2"),
        (lambda: stats.verdict([1, 2], [1, 2], 0.0), r"smallest must be a finite number in \(0, inf\), got 0.0"),
    ],
)
def test_values_that_no_test_can_use_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
