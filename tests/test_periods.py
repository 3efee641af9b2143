"""The calendar: numbers and names of months, what an as_of opens and closes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lurm.errors import ConfigError
from lurm.periods import empty_months, end_month, month_name, month_number, parse_as_of, starts_before, until


def test_months_are_numbered_from_1970():
    assert [month_number(name) for name in ("1970-01", "1970-12", "1971-01", "2022-03", "2022-03-17")] == [0, 11, 12, 626, 626]


@given(st.integers(0, 12 * 200))
def test_name_and_number_are_inverse(number):
    assert month_number(month_name(number)) == number


@pytest.mark.parametrize("text", ["2022-1-1", "20220101", "2022-13-01", "2022-02-30", "yesterday", "", "2022-01-01T00:00", "1969-12-31", None])
def test_what_is_no_date_is_one_sentence(text):
    with pytest.raises(ConfigError, match="Expected --as-of as a date YYYY-MM-DD.*write for example 2022-01-01"):
        parse_as_of(text)


def test_a_date_comes_back_as_it_is():
    assert parse_as_of("2024-02-29") == "2024-02-29"


@pytest.mark.parametrize(("as_of", "last"), [("2022-01-01", "2021-12"), ("2022-01-02", "2022-01"), ("2022-01-31", "2022-01")])
def test_end_month_follows_the_last_month_with_instants_before(as_of, last):
    assert month_name(end_month(as_of) - 1) == last


@pytest.mark.parametrize(("period", "as_of", "expected"), [
    ("2021-12", "2022-01-01", True), ("2022-01", "2022-01-01", False), ("2022-01", "2022-01-02", True),
    ("2021", "2022-01-01", True), ("2022", "2022-01-01", False), ("2022", "2022-01-02", True),
])
def test_a_period_starts_before_as_of_if_one_instant_does(period, as_of, expected):
    assert starts_before(period, as_of) is expected


@pytest.mark.parametrize(("period", "as_of", "expected"), [
    ("2021-11", "2022-01-15", "2021-12-01"), ("2021-12", "2022-01-15", "2022-01-01"), ("2022-01", "2022-01-15", "2022-01-15"),
    ("2021-12", "2022-01-01", "2022-01-01"), ("2021", "2022-01-15", "2022-01-01"), ("2022", "2022-01-15", "2022-01-15"),
])
def test_a_closed_period_is_counted_to_its_end_and_an_open_one_to_as_of(period, as_of, expected):
    assert until(period, as_of) == expected


FULL = {f"2021-{month:02d}": 100 for month in range(1, 13)}


def without(*months: str) -> dict[str, int]:
    return {month: count for month, count in FULL.items() if month not in months}


@pytest.mark.parametrize(("counts", "as_of", "holes"), [
    (FULL, "2022-01-01", []),
    (without("2021-12"), "2022-01-01", ["2021-12"]),
    (without("2021-12"), "2021-12-20", []),  # the month is open still
    (without("2021-12"), "2022-02-01", []),  # two months are missing: the log has ended
    (without("2021-12") | {"2022-01": 1}, "2022-01-20", ["2021-12"]),
    (without("2021-06", "2021-07"), "2022-01-01", ["2021-06"]),  # the first month of a hole names it
    (without("2021-05", "2021-09"), "2022-01-01", ["2021-05", "2021-09"]),
    (without("2021-03"), "2022-01-01", []),  # only two full months before it
    (FULL | {"2021-08": 0}, "2022-01-01", ["2021-08"]),
    (without("2021-08") | {"2021-06": 99}, "2022-01-01", []),  # not enough before it to be surprised
    (without("2021-05"), "2022-06-01", []),  # longer ago than a year
    ({}, "2022-01-01", []),
])
def test_a_hole_is_a_month_without_anything_where_life_went_on(counts, as_of, holes):
    assert empty_months(counts, as_of, fewest=100) == holes
