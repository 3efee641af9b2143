"""The quality gate's judgement, and the only door to Great Expectations: figures against limits, a verdict that can be kept and read.

In: a few figures, the checks of `lurm.checks`, the limits of the configuration. Out: what is violated and how severely, the validation
result as Great Expectations writes it, and a page of its Data Docs. Each check is one named expectation on a frame of one row, so the
cost does not depend on the table. Nothing in a report names a user.
"""

import hashlib
import html
import json
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from lurm.checks import BLOCK, INFO, OFF, WARN, Check
from lurm.config import GateSettings, InputGateSettings
from lurm.store import Store

log = logging.getLogger("lurm")
SEVERITY_NAMES = {BLOCK: "critical", WARN: "warning", INFO: "info"}  # what Great Expectations calls them
FOLDER = "audits"

STYLE = """
body { font-family: sans-serif; margin: 2em auto; max-width: 70em; } table { border-collapse: collapse; } td, th { padding: 0.2em 0.8em; }
.block { color: #a00000; } .warn { color: #a06000; } .alert { background: #eeeeee; padding: 0.4em; margin-top: 1em; }
.badge { background: #dddddd; padding: 0 0.3em; } .fa-check-circle::before { content: "\\2713"; color: #008000; }
.fa-times::before, .fa-exclamation-triangle::before, .fa-info-circle::before { content: "\\2717"; color: #a00000; }
"""


@dataclass(frozen=True)
class Finding:
    """A check that failed; `contract` says that it breaks what readers are promised, so that it cannot be forced."""

    name: str
    severity: str
    value: float
    lowest: float | None
    highest: float | None
    meaning: str
    contract: bool

    def __str__(self) -> str:
        if self.lowest is None or self.highest is None:
            limit = f"at most {self.highest:g}" if self.lowest is None else f"at least {self.lowest:g}"
        else:
            limit = f"{self.lowest:g}" if self.lowest == self.highest else f"{self.lowest:g} to {self.highest:g}"
        return f"{self.name} is {self.value:g}, expected {limit}"


