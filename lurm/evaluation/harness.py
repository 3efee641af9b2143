"""Methods x views x seeds on one data set: each is fitted, embedded and read, or taken from what is kept.

In: settings, a `Dataset`, and a registry of methods (name → factory of a budget and a seed). Out: an `Outcome` per method, view and seed,
in the order of the settings. What is finished is kept at once, so a run that was killed goes on. A method that fails says why in its outcome,
and the others go on. Methods see the view's history and nothing else; labels reach supervised methods fold by fold.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from lurm.config import fingerprint
from lurm.errors import ConfigError, LurmError
from lurm.evaluation.baselines.method import AnyMethod, Budget, History
from lurm.evaluation.dataset import Dataset, table_fingerprint, view_of
from lurm.evaluation.evaluation_settings import EvaluationSettings, budget_fields
from lurm.evaluation.feature_scales import BLOCK, DIMENSION, check_features, scaled
from lurm.evaluation.kept_scores import KeptScores, code_of, pack_features, pack_text, unpack_features, unpack_text
from lurm.evaluation.readings import Measures, figures_of, learn_jointly, read_features, read_labels_itself, read_scores, read_with_fewer_labels
from lurm.evaluation.resampling import AUC
from lurm.evaluation.tasks import Task

FORM = 2  # of what is kept: raise it when the same arrays come to mean something else
SUPERVISED = "supervised"
PATIENCE = 20.0  # seconds: a task that takes longer has a line of its own
# What a method, which is code of any kind, may fail with; a keyboard interrupt is none of these.
FAILURES = (
    LurmError, ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One method, as it is to run."""

    method: str
    view: str
    seed: int
    probes: tuple[str, ...]
    budget: Budget
    first: bool  # the first view and seed of the method: the curve over labels is drawn of it


@dataclass
class Outcome:
    """What came of a job."""

    job: Job
    width: int = 0  # numbers a user; 0 for a method that gives scores
    seconds: float = 0.0  # to fit and embed
    probe_seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)
    error: str = ""  # why it failed
    figures: dict[tuple[str, str], dict[str, np.ndarray]] = field(default_factory=dict)  # (probe, task) → metric → (repeats, 1 + resamples)
    groups: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)  # (probe, task) → (g,) AUC
    shares: dict[str, np.ndarray] = field(default_factory=dict)  # task → (shares,) AUC


def jobs_of(settings: EvaluationSettings, registry: Collection[str]) -> list[Job]:
    """Every method, view and seed once, views first and the baseline before the others; raises ConfigError for a name nobody knows."""
    views = [view.name for view in settings.views]
    jobs: dict[tuple[str, str, int], Job] = {}
    for entry in settings.methods:
        budget = Budget(**budget_fields(settings.budget, entry.budget, Budget))
        for name in entry.names:
            if name not in registry:
                raise ConfigError(f"Expected the name of a method in [[methods]], got {name!r}; known are {', '.join(sorted(registry))}.")
            for view in entry.views or views[:1]:
                for seed in entry.seeds or settings.seeds:
                    first = not any(one == name for one, *_ in jobs)
                    jobs.setdefault((name, view, seed), Job(name, view, seed, entry.probes or settings.probe.kinds, budget, first))
    return sorted(jobs.values(), key=lambda job: (views.index(job.view), job.method != settings.baseline))


