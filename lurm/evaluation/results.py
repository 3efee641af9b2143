"""Rows of an evaluation's results: figures, intervals and paired differences to the baseline, of tasks and of their means.

In: the outcomes of `harness`, and the tasks. Out: `RESULTS`, one row per view, method, seed, task, probe and metric, and `RUNS`, one row per
method, view and seed; and the file that holds them. A row without a seed is the mean over seeds. `task` is also `mean` (of all tasks) or
`mean of GROUP`. `part` is empty for all evaluated users and all labels; `events 20-57` are the users with so many events and `labels 25 %`
probes that learned from a quarter of the training users; these two have a figure and no interval. `contrast NAME: A - B` is a row of the
method A whose baseline is B.

A difference is that of the same resamples, the same repeats of the folds, the same view, and the same probe; a method that trains on labels
itself (probe `supervised`) is compared with the baseline under the first probe.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lurm.evaluation.evaluation_settings import EvaluationSettings, contrasts_of
from lurm.evaluation.harness import SUPERVISED, Outcome
from lurm.evaluation.readings import Measures
from lurm.evaluation.resampling import AUC, METRICS
from lurm.evaluation.tasks import Task
from lurm.whole_file import whole_file

MEAN = "mean"
CONTRAST = "contrast "  # before the text of one
LEVELS = (2.5, 97.5)
RESULTS = pa.schema([
    ("dataset", pa.string()), ("view", pa.string()), ("method", pa.string()),
    ("seed", pa.int32()),  # null: the mean over seeds
    ("task", pa.string()), ("group", pa.string()), ("probe", pa.string()), ("metric", pa.string()), ("part", pa.string()),
    ("value", pa.float64()), ("low", pa.float64()), ("high", pa.float64()),  # 0 to 1, with a 95 % interval over users
    ("baseline", pa.string()), ("difference", pa.float64()), ("diff_low", pa.float64()), ("diff_high", pa.float64()),  # method minus baseline
    ("n_users", pa.int64()), ("seconds", pa.float64()),  # to fit, embed and probe all tasks
])
RUNS = pa.schema([
    ("dataset", pa.string()), ("view", pa.string()), ("method", pa.string()), ("seed", pa.int32()), ("width", pa.int64()),
    ("seconds", pa.float64()), ("probe_seconds", pa.float64()), ("n_interests", pa.int64()), ("items_per_interest", pa.float64()),
    ("budget", pa.string()), ("details", pa.string()), ("error", pa.string()),
])  # fmt: skip

Samples = dict[tuple[str, str], np.ndarray]  # (task, metric) → (repeats, 1 + resamples)


def result_rows(settings: EvaluationSettings, tasks: Sequence[Task], outcomes: Sequence[Outcome], measures: Measures) -> list[dict]:
    """Rows of RESULTS, in the order of views, probes and methods."""
    rows: list[dict] = []
    done = [outcome for outcome in outcomes if not outcome.error]
    for view in dict.fromkeys(outcome.job.view for outcome in done):
        here = [outcome for outcome in done if outcome.job.view == view]
        probes = dict.fromkeys(probe for outcome in here for probe, _ in outcome.figures)
        for probe in probes:
            against = _seeds_of(here, settings.baseline, settings.probe.kinds[0] if probe == SUPERVISED else probe, tasks)
            for method in dict.fromkeys(outcome.job.method for outcome in here):
                seeds = _seeds_of(here, method, probe, tasks)
                for seed, samples in seeds.items():
                    base = against.get(seed, against.get(None))
                    told = {"dataset": settings.name, "view": view, "method": method, "seed": seed, "probe": probe,
                            "seconds": _mean_seconds(here, method, seed)}
                    rows += _rows_of(told, samples, base, tasks, settings.baseline, len(measures.weights[0]))
                rows += _part_rows(settings, here, method, probe, tasks, measures)
    return rows


def contrast_rows(settings: EvaluationSettings, tasks: Sequence[Task], outcomes: Sequence[Outcome], measures: Measures) -> list[dict]:
    """Rows of RESULTS of the contrasts whose two methods are there: means over seeds, the first probe (or the methods' own labels)."""
    rows = []
    for contrast in contrasts_of(settings):
        sides = []
        for method, view in ((contrast.method, contrast.view), (contrast.against, contrast.against_view)):
            here = [outcome for outcome in outcomes if outcome.job.view == view and not outcome.error]
            probe = next((probe for probe in (settings.probe.kinds[0], SUPERVISED) if _seeds_of(here, method, probe, tasks)), None)
            sides.append((probe, _seeds_of(here, method, probe, tasks).get(None) if probe else None))
        (probe, samples), (_, base) = sides
        if samples is not None and base is not None:
            told = {"dataset": settings.name, "view": contrast.view, "method": contrast.method, "seed": None, "probe": probe}
            against = contrast.against if contrast.against_view == contrast.view else f"{contrast.against}@{contrast.against_view}"
            found = _rows_of(told, samples, base, tasks, against, len(measures.weights[0]))
            rows += [{**row, "part": CONTRAST + contrast.text} for row in found]
    return rows


def run_rows(settings: EvaluationSettings, outcomes: Sequence[Outcome], n_items: int) -> list[dict]:
    """Rows of RUNS; `n_items` have an event before the cut."""
    rows = []
    for outcome in outcomes:
        interests = outcome.details.get("n_interests") if isinstance(outcome.details, Mapping) else None
        interests = int(interests) if isinstance(interests, int | float) and interests >= 1 else None  # one number, or it cannot be drawn
        budget = {name: value for name, value in vars(outcome.job.budget).items() if value is not None}
        rows.append({
            "dataset": settings.name, "view": outcome.job.view, "method": outcome.job.method, "seed": outcome.job.seed, "width": outcome.width,
            "seconds": outcome.seconds, "probe_seconds": outcome.probe_seconds, "n_interests": interests,
            "items_per_interest": n_items / interests if interests else None, "budget": json.dumps(budget, default=str),
            "details": json.dumps(outcome.details, default=str), "error": outcome.error,
        })
    return rows


def write_rows(path: Path, rows: Sequence[dict], schema: pa.Schema) -> None:
    """One Parquet file, whole or not at all."""
    table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema)
    with whole_file(str(path), "--directory") as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _seeds_of(outcomes: Sequence[Outcome], method: str, probe: str, tasks: Sequence[Task]) -> dict[int | None, Samples]:
    """Samples of each seed, and under None their mean; empty where the method has none of this probe."""
    found: dict[int | None, Samples] = {}
    for outcome in outcomes:
        if outcome.job.method == method:
            samples = {(task.name, metric): values for task in tasks for metric, values in outcome.figures.get((probe, task.name), {}).items()}
            if samples:
                found[outcome.job.seed] = samples
    if found:
        every = list(found.values())
        found[None] = {key: np.mean([samples[key] for samples in every], axis=0) for key in every[0]}
    return found


