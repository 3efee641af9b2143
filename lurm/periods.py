"""The calendar: months and years as half-open periods in UTC, and which of them an `as_of` closes.

A month is called YYYY-MM and numbered by the months since 1970-01; a year is called YYYY and numbered by the years since 1970.
"""

from collections.abc import Mapping
from datetime import date

from lurm.errors import ConfigError

HALF_LIVES = (1.0, 3.0, 6.0, 12.0, float("inf"))  # months, in which what is said of activity fades (lurm.smen.activity_traces)


def parse_as_of(text: str) -> str:
    """Check a date; events before its midnight in UTC may be used. Raises ConfigError for anything but YYYY-MM-DD."""
    try:
        parsed = date.fromisoformat(text)
    except (ValueError, TypeError):
        raise ConfigError(f"Expected --as-of as a date YYYY-MM-DD, got {text!r}; write for example 2022-01-01.") from None
    if parsed.isoformat() != text or parsed.year < 1970:
        raise ConfigError(f"Expected --as-of as a date YYYY-MM-DD from 1970 on, got {text!r}; write for example 2022-01-01.")
    return text


def month_number(period: str) -> int:
    """Months since 1970-01 of YYYY-MM (or of a date)."""
    return (int(period[:4]) - 1970) * 12 + int(period[5:7]) - 1


def month_name(number: int) -> str:
    return f"{1970 + number // 12:04d}-{number % 12 + 1:02d}"


def end_month(as_of: str) -> int:
    """Number of the month that follows the last month with instants before `as_of`."""
    return month_number(as_of) + (0 if as_of.endswith("-01") else 1)


def starts_before(period: str, as_of: str) -> bool:
    """Whether a period (YYYY or YYYY-MM) has instants before `as_of`."""
    return f"{period}-01-01"[:10] < as_of


def until(period: str, as_of: str) -> str:
    """The date before which events of a period are counted: its end once it is closed, `as_of` while it is open."""
    if len(period) == 4:
        end = f"{int(period) + 1:04d}-01-01"
    else:
        end = f"{month_name(month_number(period) + 1)}-01"
    return min(end, as_of)


def empty_months(counts: Mapping[str, int], as_of: str, fewest: int, window: int = 12) -> list[str]:
    """Closed months in which nothing happened, although life went on: holes that a failed export leaves.

    `counts` says how much every month (YYYY-MM) holds, `window` how many closed months before `as_of` are looked at. A month counts as
    a hole if each of the three before it holds `fewest` or more and it is either the last closed month or followed by a month with
    something. A log that has ended months ago has no holes: it is old, which is another matter.
    """
    full = {month_number(month) for month, count in counts.items() if count > 0}
    months = range(month_number(as_of) - window, month_number(as_of))
    newest = max(full, default=-1)
    return [
        month_name(month) for month in months
        if month not in full and (month == months[-1] or month < newest)
        and all(counts.get(month_name(month - back), 0) >= fewest for back in (1, 2, 3))
    ]
