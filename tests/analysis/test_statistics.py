"""Statistics: golden values of rliable, properties, and how often the verdict is wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdreamer.analysis.aggregates import Floats, iqm, iqm_of_tasks, probability_of_improvement, profile
from qdreamer.analysis.bootstrap import interval, p_value, percentile
from qdreamer.analysis.holm import levels
from qdreamer.analysis.learning_curves import area, on_grid, reached
from qdreamer.analysis.verdict import decide, decide_all, difference

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "rliable.json").read_text())
finite = st.floats(-1e6, 1e6)


@pytest.mark.parametrize("case", GOLDEN)
def test_points_equal_rliable(case: str) -> None:
    golden = GOLDEN[case]
    x, y = np.array(golden["x"]), np.array(golden["y"])
    assert iqm_of_tasks(x) == pytest.approx(golden["iqm"], rel=1e-9, abs=1e-9)
    assert probability_of_improvement(x, y) == pytest.approx(golden["improvement"], rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(profile(x, np.array(golden["levels"])), golden["profile"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", GOLDEN)
def test_interval_ends_equal_rliable_within_monte_carlo_error(case: str) -> None:
    golden = GOLDEN[case]
    x, y = np.array(golden["x"]), np.array(golden["y"])
    found = interval(iqm_of_tasks, [x], np.random.default_rng(0), 20_000)
    spread = found.high - found.low
    np.testing.assert_allclose([found.low, found.high], golden["iqm_interval"], atol=0.03 * spread)
    ends = interval(probability_of_improvement, [x, y], np.random.default_rng(0), 5_000)
    np.testing.assert_allclose([ends.low, ends.high], golden["improvement_interval"], atol=0.05)


@given(st.lists(finite, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_iqm_lies_within_the_middle_and_ignores_order(scores: list[float], random: Any) -> None:
    value = float(iqm(np.array(scores)))
    middle = sorted(scores)[len(scores) // 4 : len(scores) - len(scores) // 4]
    assert min(middle) - 1e-6 <= value <= max(middle) + 1e-6
    random.shuffle(scores)
    assert float(iqm(np.array(scores))) == pytest.approx(value, abs=1e-6)


@given(st.lists(finite, min_size=1, max_size=12), st.lists(finite, min_size=1, max_size=12))
def test_improvement_of_both_sides_adds_up(x: list[float], y: list[float]) -> None:
    a, b = np.array(x)[:, None], np.array(y)[:, None]
    assert probability_of_improvement(a, b) + probability_of_improvement(b, a) == pytest.approx(1.0)


def test_improvement_compares_failures() -> None:
    """A goal that was never reached is minus infinity: it loses against all, and ties with its like."""
    x, y = np.array([[-3.0], [-np.inf]]), np.array([[-4.0], [-np.inf]])
    assert probability_of_improvement(x, y) == pytest.approx((1 + 1 + 0 + 0.5) / 4)


def test_resamples_stay_within_their_task() -> None:
    scores = np.array([[0.0, 100.0], [1.0, 101.0], [2.0, 102.0]])
    found = interval(lambda s: s.mean((-2, -1)), [scores], np.random.default_rng(0), 2_000)
    assert 50.0 <= found.low < found.point == 51.0 < found.high <= 52.0


def adjusted(p_values: Floats) -> Floats:
    """Return Holm's adjusted p-values, which may be held against α itself, (m,) → (m,)."""
    m = len(p_values)
    order = np.argsort(p_values, kind="stable")
    out = np.empty(m)
    out[order] = np.maximum.accumulate(p_values[order] * (m - np.arange(m))).clip(max=1.0)
    return out


@given(st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=12))
def test_holm_claims_what_its_adjusted_p_claims(p: list[float]) -> None:
    values = np.array(p)
    np.testing.assert_array_equal(values <= levels(values) + 1e-15, adjusted(values) <= 0.05 + 1e-12)