class Harness:
    """Runs jobs on one data set; keeps what they give."""

    def __init__(self, settings: EvaluationSettings, dataset: Dataset, tasks: Sequence[Task], measures: Measures, kept: KeptScores,
                 registry: Mapping[str, Callable[[Budget, int], AnyMethod]]):
        self.settings, self.dataset, self.tasks, self.measures = settings, dataset, tasks, measures
        self.kept, self.registry = kept, registry
        self._histories: dict[str, tuple[History, str]] = {}

    def run(self, jobs: Sequence[Job], chosen: Collection[str]) -> list[Outcome]:
        """Outcomes of all jobs of the chosen methods, computed where they are not kept, and of those of others that are kept, by
        the probes that are kept of all tasks."""
        outcomes = []
        for place, job in enumerate(jobs):
            outcome = _JobRun(self, job, compute=job.method in chosen).outcome()
            if outcome is None:
                continue
            outcomes.append(outcome)
            figures = {"method": job.method, "view": job.view, "seed": job.seed}
            log.info("[%d/%d] %s", place + 1, len(jobs), _told(outcome), extra={"figures": figures})
        return outcomes

    def history(self, view: str) -> tuple[History, str]:
        """What a view shows, and the fingerprint of it and of the users; one view is held at a time."""
        if view not in self._histories:
            settings = next(one for one in self.settings.views if one.name == view)
            history = view_of(self.dataset.history, settings)
            tables = [table_fingerprint(table) for table in (history.events, history.items)]
            self._histories = {view: (history, fingerprint(tables, history.as_of, self.dataset.users.tolist()))}
        return self._histories[view]


class _NotKept(Exception):
    """Something must be computed, and may not be."""


