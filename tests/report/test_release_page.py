"""The report of a release: everything is told, nothing rare is, hostile titles stay text. How it behaves is tested in a browser."""

import json
import re
import sys
from dataclasses import replace

import pytest
from small_release import AS_OF, ENCODER, MODEL, N_ANCHORS, N_INTERESTS, N_USERS, SECRET, SPACE

from lurm.errors import MissingInputError
from lurm.report.anchors import NormCounts
from lurm.report.release_facts import ReleaseFacts, Verdict
from lurm.report.release_page import look, release_page


@pytest.fixture(scope="module")
def view(released):
    return look(released, min_users=5)


@pytest.fixture(scope="module")
def page(view) -> str:
    return release_page(view)


def without_scripts(page: str) -> str:
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_what_the_release_is(page):
    text = without_scripts(page)
    for told in (AS_OF, ENCODER, SPACE, MODEL, "passed the quality gate", f"{N_INTERESTS} interests", "user_embeddings", "no duplicate users",
                 "Entropy of the anchors", "lowest held-out loss 1.600 at step 3", *(f"Anchor {anchor}" for anchor in range(N_ANCHORS))):
        assert told in text, told
    assert "1 of 12 interests have fewer than 5 users" in text
    assert "The record of the run that made this release is not kept" in text


def test_nothing_of_rare_interests_and_no_user_id(page):
    assert SECRET not in page.lower() and not re.search(r"u0\d\d", without_scripts(page))
    data = json.loads(re.search(r'id="map-data">(.*?)</script>', page, re.DOTALL).group(1))
    assert data["n"] == N_INTERESTS and data["n_shown"] == N_INTERESTS - 1 and not re.search(r"u0\d\d", json.dumps(data["names"] + data["titles"]))


def test_hostile_titles_are_data(page):
    own = page.index('id="map-data"')
    assert "<script>alert(1)" not in page and "onerror=alert(2)>" not in page and "\\u003cscript\\u003ealert(1)" in page[own:]
    assert page.count("<script") == 3, "the data, plotly, the map"


def test_nothing_is_loaded(page):
    head = page[: page.index("<body>")]
    assert "default-src &#x27;none&#x27;" in head
    assert not re.search(r'<(?:link|img|iframe|object|embed|base|form)\b|(?:src|href)="(?!#)|@import|url\(', without_scripts(page))


def test_without_plotly_installed(view, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingInputError, match="Expected the plotly package"):
        release_page(view)


def test_norms_are_of_all_users(view):
    assert view.norms.counts.sum(axis=1).tolist() == [N_USERS] * N_ANCHORS


def test_what_is_wrong_stands_first(view, released):
    finding = Verdict("coverage_is_usual", "users embedded", 0.8, 0.9, 1, "warn", False)
    drift = Verdict("lost_users", "share lost", 0.015, 0, 0.2, "passed", True)
    against = {"epoch": 3, "as_of": "2020-09-15", "model_id": "model-other", "table_version": 2, "n_users": 55}
    run = {"run_id": "20200916T000000000-abcdef", "cost": {"core_hours": 0.5, "cores": 2, "core_hours_per_million_users": 20.0},
           "stages": {"embed-users": {"seconds": 2.0, "users": 60, "peak_mb": 900}, "publish": {"seconds": 1.0, "skipped": "done"}}}
    facts = ReleaseFacts({"coverage": 0.8}, [finding, drift], against, "we know", {"findings": []}, run, [])
    text = without_scripts(release_page(replace(view, facts=facts, note="Bags are gone.")))
    for told in ("passed with warnings", "Released in spite of the gate: we know", "coverage is usual", "0.9 to 1", "Against release 3 of 2020-09-15",
                 "another model, so only", "lost users", "Input gate: every check passed", "20 core-hours for a million users", "skipped",
                 "Bags are gone."):
        assert told in text, told
    assert text.index("coverage is usual") < text.index("All 2 checks")


def test_a_warehouse_that_has_kept_nothing(view):
    facts = ReleaseFacts({}, [], None, None, None, None, [])
    text = without_scripts(release_page(replace(view, facts=facts, norms=NormCounts.empty(N_ANCHORS))))
    assert "no report of the gate is kept" in text and "The report of the gate is not kept" in text
