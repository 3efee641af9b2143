"""An evaluation as a page: paired differences with intervals, and AUC by history, by items per interest and by labels.

In: the rows that `lurm evaluate` writes (results.parquet, runs.parquet), as dictionaries. Out: the page as text; it holds no script and loads
nothing. No row of a person.
"""

import re
from collections.abc import Callable, Sequence

from lurm.report.evaluation_charts import Curve, Estimate, curves, forest
from lurm.report.page import Html, document, join, table, tag

MEAN = "mean"
SUPERVISED = "supervised"
CONTRAST = "contrast "
OWN = "lurm"  # always among the curves
MOST_CURVES = 8  # more lines than this cannot be told apart
SWEEP = re.compile(r"^(.+)-d(\d+)$")  # a family of methods that differ in the number of interests


def evaluation_page(title: str, facts: Sequence[str], rows: Sequence[dict], runs: Sequence[dict]) -> str:
    """The page, a whole HTML document."""
    auc = [row for row in rows if row["metric"] == "auc" and row["seed"] is None]
    whole = [row for row in auc if not row["part"]]
    about = tag("ul", *(tag("li", fact) for fact in facts), class_="quiet")
    header = tag("header", tag("p", "Evaluation", class_="eyebrow"), tag("h1", title), about)
    views = [tag("section", tag("h2", f"View: {view}"), *_view([row for row in whole if row["view"] == view]))
             for view in dict.fromkeys(row["view"] for row in whole)]
    failed = [(run["method"], run["view"], run["seed"], run["error"]) for run in runs if run["error"]]
    failures = tag("section", tag("h2", "Failed"), table(("method", "view", "seed", "why"), failed, numbers=(2,))) if failed else None
    main = tag("main", *views, _contrasts(auc), _curves(auc, whole, runs), failures, _costs(runs), _metrics(rows))
    footer = tag("footer", tag("p", "AUC x 100. Intervals hold 95 % of the figures over resampled users, the same resamples for every method; they "
                               "tell how far a figure hangs on who was asked, not how far another training would differ."))
    return document(f"lurm · {title}", join(header, main, footer))


def _view(rows: Sequence[dict]) -> list[Html]:
    parts = []
    probes = [probe for probe in dict.fromkeys(row["probe"] for row in rows) if probe != SUPERVISED] or [SUPERVISED]
    for place, probe in enumerate(probes):
        shown = [row for row in rows if row["probe"] == probe or row["probe"] == SUPERVISED and place == 0]
        parts += [tag("h3", f"Probe: {probe}"), *(_probe(shown) if place == 0 else [tag("details", tag("summary", "Show"), *_probe(shown))])]
    return parts


def _probe(rows: Sequence[dict]) -> list[Html]:
    means = [name for name in dict.fromkeys(row["task"] for row in rows) if name.startswith(MEAN)]
    base = next((row["baseline"] for row in rows if row.get("baseline")), None)
    parts = []
    if base is not None:
        for name in means:
            estimates = _estimates([row for row in rows if row["task"] == name and row["method"] != base])
            plot = [tag("h3", f"{_called(name)}: difference to {base}"), forest(estimates, f"Paired differences to {base}, {name}")]
            parts += plot if name == MEAN else [tag("details", tag("summary", _called(name)), *plot)]
    methods = [row["method"] for row in sorted((row for row in rows if row["task"] == MEAN), key=lambda row: -row["value"])]
    found = {(row["method"], row["task"]): row for row in rows}
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    body = []
    for task in tasks:
        cells = [found.get((method, task)) for method in methods]
        users = next((cell["n_users"] for cell in cells if cell), "")
        body.append((_called(task), users, *("" if cell is None else f"{100 * cell['value']:.1f}" for cell in cells)))
    parts.append(tag("details", tag("summary", "All tasks and methods"), table(("task", "users", *methods), body, range(1, 2 + len(methods)))))
    return parts


def _contrasts(auc: Sequence[dict]) -> Html | None:
    """Methods against each other, where the baseline is not the question."""
    rows = [row for row in auc if row["part"].startswith(CONTRAST) and row["task"] == MEAN]
    if not rows:
        return None
    estimates = [Estimate(row["part"].removeprefix(CONTRAST), 100 * row["difference"], 100 * row["diff_low"], 100 * row["diff_high"]) for row in rows]
    return tag("section", tag("h2", "Contrasts"), tag("p", "The first minus the second, mean over all tasks.", class_="quiet"),
               forest(estimates, "Paired differences of pairs of methods"))


