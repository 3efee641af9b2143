"""What is evaluated, as one frozen tree: a data set, its tasks, the views of the history, the probes and the methods.

In: a TOML file, or the name of a bundled one such as `evaluate_demo`. Out: `EvaluationSettings`. Unknown names are refused with the
nearest known one, and so is what could not mean anything; nothing is read but the file.
"""

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field, replace

from lurm.config import bundled_names, read_toml
from lurm.errors import ConfigError
from lurm.periods import parse_as_of

TASK_KINDS = ("category", "attribute", "activity", "new_interest")
SOURCES = ("category", "word", "item")
PROBES = ("logistic", "logistic-dimension", "mlp", "mlp-dimension")


@dataclass(frozen=True)
class DataSettings:
    """Parquet files or folders; a relative path lies below the folder that --data names."""

    events: str = ""  # user_id, item_id, timestamp
    items: str = ""  # item_id, title, perhaps category (text or a list of text)
    users: str = ""  # user_id and attributes, optional: labels and selection, never features
    world: dict[str, typing.Any] = field(default_factory=dict)  # instead of files: settings of a synthetic world, written below the results


@dataclass(frozen=True)
class ProbeSettings:
    """How labels are read off features, and how sure that is."""

    kinds: tuple[str, ...] = ("logistic",)  # of PROBES; the first is the one that tables and charts are about
    folds: int = 5
    repeats: int = 3
    mlp_repeats: int = 1  # the MLP trains once a fold and task: as many of the repeats
    supervised_repeats: int = 1  # methods that train on labels: as many of the repeats, compared on these alone
    grid: tuple[float, ...] = (1.0, 10.0, 100.0)  # C of the logistic regression, chosen on a held-out fifth of the training users
    resamples: int = 1_000  # of the users, for the intervals
    label_shares: tuple[float, ...] = (0.1, 0.25, 0.5)  # of the training users, for the curve over labels; empty for none
    validation_share: float = 0.5  # of the users, by hash: recipes are chosen by their figures alone, and those of the others (test) are told beside
    history_groups: int = 4  # of users, by their number of events
    seed: int = 17


@dataclass(frozen=True)
class ViewSettings:
    """What a method sees of a user's events before the cut; 0 is all of them."""

    name: str
    last_events: int = 0
    last_days: int = 0


@dataclass(frozen=True)
class MethodSettings:
    """Methods that run alike."""

    names: tuple[str, ...]
    views: tuple[str, ...] = ()  # empty: the first view alone
    seeds: tuple[int, ...] = ()  # empty: the seeds of all
    probes: tuple[str, ...] = ()  # empty: all that are configured
    budget: dict[str, typing.Any] = field(default_factory=dict)  # over the budget of all


@dataclass(frozen=True)
class TaskSettings:
    """One question about each user, or a family of them."""

    kind: str  # of TASK_KINDS
    name: str = ""
    group: str = ""  # tasks whose mean is told together
    gap_days: int = 0  # between the cut and the window
    window_days: int = 90
    among_active: bool = False  # only users with an event in the window
    source: str = "category"  # what an item belongs to: its category, each word of its title, or itself
    level: int = 0  # of a category that is a list; -1 the last
    count: int = 10  # categories
    rate: float = 0.3  # those whose share of users is nearest to this are asked about ...
    lowest: float = 0.05  # ... of those between these two
    highest: float = 0.5
    exclude: tuple[str, ...] = ()
    column: str = ""  # attribute: a column of the users
    positive: tuple[str, ...] = ()  # attribute: these values against the others; empty: every value is a class
    drop: tuple[str, ...] = ()  # attribute: values that are no answer
    smallest: int = 30  # users of a class; smaller classes are left out


@dataclass(frozen=True)
class Contrast:
    """One method against another, where the baseline is not the question."""

    text: str  # as it is written
    method: str
    view: str
    against: str
    against_view: str


@dataclass(frozen=True)
class EvaluationSettings:
    """All of it."""

    name: str
    cut: str  # YYYY-MM-DD: events before its midnight UTC are seen, labels come from later
    data: DataSettings
    tasks: tuple[TaskSettings, ...]
    methods: tuple[MethodSettings, ...]
    views: tuple[ViewSettings, ...] = (ViewSettings("all"),)
    probe: ProbeSettings = ProbeSettings()
    budget: dict[str, typing.Any] = field(default_factory=dict)  # fields of the methods' Budget
    baseline: str = "tfidf"
    contrasts: tuple[str, ...] = ()  # "NAME: METHOD - METHOD", a method of another view than the first as METHOD@VIEW
    seeds: tuple[int, ...] = (0,)
    min_events: int = 20  # events with a title before the cut; whoever has fewer is not evaluated
    active_days: int = 0  # an event within so many days before the cut; 0: whenever
    where: str = ""  # boolean column of the users that must hold
    max_users: int = 0  # evaluated users, by hash; 0: all


