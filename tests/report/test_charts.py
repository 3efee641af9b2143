"""Charts: well-formed, in scale, and silent about nothing."""

import re
from xml.etree import ElementTree

import pytest

from lurm.report.charts import columns, histogram, line_chart, meter

NAN, INFINITE = float("nan"), float("inf")


def numbers(chart: str, name: str) -> list[float]:
    return [float(value) for value in re.findall(rf'<rect[^>]* {name}="([^"]*)"', chart)]


@pytest.mark.parametrize("chart", [
    line_chart([("held", [1, 2], [3.0, NAN]), ("trained", range(1_000), [1.0] * 1_000)], "a < b", mark=2),
    line_chart([("held", [5], [0.0])], "one point"), histogram([1, 0, 3], 2.5, "h"), histogram([], 1.0, "none"), histogram([0, 0], 1.0, "zero"),
    columns([1.0, -2.0], ["<a>", "b"], "c"), columns([0.0], ["a"], "zero"), meter(0.5), meter(NAN), meter(7, negative=True),
], ids=str.__len__)
def test_every_chart_is_whole_xml_inside_its_frame(chart):
    picture = ElementTree.fromstring(chart)
    width = float(picture.attrib["viewBox"].split()[2])
    assert "nan" not in chart and all(0 <= value <= width for value in numbers(chart, "width"))


def test_heights_follow_the_counts():
    heights = numbers(histogram([10, 0, 5], 1.0, "h"), "height")
    assert len(heights) == 2 and heights[0] == pytest.approx(2 * heights[1], abs=0.02)
    up, down = numbers(columns([1.0, -3.0], ["a", "b"], "c"), "height")
    assert down == pytest.approx(3 * up, abs=0.05)


def test_many_points_are_thinned_and_nothing_says_so():
    line = re.search(r'points="([^"]*)"', line_chart([("held", list(range(10_000)), [1.0, 3.0] * 5_000)], "x")).group(1).split()
    assert 250 <= len(line) <= 300 and len({point.split(",")[1] for point in line}) == 1, "means of neighbours"
    assert "No figures were kept" in line_chart([("held", [], [])], "x") and "No figures" in line_chart([("held", [1], [INFINITE])], "x")
