"""Charts of an evaluation: everything drawn lies where its number says."""

import re

import pytest

from lurm.report.evaluation_charts import Curve, Estimate, curves, forest, ticks


def test_a_forest_tells_above_below_and_undecided():
    picture = forest([Estimate("better <b>", 2, 1, 3), Estimate("worse", -2, -3, -1), Estimate("who knows", 0.1, -1, 1)], "what is seen")
    assert re.findall(r'<g class="(\w+)"', picture) == ["good", "bad", "none"] and "<b>" not in picture and "better &lt;b&gt;" in picture
    assert "+2.0 [+1.0, +3.0]" in picture and 'aria-label="what is seen"' in picture
    centres = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', picture)]
    zero = float(re.search(r'<line class="axis" x1="([\d.]+)"', picture).group(1))
    assert centres[1] < zero < centres[2] < centres[0] and centres[0] - zero == pytest.approx(zero - centres[1], abs=0.1)
    far = forest([Estimate("far", -30, -33, -28), Estimate("near", 1, 0.5, 1.5)], "")
    assert "-30.0 [-33.0, -28.0]" in far and min(float(x) for x in re.findall(r'<circle cx="([\d.]+)"', far)) >= 170, "at the edge, not beyond"
    assert "Nothing to compare" in forest([Estimate("x", float("nan"), 0, 1)], "")


def test_curves_have_a_point_a_figure_and_a_key():
    picture = curves([Curve("one", [10, 100, 1_000], [60, 70, 65]), Curve("two & three", [10, 100], [50, float("nan")])], "seen", "events")
    assert picture.count("<circle") == 4 and picture.count("<polyline") == 2 and "two &amp; three" in picture and "events" in picture
    xs = [float(x) for x in re.findall(r'cx="([\d.]+)"', picture)]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.1), "ten times as many is as far"
    ys = [float(y) for y in re.findall(r'cy="([\d.]+)"', picture)]
    assert ys[1] < ys[2] < ys[0] < ys[3]
    assert "Nothing to draw" in curves([], "", "")


def test_one_point_and_equal_figures_are_drawn():
    assert curves([Curve("one", [5], [50])], "", "x").count("<circle") == 1
    assert "nan" not in forest([Estimate("same", 0, 0, 0)], "").lower()


@pytest.mark.parametrize(("low", "high", "most", "expected"), [
    (-3.1, 3.1, 6, [-2, 0, 2]), (60, 71, 5, [60, 65, 70]), (0, 0.4, 5, [0, 0.1, 0.2, 0.3, 0.4]),
])
def test_ticks_are_round(low, high, most, expected):
    assert ticks(low, high, most) == expected