def load_evaluation(path: str) -> EvaluationSettings:
    """Read and check a file; raises ConfigError with one sentence for what cannot be."""
    settings = _build(EvaluationSettings, read_toml(path, bundled_names(of_evaluations=True), "an evaluation's configuration"), "")
    parse_as_of(settings.cut)
    views = [view.name for view in settings.views]
    for place, task in enumerate(settings.tasks):
        _known(task.kind, TASK_KINDS, f"tasks[{place}].kind")
        _known(task.source, SOURCES, f"tasks[{place}].source")
        if task.kind == "attribute" and not task.column:
            raise ConfigError(f"Expected tasks[{place}].column for an attribute, got none; name a column of the users.")
        if task.window_days < 1 or task.gap_days < 0 or task.count < 1 or not 0 <= task.lowest < task.highest <= 1:
            raise ConfigError(f"Expected tasks[{place}] with window_days and count of 1 or more, gap_days of 0 or more and lowest < highest "
                              f"within 0 and 1, got {task.window_days}, {task.count}, {task.gap_days}, {task.lowest} and {task.highest}; mend it.")
    for place, methods in enumerate(settings.methods):
        for view in methods.views:
            _known(view, views, f"methods[{place}].views")
        for probe in methods.probes:
            _known(probe, settings.probe.kinds, f"methods[{place}].probes")
    for probe in settings.probe.kinds:
        _known(probe, PROBES, "probe.kinds")
    probe = settings.probe
    if probe.folds < 2 or probe.repeats < 1 or probe.resamples < 20 or not probe.kinds or not probe.grid:
        raise ConfigError(f"Expected [probe] with 2 folds or more, 1 repeat, 20 resamples, a kind and a grid, got {probe.folds}, {probe.repeats}, "
                          f"{probe.resamples}, {list(probe.kinds)} and {list(probe.grid)}; mend it.")
    if any(not 0 < share < 1 for share in probe.label_shares):
        raise ConfigError(f"Expected probe.label_shares between 0 and 1, got {list(probe.label_shares)}; all labels are used anyway.")
    if not 0 <= probe.validation_share < 1:
        raise ConfigError(f"Expected probe.validation_share of at least 0 and below 1, got {probe.validation_share}; somebody must be left for test.")
    if not settings.tasks or not settings.methods or not settings.seeds:
        raise ConfigError("Expected at least one of [[tasks]], one of [[methods]] and one seed, got none of one of them; add it.")
    contrasts_of(settings)
    if len(set(views)) < len(views) or not views:
        raise ConfigError(f"Expected views with names of their own, got {views}; rename one.")
    if settings.baseline not in [name for methods in settings.methods for name in methods.names]:
        raise ConfigError(f"Expected the baseline {settings.baseline!r} among the methods, got none of that name; add it to [[methods]].")
    return settings


def with_probes(settings: EvaluationSettings, kinds: typing.Sequence[str]) -> EvaluationSettings:
    """The same with some of its probes, in their order; raises ConfigError for one that it does not have."""
    for kind in kinds:
        _known(kind, settings.probe.kinds, "--probes")
    chosen = tuple(kind for kind in settings.probe.kinds if kind in kinds)
    methods = tuple(replace(of, probes=tuple(kind for kind in of.probes or settings.probe.kinds if kind in chosen)) for of in settings.methods)
    return replace(settings, probe=replace(settings.probe, kinds=chosen), methods=tuple(of for of in methods if of.probes))


def contrasts_of(settings: EvaluationSettings) -> list[Contrast]:
    """The contrasts, read; raises ConfigError for one that is written otherwise, or that names a method or view that there is not."""
    methods, views = [name for entry in settings.methods for name in entry.names], [view.name for view in settings.views]
    found = []
    for text in settings.contrasts:
        sides = [side.strip().partition("@") for side in text.partition(": ")[2].split(" - ")]
        if len(sides) != 2:
            raise ConfigError(f"Expected a contrast as 'NAME: METHOD - METHOD', got {text!r}; write for example 'size: lurm - lurm-1x128'.")
        for method, _, view in sides:
            _known(method, methods, f"both methods of the contrast {text!r}")
            _known(view or views[0], views, f"the views of the contrast {text!r}")
        found.append(Contrast(text, sides[0][0], sides[0][2] or views[0], sides[1][0], sides[1][2] or views[0]))
    return found


def budget_fields(budget: dict, over: dict, cls: type) -> dict:
    """The fields of a Budget (`cls`), those of `over` first; raises ConfigError for a name that it lacks."""
    known = [entry.name for entry in dataclasses.fields(cls)]
    merged = {**budget, **over}
    for name in merged:
        _known(name, known, "budget")
    return merged


def _known(name: str, known: typing.Sequence[str], where: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise ConfigError(f"Expected {where} to be of {', '.join(known)}, got {name!r}; " + (f"did you mean {near[0]!r}?" if near else "take one."))


def _build(cls: type, tree: object, prefix: str):
    if not isinstance(tree, dict):
        raise ConfigError(f"Expected a section at {prefix.rstrip('.') or 'the top'!r}, got {tree!r}; write its fields below it.")
    hints = typing.get_type_hints(cls)
    for name in tree:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1, cutoff=0.5)
            told = f"did you mean {prefix + near[0]!r}?" if near else f"known here: {', '.join(prefix + hint for hint in hints)}."
            raise ConfigError(f"Unknown setting {prefix + name!r}; {told}")
    for entry in dataclasses.fields(cls):
        if entry.name not in tree and entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            raise ConfigError(f"Expected a setting {prefix + entry.name!r}, got none; add it.")
    return cls(**{name: _value(value, hints[name], prefix + name) for name, value in tree.items()})


def _value(value: object, hint: object, name: str):
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, name + ".")
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(entry, typing.get_args(hint)[0], f"{name}[{place}]") for place, entry in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return value
    if hint is float and type(value) is int:
        return float(value)
    if origin is None and type(value) is hint:
        return value
    wanted = {tuple: "a list", dict: "a table", int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    kind = wanted[origin or typing.cast(types.GenericAlias, hint)]
    raise ConfigError(f"Setting {name!r} expects {kind}, got {value!r}; mend its value.")
