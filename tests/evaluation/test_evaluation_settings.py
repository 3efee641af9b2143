"""The settings of an evaluation: the bundled files are right, and what cannot be is refused in one sentence."""

import pytest

from lurm.config import bundled_names
from lurm.errors import ConfigError
from lurm.evaluation.baselines.method import Budget
from lurm.evaluation.baselines.registry import METHODS
from lurm.evaluation.evaluation_settings import budget_fields, load_evaluation, with_probes
from lurm.evaluation.harness import jobs_of

SMALL = """
name = "x"
cut = "2021-01-01"
[data]
events = "e"
items = "i"
[[methods]]
names = ["tfidf"]
[[tasks]]
kind = "activity"
"""


@pytest.mark.parametrize("name", bundled_names(of_evaluations=True))
def test_bundled_evaluations_are_whole(name):
    settings = load_evaluation(name)
    jobs = jobs_of(settings, METHODS)
    assert settings.name == name.removeprefix("evaluate_") and jobs[0].method == settings.baseline == "tfidf"
    assert {job.view for job in jobs if job.method == "tfidf"} == {view.name for view in settings.views}, "each view has its baseline"


@pytest.mark.parametrize(("old", "new", "sentence"), [
    ('name = "x"', "", "Expected a setting 'name', got none"),
    ('cut = "2021-01-01"', 'cut = "2021"', "Expected --as-of as a date"),
    ('name = "x"', 'name = "x"\nmin_event = 3', "Unknown setting 'min_event'; did you mean 'min_events'?"),
    ('name = "x"', 'name = "x"\nmin_events = "3"', "Setting 'min_events' expects a whole number, got '3'"),
    ('name = "x"', 'name = "x"\nseeds = 3', "Setting 'seeds' expects a list, got 3"),
    ('name = "x"', 'name = "x"\nbaseline = "bag"', "Expected the baseline 'bag' among the methods"),
    ('kind = "activity"', 'kind = "activities"', "of category, attribute, activity, new_interest, got 'activities'; did you mean 'activity'?"),
    ('kind = "activity"', 'kind = "attribute"', "Expected tasks[0].column for an attribute"),
    ('kind = "activity"', 'kind = "activity"\nwindow_days = 0', "window_days and count of 1 or more"),
    ('kind = "activity"', 'kind = "activity"\n[probe]\nkinds = ["mpl"]', "did you mean 'mlp'?"),
    ('kind = "activity"', 'kind = "activity"\n[probe]\nfolds = 1', "2 folds or more"),
    ('kind = "activity"', 'kind = "activity"\n[probe]\nlabel_shares = [1.0]', "label_shares between 0 and 1"),
    ('kind = "activity"', 'kind = "activity"\n[probe]\nvalidation_share = 1.0', "Expected probe.validation_share of at least 0 and below 1, got 1.0"),
    ('names = ["tfidf"]', 'names = ["tfidf"]\nviews = ["al"]', "Expected methods[0].views to be of all, got 'al'; did you mean 'all'?"),
    ('names = ["tfidf"]', 'names = ["tfidf"]\nprobes = ["mlp"]', "Expected methods[0].probes to be of logistic, got 'mlp'"),
    ('name = "x"', 'name = "x"\ncontrasts = ["C5: tfidf"]', "Expected a contrast as 'NAME: METHOD - METHOD', got 'C5: tfidf'"),
    ('name = "x"', 'name = "x"\ncontrasts = ["C5: tfidf - tfidff"]', "did you mean 'tfidf'?"),
    ('name = "x"', 'name = "x"\ncontrasts = ["C5: tfidf@al - tfidf"]', "did you mean 'all'?"),
    ("[data]", "[data", "Expected TOML in"),
])  # fmt: skip
def test_what_cannot_be_is_told_in_a_sentence(tmp_path, old, new, sentence):
    file = tmp_path / "e.toml"
    file.write_text(SMALL)
    assert load_evaluation(str(file)).views[0].name == "all"
    file.write_text(SMALL.replace(old, new))
    with pytest.raises(ConfigError) as told:
        load_evaluation(str(file))
    assert sentence in str(told.value)


def test_files_methods_and_budgets_that_nobody_knows(tmp_path):
    with pytest.raises(ConfigError, match="found none; give a path to a TOML file or one of: .*evaluate_demo"):
        load_evaluation("evaluate_nothing")
    with pytest.raises(ConfigError, match="budget to be of .* got 'step'; did you mean 'steps'"):
        budget_fields({"step": 3}, {}, Budget)
    assert Budget(**budget_fields({"steps": 3, "learning_rate": 0.01}, {"steps": 4}, Budget)) == Budget(4, learning_rate=0.01)
    file = tmp_path / "e.toml"
    file.write_text(SMALL.replace('"tfidf"', '"tfidf", "tfudf"'))
    with pytest.raises(ConfigError, match="name of a method in .*got 'tfudf'"):
        jobs_of(load_evaluation(str(file)), METHODS)


def test_some_of_the_probes():
    settings = load_evaluation("evaluate_online_retail")
    some = with_probes(settings, ["mlp"])
    assert some.probe.kinds == ("mlp",) and 0 < len(jobs_of(some, METHODS)) < len(jobs_of(settings, METHODS)), "methods of other probes are left out"
    with pytest.raises(ConfigError, match="--probes"):
        with_probes(settings, ["boosting"])