def _rows_of(told: dict, samples: Samples, base: Samples | None, tasks: Sequence[Task], baseline: str, n_users: int) -> list[dict]:
    groups = dict.fromkeys(task.group for task in tasks)
    rows = []
    for metric in METRICS:
        with_metric = [task for task in tasks if (task.name, metric) in samples]
        means = [(MEAN, "", with_metric), *((f"mean of {group}", group, [task for task in with_metric if task.group == group]) for group in groups)]
        singles = [(task.name, task.group, [task]) for task in with_metric]
        for name, group, of in [*means, *singles]:
            if not of:
                continue
            values = _mean_over(samples, of, metric)
            users = n_users if name.startswith(MEAN) and len(of) != 1 else len(of[0].rows)
            row = {**told, "task": name, "group": group, "metric": metric, "part": "", "n_users": users, **_interval(values, "value", "low", "high")}
            if base is not None:
                repeats = min(len(samples[of[0].name, metric]), len(base[of[0].name, metric]))
                gap = _mean_over(samples, of, metric, repeats) - _mean_over(base, of, metric, repeats)
                row |= {"baseline": baseline, **_interval(gap, "difference", "diff_low", "diff_high")}
            rows.append(row)
    return rows


def _part_rows(
    settings: EvaluationSettings, outcomes: Sequence[Outcome], method: str, probe: str, tasks: Sequence[Task], measures: Measures
) -> list[dict]:
    """Figures of parts of the users, and of parts of the labels: the mean over tasks of the mean over seeds."""
    here = [outcome for outcome in outcomes if outcome.job.method == method and (probe, tasks[0].name) in outcome.figures]
    if not here:
        return []
    view = here[0].job.view
    told = {"dataset": settings.name, "view": view, "method": method, "seed": None, "task": MEAN, "group": "", "probe": probe, "metric": AUC}
    groups = _mean_of_whole(np.mean([[outcome.groups[probe, task.name] for task in tasks] for outcome in here], axis=0))
    sizes = measures.groups.sum(axis=1).astype(int)
    rows = [{**told, "part": f"events {name}", "value": float(value), "n_users": int(size)}
            for name, value, size in zip(measures.group_names, groups, sizes, strict=True) if np.isfinite(value)]
    if probe == settings.probe.kinds[0] and here[0].shares:
        # All labels, of the same seed and the same folds as the shares.
        shares = [[*here[0].shares[task.name], here[0].figures[probe, task.name][AUC][0, 0]] for task in tasks]
        for share, value in zip([*settings.probe.label_shares, 1.0], _mean_of_whole(np.array(shares)), strict=True):
            if np.isfinite(value):
                rows.append({**told, "part": f"labels {share:.0%}".replace("%", " %"), "value": float(value), "n_users": len(measures.weights[0])})
    return rows


def _mean_of_whole(values: np.ndarray) -> np.ndarray:
    """Means of (tasks, parts) over the tasks that have a figure for every part: a part with other tasks would be another question."""
    whole = np.isfinite(values).all(axis=1)
    return values[whole].mean(axis=0) if whole.any() else np.full(values.shape[1], np.nan)


def _mean_over(samples: Samples, tasks: Sequence[Task], metric: str, repeats: int | None = None) -> np.ndarray:
    """(1 + resamples,) mean over tasks and repeats."""
    return np.mean([samples[task.name, metric][:repeats].mean(axis=0, dtype=np.float64) for task in tasks], axis=0)


def _interval(values: np.ndarray, *names: str) -> dict[str, float]:
    sampled = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(sampled, LEVELS) if len(sampled) else (np.nan, np.nan)
    return dict(zip(names, (float(values[0]), float(low), float(high)), strict=True))


def _mean_seconds(outcomes: Sequence[Outcome], method: str, seed: int | None) -> float:
    spent = [outcome.seconds + outcome.probe_seconds for outcome in outcomes if outcome.job.method == method and seed in (None, outcome.job.seed)]
    return float(np.mean(spent)) if spent else 0.0
