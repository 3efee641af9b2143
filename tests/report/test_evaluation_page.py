"""The page of an evaluation: it loads nothing, no text breaks it, and it shows differences, curves, failures and costs."""

import re
from html.parser import HTMLParser

from lurm.report.evaluation_page import evaluation_page

EVIL = 'lurm"><img src=x onerror=alert(1)>'


def row(method: str, task: str, value: float, **more) -> dict:
    return {
        "view": "all", "method": method, "seed": None, "task": task, "group": "", "probe": "logistic", "metric": "auc", "part": "", "value": value,
        "baseline": "tfidf", "difference": value - 0.7, "diff_low": value - 0.72, "diff_high": value - 0.68, "n_users": 9, **more,
    }  # fmt: skip


def run(method: str, **more) -> dict:
    return {"method": method, "view": "all", "seed": 0, "width": 3, "seconds": 1.0, "probe_seconds": 2.0, "n_interests": None,
            "items_per_interest": None, "error": "", **more}


def page() -> str:
    methods = {"tfidf": 0.7, EVIL: 0.75, "lurm-bag-d100": 0.66, "lurm-bag-d300": 0.68}
    rows = [row(method, task, value) for method, value in methods.items() for task in ("mean", "mean of profile", EVIL)]
    rows += [row(method, "mean", value, probe="mlp") for method, value in methods.items()]
    rows += [row(method, "mean", value + shift, part=part, difference=None) for method, value in methods.items() for part, shift in
             (("events 20-57", -0.1), ("events 58-900", 0.1), ("labels 10 %", -0.2), ("labels 100 %", 0))]
    rows += [row("popularity", "mean", 0.5, probe="supervised"), row("tfidf", "mean", 0.3, metric="map10")]
    rows.append(row("tfidf", "mean", 0.7, part="contrast C4: tfidf - lurm", difference=0.031, diff_low=0.02, diff_high=0.04))
    runs = [run("tfidf"), run(EVIL), run("lurm-bag-d100", n_interests=100, items_per_interest=60.0), run("broken", error="<i>no</i> room"),
            run("lurm-bag-d300", n_interests=300, items_per_interest=20.0)]
    return evaluation_page(f"amazon {EVIL}", [f"9 users {EVIL}"], rows, runs)


class Walk(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in ("meta", "br", "hr", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_it_opens_without_anything_else_and_no_text_is_markup():
    text, walk = page(), Walk()
    walk.feed(text)
    assert walk.open == [] and not {"img", "script", "i", "link", "iframe"} & set(walk.tags)
    assert not {"src", "href", "onerror"} & set(walk.attributes)
    assert "default-src &#x27;none&#x27;" in text and not re.search(r"https?://", text) and "&lt;img src=x" in text


def test_it_shows_differences_curves_failures_and_costs():
    text = page()
    assert text.count('aria-label="Paired differences to tfidf, mean"') == 2, "a forest for each probe"
    assert "+5.0 [+3.0, +7.0]" in text and "popularity" in text.split("Probe: mlp")[0]
    for label, circles in (("AUC by number of events of the users", 8), ("AUC by items per interest", 2), ("AUC by share of the labels", 8)):
        picture = text.split(f'aria-label="{label}"')[1].split("</svg>")[0]
        assert picture.count("<circle") == circles, label
    assert "+3.1 [+2.0, +4.0]" in text.split("Contrasts")[1].split("What it hangs on")[0]
    assert "lurm-bag-d…: 66.0 at 60" in text and "lurm-bag-d…: 68.0 at 20" in text
    assert "&lt;i&gt;no&lt;/i&gt; room" in text and "What it took" in text and "map10" in text


def test_nothing_to_show_is_still_a_page():
    assert "<h1>empty</h1>" in evaluation_page("empty", [], [], [])