@dataclass(frozen=True)
class Audit:
    """The verdict on some figures."""

    title: str
    figures: dict
    findings: tuple[Finding, ...]  # in the order of the checks
    left_out: tuple[str, ...]  # checks whose figure there is not, such as drift without a release to compare with
    validation: dict  # as Great Expectations writes it
    page: str  # HTML that loads nothing

    def of(self, severity: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == severity]

    def report(self) -> dict:
        """All but the page and the validation result, as plain data."""
        findings = [_plain(asdict(finding)) for finding in self.findings]
        return {"figures": _plain(self.figures), "findings": findings, "left_out": list(self.left_out), "digest": self.digest}

    @property
    def digest(self) -> str:
        """Names the outcome; it goes into the commit and the release."""
        text = json.dumps([_plain(self.figures), [_plain(asdict(finding)) for finding in self.findings]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def audit(title: str, figures: Mapping, checks: Iterable[Check], settings: GateSettings | InputGateSettings) -> Audit:
    """Judge `figures` (name -> number, or None where there is nothing to judge; more than the checks need may be there)."""
    checks = [(check, settings.severities.get(check.name, check.severity)) for check in checks]
    left_out = tuple(check.name for check, severity in checks if severity == OFF or figures[check.figure] is None)
    judged = [(check, severity) for check, severity in checks if check.name not in left_out]
    result = _validate(title, figures, judged, settings)
    passed = {entry.expectation_config.kwargs["column"]: bool(entry.success) for entry in result.results}
    findings = tuple(
        Finding(check.name, severity, float(figures[check.figure]), *_limits(check, settings), check.meaning, check.contract)
        for check, severity in judged if not passed[check.name]
    )
    for finding in findings:
        log.log(logging.INFO if finding.severity == INFO else logging.WARNING, "%s: %s: %s (%s)", title, finding.severity, finding, finding.meaning)
    return Audit(title, dict(figures), findings, left_out, result.to_json_dict(), _page(title, findings, left_out, result))


def keep_audit(store: Store, key: str, verdict: Audit, facts: Mapping) -> str:
    """Write audits/<key>/: index.html, validation.json, and last report.json, whose presence says that the rest is there; returns its path."""
    report = {"title": verdict.title, **facts, **verdict.report()}
    store.write_bytes(store.path(FOLDER, key, "index.html"), verdict.page.encode())
    store.write_bytes(store.path(FOLDER, key, "validation.json"), json.dumps(verdict.validation, indent=1).encode())
    store.write_bytes(store.path(FOLDER, key, "report.json"), json.dumps(report, indent=1).encode())
    return f"{FOLDER}/{key}/report.json"


def kept_report(store: Store, key: str) -> dict | None:
    """The report of an earlier audit."""
    if not store.exists(FOLDER, key, "report.json"):
        return None
    return json.loads(store.read_bytes(store.path(FOLDER, key, "report.json")))


def findings_of(report: Mapping) -> list[Finding]:
    """The findings that a report tells of."""
    return [Finding(**{**finding, "value": float(finding["value"])}) for finding in report["findings"]]


def _limits(check: Check, settings) -> tuple[float | None, float | None]:
    return tuple(getattr(settings, limit) if isinstance(limit, str) else limit for limit in (check.lowest, check.highest))


def _validate(title: str, figures: Mapping, judged: list[tuple[Check, str]], settings):
    """One row with a column per check, one expectation per column. A figure that is NaN fails."""
    import pandas as pd

    gx = _great_expectations()
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults, ProgressBarsConfig

    in_memory = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
    quiet = DataContextConfig(store_backend_defaults=in_memory, progress_bars=ProgressBarsConfig(globally=False))
    context = gx.get_context(mode="ephemeral", project_config=quiet)
    row = pd.DataFrame({check.name: [float(figures[check.figure])] for check, _ in judged}, index=[0])
    expectations = []
    for check, severity in judged:
        lowest, highest = _limits(check, settings)
        expectations.append(gx.expectations.ExpectColumnMaxToBeBetween(
            column=check.name, min_value=lowest, max_value=highest, severity=SEVERITY_NAMES[severity], meta={"meaning": check.meaning},
        ))
    batch = context.data_sources.add_pandas("figures").add_dataframe_asset(title).add_batch_definition_whole_dataframe("all")
    result = batch.get_batch({"dataframe": row}).validate(gx.ExpectationSuite(name=title, expectations=expectations))
    for entry in result.results:  # numpy's numbers, which the renderer cannot read
        value = entry.result.get("observed_value")
        entry.result["observed_value"] = None if value is None else float(value)
    return result


def _great_expectations():
    """Imported at the first audit: it takes seconds, and neither readers nor `--help` need it."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # no usage statistics
    logging.getLogger("great_expectations").setLevel(logging.ERROR)  # it tells a hundred things while it is imported
    import great_expectations

    return great_expectations


def _page(title: str, findings: tuple[Finding, ...], left_out: tuple[str, ...], result) -> str:
    """Data Docs of one validation, without the frame that loads styles, scripts and a logo from other people's servers."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaSectionView

    sections, view = ValidationResultsPageRenderer().render(result).to_json_dict()["sections"], DefaultJinjaSectionView()
    body = "".join(view.render({"section": section, "section_loop": {"index": number}}) for number, section in enumerate(sections, 1))
    body = re.sub(r"<script.*?</script>|<link[^>]*>|<img[^>]*>", "", body, flags=re.DOTALL)
    body = re.sub(r'<a href="(?!#)[^>]*>(.*?)</a>', r"\1", body, flags=re.DOTALL)
    lines = [f'<li class="{finding.severity}">{html.escape(f"{finding.severity}: {finding} ({finding.meaning})")}</li>' for finding in findings]
    summary = f"<ul>{''.join(lines)}</ul>" if findings else "<p>Every check passed.</p>"
    silent = f"<p>Nothing to judge: {html.escape(', '.join(left_out))}.</p>" if left_out else ""
    return (f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style></head>\n'
            f"<body><h1>{html.escape(title)}</h1>{summary}{silent}\n{body}</body></html>\n")


def _plain(figures: Mapping) -> dict:
    """For JSON, which has no word for what is not a number."""
    return {name: str(value) if isinstance(value, float) and not math.isfinite(value) else value for name, value in figures.items()}