def _curves(auc: Sequence[dict], whole: Sequence[dict], runs: Sequence[dict]) -> Html:
    """The three curves, all of the first view and the first probe."""
    view = next((row["view"] for row in whole), None)
    probe = next((row["probe"] for row in whole if row["probe"] != SUPERVISED), SUPERVISED)
    here = [row for row in auc if row["view"] == view and row["probe"] in (probe, SUPERVISED) and row["task"] == MEAN]
    ranked = sorted((row for row in here if not row["part"]), key=lambda row: -row["value"])
    base = next((row["baseline"] for row in ranked if row.get("baseline")), None)
    others = [row["method"] for row in ranked if row["method"] != base]
    best = sorted(others, key=lambda method: method != OWN)[: MOST_CURVES - 1]  # the order of the others stays
    shown = [*([base] if base in [row["method"] for row in ranked] else []), *best]
    history = _part_curves(here, shown, "events ", _middle)
    labels = _part_curves([row for row in here if row["probe"] == probe], shown, "labels ", lambda text: float(text.rstrip(" %")))
    about = f"Mean AUC over tasks, view {view}, probe {probe}; the baseline, lurm and the best others."
    return tag(
        "section", tag("h2", "What it hangs on"), tag("p", about, class_="quiet"),
        tag("h3", "Length of the history"), curves(history, "AUC by number of events of the users", "events before the cut"),
        tag("h3", "Number of interests"), curves(_sweep(ranked, runs, view), "AUC by items per interest", "items per interest"),
        tag("h3", "Number of labels"), curves(labels, "AUC by share of the labels", "% of the training users"),
    )


def _part_curves(rows: Sequence[dict], methods: Sequence[str], prefix: str, place: Callable[[str], float]) -> list[Curve]:
    lines = []
    for method in methods:
        points = sorted((place(row["part"].removeprefix(prefix)), 100 * row["value"]) for row in rows
                        if row["method"] == method and row["part"].startswith(prefix))
        if points:
            lines.append(Curve(method, [x for x, _ in points], [y for _, y in points]))
    return lines


def _sweep(ranked: Sequence[dict], runs: Sequence[dict], view: str | None) -> list[Curve]:
    """Families of methods named NAME-dNUMBER, with what their runs say about their interests."""
    sizes = {run["method"]: run["items_per_interest"] for run in runs if run["view"] == view and run["items_per_interest"]}
    families: dict[str, list[tuple[float, float]]] = {}
    for row in ranked:
        named = SWEEP.match(row["method"])
        if named and row["method"] in sizes:
            families.setdefault(named.group(1), []).append((sizes[row["method"]], 100 * row["value"]))
    return [Curve(f"{name}-d…", [x for x, _ in sorted(points)], [y for _, y in sorted(points)]) for name, points in families.items()]


def _costs(runs: Sequence[dict]) -> Html:
    rows = [
        (run["method"], run["view"], run["seed"], f"{run['width']:,}" if run["width"] else "", f"{run['seconds']:.1f}",
         f"{run['probe_seconds']:.1f}", f"{run['n_interests']:,}" if run["n_interests"] else "") for run in runs if not run["error"]
    ]  # fmt: skip
    head = ("method", "view", "seed", "numbers", "fit and embed, s", "probes, s", "interests")
    return tag("section", tag("h2", "What it took"), table(head, rows, numbers=(2, 3, 4, 5, 6)))


def _metrics(rows: Sequence[dict]) -> Html:
    """The other metrics, of the means and of rankings."""
    shown = [row for row in rows if row["seed"] is None and not row["part"] and row["metric"] != "auc" and row["task"].startswith(MEAN)]
    body = [(row["view"], row["probe"], row["metric"].replace("_", " "), _called(row["task"]), row["method"], f"{100 * row['value']:.1f}", _gap(row))
            for row in shown]
    head = ("view", "probe", "metric", "tasks", "method", "x 100", "difference")
    return tag("section", tag("details", tag("summary", "Accuracy, average precision and mAP@10"), table(head, body, numbers=(5, 6))))


def _estimates(rows: Sequence[dict]) -> list[Estimate]:
    told = [Estimate(row["method"], 100 * row["difference"], 100 * row["diff_low"], 100 * row["diff_high"]) for row in rows
            if row.get("difference") is not None]
    return sorted(told, key=lambda row: -row.value)


def _gap(row: dict) -> str:
    if row.get("difference") is None or row["method"] == row["baseline"]:
        return ""
    return f"{100 * row['difference']:+.1f} [{100 * row['diff_low']:+.1f}, {100 * row['diff_high']:+.1f}]"


def _called(task: str) -> str:
    return "Mean over all tasks" if task == MEAN else task.capitalize() if task.startswith(MEAN) else task


def _middle(text: str) -> float:
    """Of `20-57`: the geometric middle."""
    low, high = (max(1, int(part)) for part in text.split("-"))
    return round((low * high) ** 0.5)
