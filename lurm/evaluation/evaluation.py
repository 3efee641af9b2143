"""One evaluation from its settings to its files: a data set, tasks, methods, and what they got.

In: `EvaluationSettings` and a folder. Out: below that folder `results.parquet`, `runs.parquet`, `results.md`, and `kept/`, which makes the next
run go on; and the same as data, for the page that `lurm evaluate` writes beside them.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lurm.errors import ConfigError
from lurm.evaluation.dataset import Dataset, load_dataset
from lurm.evaluation.earlier_results import read_earlier, with_earlier
from lurm.evaluation.evaluation_settings import EvaluationSettings
from lurm.evaluation.harness import Harness, jobs_of
from lurm.evaluation.kept_scores import KeptScores
from lurm.evaluation.readings import Measures, make_measures
from lurm.evaluation.results import RESULTS, RUNS, contrast_rows, result_rows, run_rows, write_rows
from lurm.evaluation.results_table import markdown
from lurm.evaluation.tasks import Task, make_tasks
from lurm.whole_file import whole_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found."""

    name: str
    title: str
    facts: list[str]  # sentences
    rows: list[dict]  # of results.RESULTS
    runs: list[dict]  # of results.RUNS
    markdown: str


def evaluate(
    settings: EvaluationSettings, data: str, directory: str, methods: Collection[str] | None = None, tasks: Collection[str] | None = None,
    fresh: Collection[str] = (), registry: Mapping[str, Callable] | None = None, earlier: str | None = None,
) -> Evaluated:
    """Run what is not kept, of `methods` (None: all; the baseline always, where any), and write the files.

    `tasks` are names of tasks or of their groups (None: all); `fresh` names methods whose kept files are thrown away first. Of other
    methods the tables show what is kept, and what the folder `earlier` of another run has. Raises ConfigError for a name that there is not,
    InputError for data, or earlier results, that do not fit.
    """
    if registry is None:
        from lurm.evaluation.baselines.registry import METHODS

        registry = METHODS
    jobs = jobs_of(settings, registry)
    names = list(dict.fromkeys(job.method for job in jobs))
    chosen = set(names if methods is None else _named(methods, names, "--methods"))
    chosen |= {settings.baseline} if chosen else set()
    before = None if earlier is None else read_earlier(earlier, settings.name)  # first: what is wrong with it is not to be told after hours
    dataset = load_dataset(settings, data, directory)
    made, notes = make_tasks(dataset, settings.tasks, settings.probe.folds)
    if tasks is not None:
        known = list(dict.fromkeys(name for task in made for name in (task.name, task.group)))
        wanted = set(_named(tasks, known, "--tasks"))
        made = [task for task in made if task.name in wanted or task.group in wanted]
    kept = KeptScores(Path(directory) / "kept")
    for method in _named(fresh, names, "--fresh"):
        kept.forget(method)
    facts = _facts(settings, dataset, made, notes)
    for fact in facts:
        log.info("%s", fact)
    measures = make_measures(settings.probe, made, dataset.n_events, dataset.users.tolist())
    outcomes = Harness(settings, dataset, made, measures, kept, registry).run(jobs, chosen)
    rows = [*result_rows(settings, made, outcomes, measures), *contrast_rows(settings, made, outcomes, measures)]
    runs = run_rows(settings, outcomes, len(dataset.history.items))
    title = f"{settings.name}, {len(dataset.users):,} users at {settings.cut}"
    facts.append(_reading(settings, measures))
    if before is not None:
        rows, runs, told = with_earlier(rows, runs, before, settings.baseline)
        facts.append(told)
    text = markdown(title, facts, rows, runs)
    _write(Path(directory), text, rows, runs)
    return Evaluated(settings.name, title, facts, rows, runs, text)


def _write(directory: Path, text: str, rows: list[dict], runs: list[dict]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    write_rows(directory / "results.parquet", rows, RESULTS)
    write_rows(directory / "runs.parquet", runs, RUNS)
    with whole_file(str(directory / "results.md"), "--directory") as path, open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _facts(settings: EvaluationSettings, dataset: Dataset, tasks: Sequence[Task], notes: Sequence[str]) -> list[str]:
    counts = dataset.n_events
    asked = "; ".join(f"{task.name} ({len(task.rows)} users, " + (f"{task.labels.mean():.0%} yes)" if len(task.classes) == 2 and not task.ranking
                      else f"{len(task.classes)} classes)") for task in tasks)
    where = f", {settings.where}" if settings.where else ""
    return [
        f"{len(dataset.users):,} users with at least {settings.min_events} titled events before {settings.cut}{where}; "
        f"{int(counts.min())} to {int(counts.max())} events, half of the users above {int(sorted(counts)[len(counts) // 2])}",
        f"methods see {len(dataset.history.events):,} events of {len(dataset.history.events['user_id'].unique()):,} users before {settings.cut} "
        f"and {len(dataset.history.items):,} items",
        f"{len(tasks)} tasks: {asked}", *notes,
    ]


def _reading(settings: EvaluationSettings, measures: Measures) -> str:
    probe = settings.probe
    return (
        f"AUC x 100, means over {probe.folds} folds x {probe.repeats} repeats (methods that learn labels themselves: "
        f"{measures.repeats_of('supervised')}), the same for every method; intervals resample users {probe.resamples:,} times, the same draws for "
        "every method, and tell nothing of training's own chance"
    )


def _named(names: Collection[str], known: Sequence[str], option: str) -> list[str]:
    for name in names:
        if name not in known:
            raise ConfigError(f"Expected {option} to name some of {', '.join(known)}, got {name!r}; mend it.")
    return list(names)
