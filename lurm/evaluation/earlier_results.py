"""Results of an earlier run beside those of this one: a table may grow over months and machines without training everything again.

In: rows and runs of this evaluation, and the folder of another (results.parquet, runs.parquet). Out: the rows with those of the earlier methods
that this run does not have, and a sentence that names them. Differences and intervals of the earlier rows are those that were found then; they may
stand in one table because both runs have the same baseline, whose figures must agree. What pairs an earlier method with a new one
is not there: it would take scores of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lurm.errors import InputError
from lurm.evaluation.results import CONTRAST, MEAN, RESULTS, RUNS

TOLERANCE = 0.002  # of the baseline's mean AUC: other processors round otherwise; other users, folds or tasks differ by more
TOLERANCE_OF_A_TASK = 0.02  # where rounding makes a fold take another strength of the regression, which a mean over tasks hardly shows


@dataclass(frozen=True)
class Earlier:
    """What another run found."""

    folder: str
    rows: list[dict]  # of results.RESULTS
    runs: list[dict]  # of results.RUNS


def read_earlier(folder: str, name: str) -> Earlier:
    """Raises InputError where the folder has no results, or they are not of the data set `name`."""
    rows, runs = _read(folder, "results.parquet", RESULTS), _read(folder, "runs.parquet", RUNS)
    names = {row["dataset"] for row in rows}
    if names != {name}:
        raise InputError(f"Expected results of {name} in {folder}, got those of {', '.join(sorted(names)) or 'nothing'}; mend --earlier.")
    return Earlier(folder, rows, runs)


def with_earlier(rows: Sequence[dict], runs: Sequence[dict], earlier: Earlier, baseline: str) -> tuple[list[dict], list[dict], str]:
    """(rows, runs, sentence) of this run first, then what only the earlier one has.

    Raises InputError where that one has other tasks, or a baseline with other figures.
    """
    _check_baseline(_figures(rows, baseline), _figures(earlier.rows, baseline), earlier.folder, baseline)
    here = {_whose(row) for row in rows}
    added = [row for row in earlier.rows if _whose(row) not in here]
    ran = {(run["view"], run["method"]) for run in runs}
    methods = dict.fromkeys(row["method"] for row in added if not row["part"].startswith(CONTRAST))
    told = f"of an earlier run, and not run again: {', '.join(methods)}" if methods else "the earlier run has no method that this one lacks"
    return [*rows, *added], [*runs, *(run for run in earlier.runs if (run["view"], run["method"]) not in ran)], told


def _whose(row: dict) -> tuple:
    """What is taken from one run as a whole: a contrast, or a method in a view by a probe."""
    return (row["part"],) if row["part"].startswith(CONTRAST) else (row["view"], row["method"], row["probe"])


def _figures(rows: Sequence[dict], baseline: str) -> dict[tuple, dict]:
    """View, probe and task → the baseline's row of AUC."""
    return {(row["view"], row["probe"], row["task"]): row for row in rows
            if row["method"] == baseline and row["metric"] == "auc" and row["seed"] is None and not row["part"]}  # fmt: skip


def _check_baseline(now: dict[tuple, dict], before: dict[tuple, dict], folder: str, baseline: str) -> None:
    tasks, others = ({task for *_, task in figures if not task.startswith(MEAN)} for figures in (now, before))
    if tasks != others:
        odd = sorted(tasks ^ others)[0] if tasks and others else f"no figure of {baseline}"
        raise InputError(f"Expected {folder} to have the tasks of this run with figures of {baseline}, got another set (first: {odd}); "
                         "run all methods again.")  # fmt: skip
    for key in now.keys() & before.keys():
        (view, probe, task), here, there = key, now[key], before[key]
        if here["n_users"] != there["n_users"]:
            raise InputError(f"Expected {here['n_users']:,} users of {task} in {folder} too (view {view}), got {there['n_users']:,}: other data; "
                             "run all methods again.")  # fmt: skip
        if not abs(here["value"] - there["value"]) <= (TOLERANCE if task == MEAN else TOLERANCE_OF_A_TASK):
            raise InputError(f"Expected {baseline} at {100 * here['value']:.1f} in {folder} too (view {view}, probe {probe}, {task}), got "
                             f"{100 * there['value']:.1f}: other users, folds or data; run all methods again.")  # fmt: skip


def _read(folder: str, file: str, schema: pa.Schema) -> list[dict]:
    path = Path(folder) / file
    try:
        table = pq.read_table(pa.BufferReader(path.read_bytes()))
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"Expected {file} of an evaluation in {folder}, got {error}; --earlier takes the --directory of another run.") from None
    if table.schema.names != schema.names:
        raise InputError(f"Expected the columns {', '.join(schema.names)} in {path}, got {', '.join(table.schema.names)}; run that evaluation again.")
    return table.to_pylist()
