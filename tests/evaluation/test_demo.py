"""What the demo prints and finds: its planted truth comes back, and a second demo finds everything there."""

import pytest
from small_pipeline import SMALL

from lurm.evaluation import demo
from lurm.synthetic import WorldSettings


@pytest.fixture
def small_demo(monkeypatch, tmp_path, spark):
    monkeypatch.setattr(demo, "WORLD", WorldSettings(n_users=300, n_items=600, n_topics=24, n_months=12, events_per_user=40))
    return lambda: demo.run_demo(str(tmp_path / "demo"), "demo", list(SMALL))


def test_the_demo_recovers_its_truth_and_says_how_to_read(small_demo, capsys):
    figures = small_demo()
    printed = capsys.readouterr().out
    assert figures["interests"].purity > 3 * figures["interests"].chance
    assert figures["attributes"]["persona"]["auc"] > figures["attributes"]["persona"]["chance"] + 0.05
    for expected in ("user_embeddings", "300 users x 3 anchors x 32 numbers", "purity", "persona", "lurm.open_table("):
        assert expected in printed

    again = small_demo()
    assert all("skipped" in str(report) for name, report in again["stages"].items() if name not in ("publish",))
    assert again["attributes"]["persona"]["auc"] == figures["attributes"]["persona"]["auc"]
