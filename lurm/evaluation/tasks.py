"""What is asked about each user: a category in a future window, an attribute, activity, the next new interest.

In: a `Dataset` and `TaskSettings`. Out: `Task`s, with labels of some of the evaluated users, and sentences about what was left out. Which
categories are asked about is decided by one rule: those that a share of users nearest to `rate` touches in the window, of those between
`lowest` and `highest`, names breaking ties. Labels are the only thing here that sees what comes after the cut.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from lurm.errors import InputError
from lurm.evaluation.dataset import DAY, Dataset
from lurm.evaluation.evaluation_settings import TaskSettings

NONE = "none of these"  # the class of a ranking that is learned, but never ranked
WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True)
class Task:
    """One question; n users, C classes."""

    name: str
    group: str
    rows: np.ndarray  # (n,) int64: places of the users in `Dataset.users`
    labels: np.ndarray  # (n,) int64: the class that probes learn
    classes: tuple[str, ...]
    truth: np.ndarray  # (n, C) bool: what holds; of several new interests all
    candidates: np.ndarray  # (n, C) bool: what is asked of whom; not of an interest that a user has touched before
    ranking: bool = False

    @property
    def scored(self) -> list[int]:
        """The classes whose AUC is told: of two the second, else each against the rest; of a ranking those that are ranked."""
        if self.ranking:
            return [place for place in range(len(self.classes)) if self.classes[place] != NONE]
        return [1] if len(self.classes) == 2 else list(range(len(self.classes)))

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the labels and of whose they are."""
        digest = hashlib.blake2b("\n".join((self.name, *self.classes)).encode(), digest_size=8)
        for array in (self.rows, self.labels, self.truth, self.candidates):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def make_tasks(dataset: Dataset, settings: tuple[TaskSettings, ...], n_folds: int) -> tuple[list[Task], list[str]]:
    """The tasks in the order of the settings, and what was left out and why; a class needs two users a fold.

    Raises InputError where nothing is left to ask, or for a column that is not there.
    """
    made: list[Task] = []
    notes: list[str] = []
    for one in settings:
        family = {"category": _categories, "attribute": _attribute, "activity": _activity, "new_interest": _new_interest}[one.kind]
        found = family(dataset, one, 2 * n_folds, notes)
        for task in found:
            smallest = np.bincount(task.labels, minlength=len(task.classes)).min(initial=len(task.labels))
            if len(task.classes) < 2 or smallest < 2 * n_folds:
                notes.append(f"{task.name} is left out: its smallest class has {smallest} users, {2 * n_folds} are needed for {n_folds} folds")
            else:
                made.append(task)
    names = [task.name for task in made]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"Expected tasks with names of their own, got {twice!r} twice; give one of them a name.")
    if not made:
        why = "; ".join(notes) or "nothing fits the rule"
        raise InputError(f"Expected at least one task with users in each class, got none ({why}); mend [[tasks]].")
    return made, notes


def _categories(dataset: Dataset, settings: TaskSettings, fewest: int, notes: list[str]) -> list[Task]:
    touched, names = _touched(dataset, settings, window_of(dataset, settings))
    rows = np.flatnonzero(_active(dataset, settings)) if settings.among_active else np.arange(len(dataset.users))
    if not len(rows):
        return []
    shares = touched[rows].mean(axis=0)
    fits = [place for place in np.flatnonzero((shares >= settings.lowest) & (shares <= settings.highest)) if names[place] not in settings.exclude]
    chosen = sorted(fits, key=lambda place: (abs(shares[place] - settings.rate), names[place]))[: settings.count]
    if len(chosen) < settings.count:
        shares = f"{settings.lowest:.0%} to {settings.highest:.0%}"
        notes.append(f"{settings.name or 'buys'}: {len(chosen)} categories instead of {settings.count} are touched by {shares} of the users")
    label = settings.name or "buys"
    return [_binary(f"{label}: {names[place]}", settings.group or "future", rows, touched[rows, place], ("no", "yes")) for place in chosen]


