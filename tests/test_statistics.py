"""Means with intervals and paired differences, against theory and hand counts."""

import doctest
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import fusionkit.statistics
from fusionkit.errors import BadRequest
from fusionkit.statistics import holm, interval, interval_nested, paired_difference, ranks

# -- intervals ------------------------------------------------------------------------------------


def test_an_interval_is_the_bootstrap_of_the_mean():
    """For two values each mean is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4."""
    mean, low, high = interval([0.0, 1.0], level=0.9)
    assert (mean, low, high) == (0.5, 0.0, 1.0)
    assert tuple(interval([0.0, 1.0], level=0.3)) == (0.5, 0.5, 0.5)


def test_an_interval_has_the_width_theory_gives_for_many_values():
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = interval(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.high - found.mean == pytest.approx(half, rel=0.1)
    assert found.mean - found.low == pytest.approx(half, rel=0.1)


def test_an_interval_is_repeatable_and_depends_on_the_seed():
    values = np.random.default_rng(1).normal(size=20)
    assert interval(values) == interval(values)
    assert interval(values) != interval(values, seed=1)


def test_an_interval_leaves_out_what_is_not_finite_and_says_so():
    found = interval([1.0, math.nan, 3.0, math.inf])
    assert (found.mean, found.n, found.undefined) == (2.0, 2, 2)
    one = interval([5.0, math.nan])
    assert (one.mean, one.n, one.undefined) == (5.0, 1, 1)
    assert math.isnan(one.low) and math.isnan(one.high)
    none = interval([math.nan])
    assert math.isnan(none.mean) and (none.n, none.undefined) == (0, 1)


def test_intervals_run_over_the_last_axis():
    values = torch.tensor([[[1.0, 2.0, 3.0]], [[4.0, math.nan, 4.0]]])
    found = interval(values)
    assert found.mean.tolist() == [[2.0], [4.0]]
    assert found.n.tolist() == [[3], [2]]
    assert found.low[1, 0] == found.high[1, 0] == 4
    assert found.low[0, 0] == interval([1, 2, 3]).low


def test_unfit_requests_for_an_interval_are_refused():
    with pytest.raises(BadRequest, match="level"):
        interval([1, 2], level=95)
    with pytest.raises(BadRequest, match="resamples"):
        interval([1, 2], resamples=0)
    with pytest.raises(BadRequest, match="one number"):
        interval(1.0)
    with pytest.raises(BadRequest, match=r"\(seeds, scenes\), not \(2,\)"):
        interval_nested([1, 2])


def test_an_interval_over_seeds_and_scenes_covers_the_spread_of_both():
    """Effects of seed and scene add up, so the mean varies by the sum of both variances."""
    rng = np.random.default_rng(2)
    seeds, scenes = rng.normal(0, 1, 30), rng.normal(0, 2, 50)
    found = interval_nested(5 + seeds[:, None] + scenes)
    half = 1.96 * math.sqrt(seeds.var() / 30 + scenes.var() / 50)
    assert found.mean == pytest.approx(5 + seeds.mean() + scenes.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_scenes_common_to_all_seeds_do_not_count_as_new_ones():
    """Ten seeds that agree perfectly say no more about scenes than one."""
    scenes = np.random.default_rng(3).normal(size=25)
    one, ten = interval_nested(scenes[None]), interval_nested(np.tile(scenes, (10, 1)))
    assert ten.high - ten.low == pytest.approx(one.high - one.low, rel=0.1)
    assert one.high - one.low == pytest.approx(
        interval(scenes).high - interval(scenes).low, rel=0.1
    )


def test_missing_cells_of_seeds_and_scenes_are_left_out_and_counted():
    found = interval_nested([[1.0, math.nan, 3.0], [1.0, 2.0, math.nan]])
    assert found.mean == pytest.approx(7 / 4)
    assert (found.n, found.undefined) == (4, 2)
    assert 1 <= found.low <= found.mean <= found.high <= 3
    assert math.isnan(interval_nested([[math.nan]]).mean)


# -- differences ----------------------------------------------------------------------------------


def test_the_chance_of_equal_signs_is_counted_exactly():
    mean, (middle, low, high), p = paired_difference([2, 3, 4, 5, 6], [1, 1, 1, 1, 1])
    assert mean == middle == 3
    assert 1 <= low < 3 < high <= 5
    assert p == 2 / 32  # all plus or all minus


def test_one_of_four_small_against_the_rest_is_worked_by_hand():
    """|sum| of +-1 +-2 +-3 +-4 reaches |-1 + 2 + 3 + 4| = 8 in four of sixteen patterns."""
    assert paired_difference([-1, 2, 3, 4], [0, 0, 0, 0]).p == 4 / 16


def test_many_pictures_are_sampled_and_agree_with_the_normal_approximation():
    difference = np.random.default_rng(4).normal(0.2, 1, 100)
    z = difference.sum() / math.sqrt((difference**2).sum())
    expected = math.erfc(abs(z) / math.sqrt(2))
    found = paired_difference(difference, np.zeros(100))
    assert found.p == pytest.approx(expected, rel=0.15)
    assert paired_difference(np.full(100, 1.0), np.zeros(100)).p == 1 / 10_001


def test_no_difference_is_no_evidence():
    found = paired_difference([1, 2, 3], [1, 2, 3])
    assert (found.mean, found.p) == (0, 1)


def test_a_picture_counts_only_where_both_scores_exist():
    found = paired_difference([1, math.nan, 3, math.inf], [0, 0, math.nan, math.inf])
    assert (found.mean, found.interval.n, found.interval.undefined) == (1, 1, 3)
    assert math.isnan(paired_difference([math.nan], [1]).p)
    with pytest.raises(BadRequest, match=r"\(3,\) and \(2,\)"):
        paired_difference([1, 2, 3], [1, 2])


def test_statistics_do_not_need_torch():
    code = "import sys, fusionkit.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# -- several comparisons --------------------------------------------------------------------------


def test_holms_correction_steps_down_and_never_turns_the_order_around():
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == pytest.approx([0.02])


def test_a_comparison_without_data_is_no_comparison():
    corrected = holm([0.01, math.nan, 0.04])
    assert corrected[[0, 2]] == pytest.approx([0.02, 0.04]) and math.isnan(corrected[1])


def test_ranks_follow_the_direction_share_ties_and_skip_what_is_undefined():
    values = [[1.0, 3.0, 2.0], [5.0, 5.0, 4.0], [math.nan, 1.0, math.inf]]
    assert ranks(values, higher_is_better=True)[:2].tolist() == [[3, 1, 2], [1.5, 1.5, 3]]
    assert ranks(values, higher_is_better=False)[:2].tolist() == [[1, 3, 2], [2.5, 2.5, 1]]
    last = ranks(values, higher_is_better=True)[2]
    assert last[1] == 1 and np.isnan(last[[0, 2]]).all()


def test_examples_in_docstrings_hold():
    assert doctest.testmod(fusionkit.statistics).failed == 0
