"""The results as Markdown: the mean over tasks first, then each task, then what every method cost.

In: rows of `results`. Out: text, AUC x 100; the difference to the baseline with its interval is the headline, of all users and of those by whom
nothing was chosen (test). No row of a person.
"""

from collections.abc import Sequence

from lurm.evaluation.resampling import AUC_TEST
from lurm.evaluation.results import CONTRAST, MEAN


def markdown(title: str, facts: Sequence[str], rows: Sequence[dict], runs: Sequence[dict], metric: str = "auc") -> str:
    """One document; `facts` are sentences about users, tasks and what was left out."""
    whole = [row for row in rows if row["seed"] is None and not row["part"] and row["metric"] == metric]
    tested = [row for row in rows if row["seed"] is None and row["task"] == MEAN and row["metric"] == AUC_TEST]
    lines = [f"# {title}", "", *(f"- {fact}" for fact in facts), ""]
    for view in dict.fromkeys(row["view"] for row in whole):
        here = [row for row in whole if row["view"] == view]
        probes = [probe for probe in dict.fromkeys(row["probe"] for row in here) if probe != "supervised"] or ["supervised"]
        for probe in probes:
            # Methods that learn labels themselves have no probe: they stand beside the first one.
            shown = [row for row in here if row["probe"] == probe or row["probe"] == "supervised" and probe == probes[0]]
            lines += [f"## View `{view}`, probe {probe}", "", *_table(shown, tested), ""]
            tasks = [name for name in dict.fromkeys(row["task"] for row in shown) if not name.startswith(MEAN)]
            lines += ["<details><summary>Every task</summary>", "", *_wide(shown, tasks), "", "</details>", ""]
    contrasts = [row for row in rows if row["part"].startswith(CONTRAST) and row["metric"] == metric]
    if contrasts:
        lines += ["## Contrasts", "", *_contrasts(contrasts, tested), ""]
    lines += ["## What it took", "", *_costs(runs), ""]
    return "\n".join(lines)


def by_difference(rows: Sequence[dict]) -> list[dict]:
    """Best first; a row without a difference is placed by its value."""
    return sorted(rows, key=lambda row: -row["value"])


def _table(rows: Sequence[dict], tested: Sequence[dict]) -> list[str]:
    means = [name for name in dict.fromkeys(row["task"] for row in rows) if name.startswith(f"{MEAN} of ")]
    base = next((row["baseline"] for row in rows if row.get("baseline")), "")
    against = f"minus {_safe(base) or 'baseline'}"
    head = ["method", "mean over tasks [95 %]", f"{against} [95 %]", f"{against}, test users", *(_safe(name) for name in means)]
    lines = [_line(head), "|---" * len(head) + "|"]
    for row in by_difference([row for row in rows if row["task"] == MEAN]):
        cells = [_figure(_one(rows, row["method"], name), gap=True) for name in means]
        figure = f"{_figure(row)} [{_hundred(row['low'])}, {_hundred(row['high'])}]"
        lines.append(_line([_safe(row["method"]), figure, _gap(row), _tested(row, tested), *cells]))
    return lines


def _wide(rows: Sequence[dict], tasks: Sequence[str]) -> list[str]:
    methods = [row["method"] for row in by_difference([row for row in rows if row["task"] == MEAN])]
    lines = [_line(["task", "users", *map(_safe, methods)]), "|---" * (2 + len(methods)) + "|"]
    for task in tasks:
        found = [_one(rows, method, task) for method in methods]
        users = next((row["n_users"] for row in found if row), 0)
        lines.append(_line([_safe(task), str(users), *(_figure(row, gap=True) for row in found)]))
    return lines


def _contrasts(rows: Sequence[dict], tested: Sequence[dict]) -> list[str]:
    means = [name for name in dict.fromkeys(row["task"] for row in rows) if name.startswith(f"{MEAN} of ")]
    head = ["contrast", "mean over tasks", "difference [95 %]", "of test users", *map(_safe, means), "lowest of the tasks"]
    lines = [_line(head), "|---" * len(head) + "|"]
    for part in dict.fromkeys(row["part"] for row in rows):
        here = {row["task"]: row for row in rows if row["part"] == part}
        gaps = [f"{100 * here[name]['difference']:+.1f}" if name in here else "" for name in means]
        lowest = min(100 * row["difference"] for name, row in here.items() if not name.startswith(MEAN))
        whole = here[MEAN]
        lines.append(_line([_safe(part.removeprefix(CONTRAST)), _figure(whole), _gap(whole), _tested(whole, tested), *gaps, f"{lowest:+.1f}"]))
    return lines


def _costs(runs: Sequence[dict]) -> list[str]:
    lines = [_line(["method", "view", "seed", "numbers", "fit and embed, s", "probes, s", ""]), "|---" * 7 + "|"]
    for run in runs:
        interests = f"{run['items_per_interest']:.1f} items per interest" if run["n_interests"] else ""
        end = f"failed: {_safe(run['error'])}" if run["error"] else interests
        took = (f"{run[name]:.1f}" for name in ("seconds", "probe_seconds"))
        lines.append(_line([_safe(run["method"]), _safe(run["view"]), str(run["seed"]), str(run["width"] or ""), *took, end]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _one(rows: Sequence[dict], method: str, task: str) -> dict | None:
    return next((row for row in rows if row["method"] == method and row["task"] == task), None)


def _figure(row: dict | None, gap: bool = False) -> str:
    if row is None:
        return ""
    told = f" ({100 * row['difference']:+.1f})" if gap and row.get("difference") is not None else ""
    return _hundred(row["value"]) + told


def _gap(row: dict) -> str:
    if row.get("difference") is None:
        return ""
    if row["method"] == row["baseline"]:
        return "baseline"
    return f"**{100 * row['difference']:+.1f}** [{100 * row['diff_low']:+.1f}, {100 * row['diff_high']:+.1f}]"


def _tested(row: dict, tested: Sequence[dict]) -> str:
    """The gap of the same comparison among the users for test."""
    same = ("view", "method", "probe", "part", "baseline")
    found = next((one for one in tested if all(one.get(name) == row.get(name) for name in same)), None)
    return _gap(found) if found else ""


def _hundred(value: float) -> str:
    return f"{100 * value:.1f}"


def _safe(text: str) -> str:
    """No text ends a cell, or becomes markup."""
    escaped = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("|", "\\|").replace("\n", " ").replace("`", "'")
