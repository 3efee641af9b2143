"""The judgement: figures against limits by Great Expectations, a report that can be kept and read, and no word to anybody else."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lurm.audit import audit, findings_of, keep_audit, kept_report
from lurm.checks import BLOCK, INFO, OFF, WARN, Check
from lurm.config import GateSettings
from lurm.store import Store

ROOT = Path(__file__).parents[1]
CHECKS = (
    Check("no_holes", "holes", 0, 0, BLOCK, "holes in it", contract=True),
    Check("enough_users", "users", "min_users", None, BLOCK, "users in it"),
    Check("few_zeros", "zeros", 0, "max_zero_share", WARN, "zeros <in> it"),
    Check("not_too_bright", "light", None, 3, INFO, "light of it"),
)
SOUND = {"holes": 0, "users": 5, "zeros": 0.0, "light": 3.0}


def judge(severities=None, **figures):
    return audit("a table", {**SOUND, **figures}, CHECKS, GateSettings(min_users=5, max_zero_share=0.1, severities=severities or {}))


def test_what_fits_passes():
    verdict = judge()
    assert verdict.findings == () and verdict.left_out == () and "Every check passed." in verdict.page
    assert verdict.validation["success"] is True and verdict.validation["statistics"]["evaluated_expectations"] == 4


@pytest.mark.parametrize(("figures", "name", "sentence"), [
    ({"holes": 2}, "no_holes", "no_holes is 2, expected 0"),
    ({"holes": -1}, "no_holes", "no_holes is -1, expected 0"),
    ({"users": 4}, "enough_users", "enough_users is 4, expected at least 5"),
    ({"zeros": 0.11}, "few_zeros", "few_zeros is 0.11, expected 0 to 0.1"),
    ({"light": 3.1}, "not_too_bright", "not_too_bright is 3.1, expected at most 3"),
    ({"zeros": math.nan}, "few_zeros", "few_zeros is nan, expected 0 to 0.1"),
    ({"light": math.inf}, "not_too_bright", "not_too_bright is inf, expected at most 3"),
])
def test_each_limit_is_a_named_expectation(figures, name, sentence):
    verdict = judge(**figures)
    (finding,) = verdict.findings
    assert finding.name == name and str(finding) == sentence
    failed = [result for result in verdict.validation["results"] if not result["success"]]
    assert [result["expectation_config"]["kwargs"]["column"] for result in failed] == [name]
    assert failed[0]["expectation_config"]["severity"] == {BLOCK: "critical", WARN: "warning", INFO: "info"}[finding.severity]


def test_a_limit_includes_its_border():
    assert judge(users=5, zeros=0.1, light=3).findings == ()


def test_severities_can_be_set_and_checks_left_out():
    bad = {"users": 1, "zeros": 0.5, "light": 9}
    verdict = judge({"few_zeros": BLOCK, "not_too_bright": OFF}, **bad)
    assert [finding.name for finding in verdict.of(BLOCK)] == ["enough_users", "few_zeros"] and verdict.left_out == ("not_too_bright",)
    assert [finding.name for finding in judge({"enough_users": INFO}, **bad).of(BLOCK)] == []
    assert judge({check.name: OFF for check in CHECKS}).findings == ()


def test_a_figure_that_there_is_not_is_not_judged():
    verdict = judge(zeros=None)
    assert verdict.left_out == ("few_zeros",) and verdict.findings == () and "Nothing to judge: few_zeros." in verdict.page


def test_the_digest_names_the_outcome():
    assert judge().digest == judge().digest
    assert len({judge().digest, judge(users=6).digest, judge(users=1).digest, judge({"enough_users": WARN}, users=1).digest}) == 4


def test_the_report_is_kept_whole(tmp_path):
    store, verdict = Store(str(tmp_path)), judge(users=1, zeros=math.nan)
    assert keep_audit(store, "some-run", verdict, {"candidate": "here"}) == "audits/some-run/report.json"
    assert sorted(os.listdir(tmp_path / "audits" / "some-run")) == ["index.html", "report.json", "validation.json"]
    report = kept_report(store, "some-run")
    assert report["candidate"] == "here" and report["figures"]["zeros"] == "nan" and report["digest"] == verdict.digest
    again = findings_of(report)
    assert [str(finding) for finding in again] == [str(finding) for finding in verdict.findings]
    validation = json.loads((tmp_path / "audits" / "some-run" / "validation.json").read_text())
    assert validation["suite_name"] == "a table" and validation["meta"]["great_expectations_version"]
    assert kept_report(store, "another-run") is None


def test_the_page_says_what_failed_and_loads_nothing():
    page = judge(users=1, zeros=0.25, light=4).page
    assert 'class="block">block: enough_users is 1, expected at least 5 (users in it)' in page
    assert "warn: few_zeros is 0.25, expected 0 to 0.1 (zeros &lt;in&gt; it)" in page, "what others wrote is escaped"
    assert page.count("ge-section") == 5, "an overview and a section a check"
    assert re.findall(r"""(?:src|href)=["'](?!#)""", page) == [] and "<script" not in page and "//" not in page.replace("<!DOCTYPE html>", "")


def test_it_is_quiet_sends_nothing_and_leaves_nothing_behind(tmp_path):
    """In a process of its own that logs everything, where every connection would fail the test."""
    code = """
import logging, os, socket, sys
logging.basicConfig(level=logging.INFO)
def refuse(*arguments, **keywords):
    os._exit(77)
socket.socket.connect = socket.create_connection = refuse
import lurm.publication, lurm.input_gate, lurm.cli
assert "great_expectations" not in sys.modules and "pandas" not in sys.modules
from lurm.audit import audit
from lurm.checks import OUTPUT_CHECKS, WARN
from lurm.config import GateSettings
figures = {check.figure: None for check in OUTPUT_CHECKS} | {"rows": 1}
assert audit("a table", figures, OUTPUT_CHECKS, GateSettings()).findings == ()
assert os.environ["GX_ANALYTICS_ENABLED"] == "false"
"""
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("GX_ANALYTICS_ENABLED", None)
    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "" and answer.stderr == "" and list(tmp_path.iterdir()) == []