def _activity(dataset: Dataset, settings: TaskSettings, fewest: int, notes: list[str]) -> list[Task]:
    rows = np.arange(len(dataset.users))
    return [_binary(settings.name or "active", settings.group or "activity", rows, _active(dataset, settings), ("no", "yes"))]


def _attribute(dataset: Dataset, settings: TaskSettings, fewest: int, notes: list[str]) -> list[Task]:
    if settings.column not in dataset.attributes.column_names:
        raise InputError(f"Expected a column {settings.column!r} of the users, got {', '.join(dataset.attributes.column_names)}; mend tasks.column.")
    values = np.array([str(value).strip() if value is not None else "" for value in dataset.attributes[settings.column].to_pylist()], object)
    name, group = settings.name or settings.column, settings.group or "profile"
    rows = np.flatnonzero((values != "") & ~np.isin(values, settings.drop))
    if settings.positive:
        absent = [value for value in settings.positive if value not in values]
        if absent:
            there = ", ".join(sorted(set(values) - {""})[:12])
            raise InputError(f"Expected {settings.column!r} to have the value {absent[0]!r}, got {there}; mend tasks.positive.")
        return [_binary(name, group, rows, np.isin(values[rows], settings.positive), ("other", " or ".join(settings.positive)))]
    classes, counts = np.unique(values[rows].astype(str), return_counts=True)
    few = classes[counts < max(settings.smallest, fewest)]
    if len(few):
        notes.append(f"{name}: {len(few)} classes with fewer than {max(settings.smallest, fewest)} users are left out")
    kept = classes[counts >= max(settings.smallest, fewest)]
    rows = rows[np.isin(values[rows].astype(str), kept)]
    labels = np.searchsorted(kept, values[rows].astype(str))
    truth = labels[:, None] == np.arange(len(kept))
    return [Task(name, group, rows, labels, tuple(kept.tolist()), truth, np.ones_like(truth))]


def _new_interest(dataset: Dataset, settings: TaskSettings, fewest: int, notes: list[str]) -> list[Task]:
    """Which of some categories that a user has never touched come next.

    True are all new ones of the window; the class is the first of them, or none of these, for methods that learn one class a user.
    """
    start, end = window_of(dataset, settings)
    now, names = _touched(dataset, settings, (start, end))
    before, _ = _touched(dataset, settings, None)
    new = now & ~before
    allowed = np.array([name not in settings.exclude for name in names], bool)
    # A category is asked about if enough users take it up, and take it up first.
    order = np.flatnonzero(allowed)
    order = order[np.lexsort((np.array(names)[order], -new[:, order].sum(axis=0)))][: settings.count]
    kept = np.sort(order)
    while True:
        first = _first_new(dataset, settings, names, new, kept, (start, end))
        counts = np.bincount(first[first >= 0], minlength=len(kept))
        if (counts >= fewest).all():
            break
        kept = np.delete(kept, counts.argmin())  # one at a time: what its users take up next may keep another
    name = settings.name or "next new interest"
    if len(kept) < settings.count:
        notes.append(f"{name}: {len(kept)} categories instead of {settings.count} are taken up first by {fewest} users or more")
    if len(kept) < 2:
        return []  # nothing to rank
    truth, candidates, classes = new[:, kept], ~before[:, kept], [names[place] for place in kept]
    if (first < 0).sum() < fewest:  # too few to be a class
        rows = np.flatnonzero(first >= 0)
    else:
        rows, first = np.arange(len(first)), np.where(first < 0, len(kept), first)
        truth = np.c_[truth, first == len(kept)]
        candidates, classes = np.c_[candidates, np.zeros(len(first), bool)], [*classes, NONE]
    return [Task(name, settings.group or "new interest", rows, first[rows], tuple(classes), truth[rows], candidates[rows], ranking=True)]