def test_holm_by_hand() -> None:
    """The example of most textbooks: only the two smallest survive."""
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(adjusted(p), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(levels(p), [0.05 / 3, 0.025, 0.025, 0.0125])


def test_p_value_and_interval_agree() -> None:
    random = np.random.default_rng(0)
    for shift in np.linspace(0.0, 3.0, 40):
        samples = random.normal(shift, 1.0, 4_000)
        p = p_value(samples)
        if abs(p - 0.05) > 0.004:
            assert (p < 0.05) == (0.0 not in percentile(shift, samples))


def test_curves_as_numbers() -> None:
    steps, returns = np.array([500.0, 1000.0, 2000.0]), np.array([10.0, 20.0, 40.0])
    assert area(steps, returns) == pytest.approx((15 * 500 + 30 * 1000) / 1500)
    assert area(steps[:1], returns[:1]) == 10.0
    assert reached(steps, returns, 20.0, 2000.0) == 1000.0
    assert reached(steps, returns, 41.0, 2500.0) == 2500.0, "censored at the budget"
    values = on_grid(steps, returns, np.array([0.0, 500.0, 999.0, 1000.0, 5000.0]))
    np.testing.assert_array_equal(values, [np.nan, 10.0, 10.0, 20.0, 40.0])


def _words(x: np.ndarray, y: np.ndarray, margin: float | None = None) -> str:
    return decide(difference(x, y, np.random.default_rng(0), 2_000), margin).word


def test_the_rules_of_the_verdict() -> None:
    spread = np.linspace(-1.0, 1.0, 20)
    for n, word in ((3, "inconclusive"), (4, "inconclusive"), (9, "inconclusive"), (10, "better")):
        assert _words(spread[:n] + 100.0, spread[:n]) == word, n
    assert _words(spread, spread + 100.0) == "worse"
    assert _words(spread[:9], spread + 100.0) == "inconclusive", "the smaller group counts"
    assert _words(spread, spread) == "inconclusive", "without a margin nothing is 'no difference'"
    assert _words(spread, spread, 5.0) == "no difference shown"
    assert _words(spread[:5], spread[2:7], 5.0) == "no difference shown"
    assert _words(spread[:4], spread[:4], 5.0) == "inconclusive"
    assert _words(spread, spread, 0.1) == "inconclusive", "the interval reaches beyond the margin"
    ceiling = np.full(10, 500.0)
    assert _words(ceiling, ceiling, 5.0) == "inconclusive", "a ceiling tells nothing"
    with pytest.raises(ValueError, match="not finite"):
        _words(np.array([1.0, np.nan]), spread)


def test_holm_makes_a_family_more_careful() -> None:
    random = np.random.default_rng(0)
    y = random.normal(size=10)
    one = difference(y[::-1] + 1.1, y, random, 4_000)
    assert 0.006 < one.p < 0.05
    assert decide(one, None).word == "better"
    null = [difference(random.normal(size=10), random.normal(size=10), random, 2_000) for _ in range(9)]
    verdicts = decide_all([one, *null], None)
    assert verdicts[0].word == "inconclusive"
    assert verdicts[0].interval.level == pytest.approx(1.0 - 0.05 / 10)
    assert decide_all([], None) == []


@pytest.mark.parametrize("shape", ["normal", "log-normal", "ceiling", "censored"])
def test_identical_agents_are_seldom_told_apart(shape: str) -> None:
    """At most 6 % in the long run (benchmarks.calibration); 400 comparisons allow for three deviations."""
    from benchmarks.calibration import SHAPES, coverage, false_claims

    _, claimed = false_claims(SHAPES[shape], 10, 400, 600)
    assert claimed <= 0.06 + 3 * (0.06 * 0.94 / 400) ** 0.5
    assert coverage(SHAPES[shape], 10, 400, 600) >= 0.91 - 3 * (0.91 * 0.09 / 400) ** 0.5