class _JobRun:
    """One job: what it made is made when it is needed first."""

    def __init__(self, harness: Harness, job: Job, compute: bool):
        self.harness, self.job, self.compute = harness, job, compute
        self.result = Outcome(job)
        self._rows: dict[str, np.ndarray] = {}
        self._warned = False

    def outcome(self) -> Outcome | None:
        """None where it is not kept and not to be computed."""
        try:
            if self.joint or hasattr(self.method, "scores"):
                self._supervised()
            else:
                self._frozen()
        except _NotKept:
            return None
        except FAILURES as error:
            if not self.compute:
                return None
            log.warning("%s fails", self.job.method, exc_info=not isinstance(error, LurmError))
            return Outcome(self.job, error=(f"{type(error).__name__}: " if not isinstance(error, LurmError) else "") + _one_line(error))
        return self.result

    @cached_property
    def method(self) -> AnyMethod:
        return self.harness.registry[self.job.method](self.job.budget, self.job.seed)

    @property
    def joint(self) -> bool:
        """Whether the method learns the labels of all tasks together."""
        return hasattr(self.method, "scores_of_all")

    @cached_property
    def key(self) -> str:
        _, data = self.harness.history(self.job.view)
        return fingerprint(FORM, self.job.method, asdict(self.job.budget), self.job.seed, data)

    @cached_property
    def fitted(self) -> AnyMethod:
        self.method.fit(self.harness.history(self.job.view)[0])
        return self.method

    def _frozen(self) -> None:
        arrays = self._kept(f"features-{self.key}", self._embed)
        self.result.width, self.result.seconds = int(arrays["width"]), float(arrays["seconds"])
        self.result.details = unpack_text(arrays["details"])
        for probe in self.job.probes:
            try:
                self._read(arrays, probe)
            except _NotKept:  # what is kept of other probes is shown all the same
                self.result.figures = {key: figures for key, figures in self.result.figures.items() if key[0] != probe}
        probe, measures = self.job.probes[0], self.harness.measures
        read = {one for one, _ in self.result.figures}
        if not read:
            raise _NotKept
        if self.job.first and measures.settings.label_shares and probe == self.harness.settings.probe.kinds[0] and probe in read:
            for task in self.harness.tasks:
                name = self._name(probe, task, "labels", list(measures.settings.label_shares))
                read = self._kept(name, lambda task=task: {"shares": read_with_fewer_labels(self._scaled(arrays, probe), task, measures, probe)})
                self.result.shares[task.name] = read["shares"]

    def _read(self, arrays: dict[str, np.ndarray], probe: str) -> None:
        for task in self.harness.tasks:
            self._take(probe, task, lambda task=task: read_features(self._scaled(arrays, probe), task, self.harness.measures, probe))

    def _supervised(self) -> None:
        for task in self.harness.tasks:
            self._take(SUPERVISED, task, lambda task=task: self._learn_jointly(task) if self.joint else self._learn(task))

    def _embed(self) -> dict[str, np.ndarray]:
        began, users = time.perf_counter(), self.harness.dataset.users
        features = check_features(self.fitted.embed(users.tolist()), len(users))
        details = pack_text(getattr(self.method, "details", {}))
        return {**pack_features(features), "width": np.array(features.shape[1]), "seconds": np.array(time.perf_counter() - began), "details": details}

    def _learn(self, task: Task) -> dict[str, np.ndarray]:
        began = time.perf_counter()
        method = self.fitted
        fitting = time.perf_counter() - began  # once: later tasks find it fitted
        arrays = read_labels_itself(method, self.harness.dataset.users, task, self.harness.measures)
        return {**arrays, "fitting": np.array(fitting), "details": pack_text(getattr(method, "details", {}))}

    def _learn_jointly(self, task: Task) -> dict[str, np.ndarray]:
        scores, seconds = self._joint_scores
        arrays = read_scores(scores[task.name], task, self.harness.measures)
        # Of one training for all tasks each has its share.
        return {**arrays, "fitting": np.array(seconds / len(self.harness.tasks)), "details": pack_text(getattr(self.method, "details", {}))}

    @cached_property
    def _joint_scores(self) -> tuple[dict[str, np.ndarray], float]:
        """Scores of all tasks, and the seconds they took."""
        began, harness = time.perf_counter(), self.harness
        return learn_jointly(self.fitted, harness.dataset.users, harness.tasks, harness.measures.settings), time.perf_counter() - began

    def _take(self, probe: str, task: Task, make: Callable[[], dict[str, np.ndarray]]) -> None:
        began = time.perf_counter()
        arrays = self._kept(self._name(probe, task, "scores"), make)
        if (took := time.perf_counter() - began) > PATIENCE:
            log.info("    %s, %s, seed %d: %s, %s, in %.0f s", self.job.method, self.job.view, self.job.seed, probe, task.name, took)
        self.result.figures[probe, task.name] = figures_of(arrays)
        self.result.groups[probe, task.name] = arrays["groups"]
        self.result.probe_seconds += float(arrays["seconds"])
        self.result.seconds += float(arrays.get("fitting", 0.0))
        if "details" in arrays:
            self.result.details = unpack_text(arrays["details"])

    def _name(self, probe: str, task: Task, what: str, *more: object) -> str:
        settings = self.harness.measures.settings
        parts = [settings.folds, self.harness.measures.repeats_of(probe), settings.seed, settings.resamples, settings.history_groups,
                 settings.validation_share]
        if self.joint:
            parts += [one.digest for one in self.harness.tasks]  # each task's scores hang on the labels of all
        return f"{what}-{fingerprint(self.key, probe, task.digest, parts, [] if probe == SUPERVISED else list(settings.grid), list(more))}"

    def _kept(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays of that name, made and kept if they are not there."""
        arrays = self.harness.kept.read(self.job.method, name)
        if arrays is None:
            if not self.compute:
                raise _NotKept
            arrays = {**make(), "code": np.array(code_of(self.method))}
            self.harness.kept.write(self.job.method, name, arrays)
        elif str(arrays["code"]) != code_of(self.method) and not self._warned:
            self._warned = True
            log.warning("%s: what is kept was made by other code; --fresh %s computes it again", self.job.method, self.job.method)
        return arrays

    def _scaled(self, arrays: dict[str, np.ndarray], probe: str) -> np.ndarray:
        scale = DIMENSION if probe.endswith(DIMENSION) else BLOCK
        if scale not in self._rows:
            self._rows[scale] = scaled(unpack_features(arrays), scale)
        return self._rows[scale]


def _told(outcome: Outcome) -> str:
    job = outcome.job
    name = f"{job.method}, {job.view}, seed {job.seed}"
    if outcome.error:
        return f"{name}: failed: {outcome.error}"
    probe = next(iter(outcome.figures))[0]
    auc = np.mean([figures[AUC][:, 0].mean() for (one, _), figures in outcome.figures.items() if one == probe])
    width = f"{outcome.width:,} numbers, " if outcome.width else ""
    return f"{name}: {width}fitted in {outcome.seconds:.1f} s, read in {outcome.probe_seconds:.1f} s, mean AUC {100 * auc:.1f} ({probe})"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if len(text) <= 300 else text[:297] + "..."
