"""The Markdown of results: means first, differences with intervals, and no text that breaks a table."""

from lurm.evaluation.results_table import markdown


def row(method: str, task: str, value: float, **more) -> dict:
    return {
        "view": "all", "method": method, "seed": None, "task": task, "probe": "logistic", "metric": "auc", "part": "", "value": value,
        "low": value - 0.02, "high": value + 0.02, "baseline": "words", "difference": value - 0.7, "diff_low": value - 0.71,
        "diff_high": value - 0.69, "n_users": 9, **more,
    }  # fmt: skip


def run(method: str, **more) -> dict:
    return {"method": method, "view": "all", "seed": 0, "width": 0, "seconds": 1.0, "probe_seconds": 2.0, "n_interests": None, "error": "", **more}


def test_means_come_first_the_best_on_top():
    rows = [row(method, task, value + shift) for method, value in (("words", 0.7), ("bag|<b>", 0.75)) for task, shift in
            (("mean", 0), ("mean of future", 0.01), ("buys: a|b", 0.02))]
    rows.append(row("rates", "mean", 0.5, probe="supervised"))
    runs = [run("bag|<b>", width=3, n_interests=6, items_per_interest=8.0), run("x", error="no | room")]
    rows += [row("words", task, 0.7, part="contrast C5: words - bag|", baseline="bag", difference=gap)
             for task, gap in (("mean", -0.01), ("mean of future", 0.02), ("x", 0.03), ("y", -0.04))]
    rows.append(row("bag|<b>", "mean", 0.71, metric="auc_test"))
    text = markdown("A title", ["a fact"], rows, runs)
    lines = text.splitlines()
    assert lines[0] == "# A title" and "- a fact" in lines and "## View `all`, probe logistic" in lines
    names = ("bag\\|&lt;b&gt;", "words", "rates")
    best, words, rates = (lines.index(next(line for line in lines if line.startswith(f"| {name} |"))) for name in names)
    assert best < words < rates, "methods that learn labels stand beside the first probe"
    assert lines[best] == "| bag\\|&lt;b&gt; | 75.0 [73.0, 77.0] | **+5.0** [+4.0, +6.0] | **+1.0** [+0.0, +2.0] | 76.0 (+6.0) |"
    assert "| baseline |" in lines[words]
    assert "| C5: words - bag\\| | 70.0 | **-1.0** [-1.0, +1.0] |  | +2.0 | -4.0 |" in lines
    assert any(line.startswith("| buys: a\\|b | 9 | 77.0 (+7.0) | 72.0 (+2.0) |") for line in lines)
    assert "| bag\\|&lt;b&gt; | all | 0 | 3 | 1.0 | 2.0 | 8.0 items per interest |" in lines and "failed: no \\| room" in text and "<b>" not in text


def test_nothing_to_show_is_still_a_document():
    assert markdown("t", [], [], []).startswith("# t")
