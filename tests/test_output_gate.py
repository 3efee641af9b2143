"""The checks of the gate as data: named once, with limits that exist and defaults that leave room; what they judge is in test_publication."""

import dataclasses

import pytest
from published import day, rows_of, stage_day

from lurm.audit import audit
from lurm.checks import BY_SECTION, INPUT_CHECKS, OUTPUT_CHECKS, SEVERITIES
from lurm.config import Config
from lurm.output_gate import output_figures
from lurm.store import Store


@pytest.mark.parametrize("section", BY_SECTION)
def test_every_check_has_its_own_name_a_meaning_and_limits_that_are_settings(section):
    checks, settings = BY_SECTION[section], getattr(Config(), section)
    assert len({check.name for check in checks}) == len(checks)
    for check in checks:
        assert check.severity in SEVERITIES and check.meaning and (check.lowest, check.highest) != (None, None)
        for limit in (check.lowest, check.highest):
            assert limit is None or isinstance(getattr(settings, limit) if isinstance(limit, str) else limit, int | float), check.name
    used = {limit for check in checks for limit in (check.lowest, check.highest) if isinstance(limit, str)}
    others = {"severities", "sampled_users", "min_compared_users", "min_events"}
    assert {field.name for field in dataclasses.fields(settings)} == used | (others & set(dataclasses.asdict(settings)))


def test_a_warning_comes_before_the_block():
    """Of two checks on one figure the milder one has the tighter limit."""
    settings = Config().gate
    for what in ("coverage", "overlap", "same_user_cosine"):
        assert getattr(settings, f"usual_{what}") > getattr(settings, f"min_{what}"), what
    for what in ("lost_users", "mean_shift"):
        assert getattr(settings, f"usual_{what}") < getattr(settings, f"max_{what}"), what
    inputs = Config().input_gate
    assert inputs.usual_unknown_share < inputs.max_unknown_share and inputs.usual_quarantined_share < inputs.max_quarantined_share


def test_only_what_readers_are_promised_cannot_be_forced():
    assert not any(check.contract for check in INPUT_CHECKS)
    for check in OUTPUT_CHECKS:
        assert not check.contract or (check.severity == "block" and not isinstance(check.lowest, str) and not isinstance(check.highest, str))


def test_there_is_a_figure_for_every_check(tmp_path):
    store = Store(str(tmp_path / "warehouse"))
    manifest = stage_day(store, "2022-01-01", [rows_of(["a", "b"])], unusable=2)
    figures, facts = output_figures(day(store, "2022-01-01"), manifest)
    assert {check.figure for check in OUTPUT_CHECKS} <= set(figures) and figures["coverage"] == 0.5
    assert facts == {"empty_months": [], "compared_with": "nothing: this is the first release"}
    verdict = audit("two users", figures, OUTPUT_CHECKS, Config().gate)
    assert [finding.name for finding in verdict.findings] == ["coverage_is_usual"] and "number_of_users" in verdict.left_out