def _first_new(dataset: Dataset, settings: TaskSettings, names: list[str], new: np.ndarray, kept: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """(users,) place in `kept` of the new category touched first, at equal times that of the first name; -1 for none."""
    times = np.full(new.shape[::-1], np.iinfo(np.int64).max)  # categories x users
    belongs, _ = _belonging(dataset, settings)
    users, items, moments = _rows(dataset, dataset.future)
    inside = (moments >= window[0]) & (moments < window[1])
    pairs = belongs[items[inside]].tocoo()
    np.minimum.at(times, (pairs.col, users[inside][pairs.row]), moments[inside][pairs.row])
    of_kept = np.where(new[:, kept].T, times[kept], np.iinfo(np.int64).max)
    if not len(kept):
        return np.full(len(new), -1)
    return np.where(new[:, kept].any(axis=1), of_kept.argmin(axis=0), -1)


def window_of(dataset: Dataset, settings: TaskSettings) -> tuple[int, int]:
    """Microseconds, half-open."""
    start = dataset.cut + settings.gap_days * DAY
    return start, start + settings.window_days * DAY


def _active(dataset: Dataset, settings: TaskSettings) -> np.ndarray:
    start, end = window_of(dataset, settings)
    users, _, moments = _rows(dataset, dataset.future)
    return np.bincount(users[(moments >= start) & (moments < end)], minlength=len(dataset.users)) > 0


def _touched(dataset: Dataset, settings: TaskSettings, window: tuple[int, int] | None) -> tuple[np.ndarray, list[str]]:
    """(users, categories) bool: who touches what in the window, or before the cut; and the categories' names."""
    belongs, names = _belonging(dataset, settings)
    users, items, moments = _rows(dataset, dataset.past if window is None else dataset.future)
    if window is not None:
        inside = (moments >= window[0]) & (moments < window[1])
        users, items = users[inside], items[inside]
    counts = sparse.csr_matrix((np.ones(len(users), np.float32), (users, items)), shape=(len(dataset.users), len(dataset.items)))
    return (counts @ belongs).toarray() > 0, names


def _belonging(dataset: Dataset, settings: TaskSettings) -> tuple[sparse.csr_matrix, list[str]]:
    """(items, categories) of ones, and the categories' names, ascending."""
    if settings.source == "item":
        ids = dataset.items["item_id"].to_pylist()
        titles = dict(zip(ids, dataset.items["title"].to_pylist(), strict=True))
        return sparse.identity(len(ids), np.float32, "csr"), [f"{name} {titles[name]}".strip() for name in ids]
    if settings.source == "word":
        lists = [sorted(set(WORD.findall(title.lower()))) for title in dataset.items["title"].to_pylist()]
    else:
        level = settings.level
        lists = [[names[level]] if -len(names) <= level < len(names) else [] for names in dataset.items["category"].to_pylist()]
    names = sorted({name for one in lists for name in one})
    number = {name: place for place, name in enumerate(names)}
    columns = [number[name] for one in lists for name in one]
    starts = np.concatenate([[0], np.cumsum([len(one) for one in lists])])
    return sparse.csr_matrix((np.ones(len(columns), np.float32), columns, starts), shape=(len(lists), len(names))), names


def _rows(dataset: Dataset, events: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User numbers, item numbers and microseconds of events."""
    users = pc.index_in(events["user_id"], pa.array(dataset.users.tolist(), pa.string())).to_numpy()
    items = pc.index_in(events["item_id"], dataset.items["item_id"].combine_chunks()).to_numpy()
    return users, items, events["timestamp"].cast(pa.int64()).to_numpy()


def _binary(name: str, group: str, rows: np.ndarray, positive: np.ndarray, classes: tuple[str, str]) -> Task:
    labels = positive.astype(np.int64)
    truth = np.stack([~positive, positive], axis=1)
    return Task(name, group, rows, labels, classes, truth, np.ones_like(truth))
