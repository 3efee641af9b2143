"""The limits of settings: every path exists, every default is inside, every border is where the table says."""

import math

import pytest

from lurm.config import Config, load_config, to_dict
from lurm.errors import ConfigError
from lurm.limits import LIMITS, Choice, Range, Text


def test_every_limit_names_a_setting():
    tree = to_dict(Config())
    names = {"seed"} | {f"{section}.{field}" for section, fields in tree.items() if isinstance(fields, dict) for field in fields}
    anywhere = {name.partition(".")[2] for name in names}
    unused = [path for path in LIMITS if path not in names and not (path.startswith("*.") and path[2:] in anywhere)]
    assert unused == []


def test_every_number_and_every_choice_has_a_limit():
    free = {"interests.n_interests", "events.path", "events.type_column", "items.path", "items.categories_column"}
    free |= {"spark.master", "spark.driver_memory"}
    for section, fields in to_dict(Config()).items():
        for field, value in fields.items() if isinstance(fields, dict) else []:
            if not isinstance(value, bool | dict) and f"{section}.{field}" not in free:
                assert f"{section}.{field}" in LIMITS or f"*.{field}" in LIMITS, f"{section}.{field}"


@pytest.mark.parametrize("override", [
    "smen.batch_size=1", "encoder.batch_size=1", "smen.n_anchors=0", "smen.temperature=0", "encoder.temperature=-0.1", "encoder.temperature=nan",
    "smen.held_out_share=0", "smen.held_out_share=1", "smen.disjoint_share=1.01", "smen.disjoint_share=-0.01", "smen.min_window_share=2",
    "smen.min_window_months=0", "smen.scales=week", "smen.scales=year+month", "smen.year_blocks=fiscal", "smen.sparse_gradients=yes",
    "smen.device=gpu", "embed.device=tpu", "encoder.precision=float16", "encoder.tokenizer=letters", "encoder.length_percentile=0",
    "encoder.length_percentile=101", "encoder.learning_rate=inf", "interests.backend=cuml", "interests.n_interests=1", "interests.n_interests=-5",
    "pairs.beta_days=0", "pairs.max_events_per_user=1", "events.format=xml", "events.csv_separator=", "events.csv_separator=||",
    "events.user_column=", "events.type_weights=click:-1", "gate.max_zero_share=1.5", "gate.min_users=0", "spark.user_buckets=0",
    "spark.gpus_per_worker=-1", "embed.batch_size=0", "seed=-1", "smen.dim=64",
])
def test_a_value_outside_its_limits_is_one_sentence_with_the_allowed_values(override):
    with pytest.raises(ConfigError) as error:
        load_config(None, [override])
    sentence = str(error.value)
    assert "expects" in sentence and "got" in sentence and sentence.endswith(".") and "\n" not in sentence
    assert override.partition("=")[0].split(".")[-1] in sentence


@pytest.mark.parametrize("override", [
    "smen.batch_size=2", "smen.n_anchors=2", "smen.disjoint_share=0", "smen.disjoint_share=1", "smen.min_window_share=0", "smen.scales=month",
    "smen.scales=year", "smen.year_blocks=rolling", "encoder.length_percentile=100", "interests.n_interests=0", "interests.n_interests=2",
    "events.type_weights=click:0,buy:3", "events.time_format=dd.MM.yyyy", "events.csv_separator=;", "gate.max_zero_share=0", "seed=0",
])
def test_the_border_itself_is_allowed(override):
    load_config(None, [override])


def test_a_memory_is_one_anchor_beside_others():
    with pytest.raises(ConfigError, match="'smen.memory' expects smen.n_anchors of at least 2, one of them the memory, got 1; give more anchors"):
        load_config(None, ["smen.n_anchors=1"])
    load_config(None, ["smen.n_anchors=1", "smen.memory=false"])


def test_activity_takes_ten_numbers_of_the_memory():
    narrow = ["smen.dim=10", "encoder.dim=10"]
    with pytest.raises(ConfigError, match="'smen.activity' expects smen.dim above 10, .* got 10; make smen.dim larger or set smen.activity=false"):
        load_config(None, narrow)
    load_config(None, [*narrow, "smen.activity=false"])
    load_config(None, [*narrow, "smen.memory=false"])


def test_the_sentence_lists_the_choices():
    with pytest.raises(ConfigError, match="'smen.year_blocks' expects calendar or rolling, got 'lunar'"):
        load_config(None, ["smen.year_blocks=lunar"])
    with pytest.raises(ConfigError, match="'smen.batch_size' expects a number of at least 2, got 1"):
        load_config(None, ["smen.batch_size=1"])
    with pytest.raises(ConfigError, match="'smen.held_out_share' expects a number above 0 and below 1, got 1.0"):
        load_config(None, ["smen.held_out_share=1"])


def test_interests_can_only_start_from_centroids_of_their_own_width():
    with pytest.raises(ConfigError, match="got 128 and 64; make them equal or set smen.start_from_centroids=false"):
        load_config(None, ["smen.dim=64"])
    assert load_config(None, ["smen.dim=64", "smen.start_from_centroids=false"]).smen.dim == 64
    assert load_config(None, ["smen.dim=64", "encoder.dim=64"]).encoder.dim == 64


def test_ranges_and_words():
    assert Range(0, 1).allows(0) and Range(0, 1).allows(1) and not Range(0, 1).allows(math.nan)
    assert not Range(0, open_below=True).allows(0) and not Range(0).allows(math.inf)
    assert Choice(("a", "b", "c")).allows("b") and str(Choice(("a", "b", "c"))) == "a, b or c"
    assert Text(1).allows("\t") and not Text(1).allows("") and not Text().allows("  ")


@pytest.mark.parametrize(("override", "sentence"), [
    ("gate.severities=coverag:warn", "'gate.severities.coverag' names no check of the gate; did you mean 'coverage'?"),
    ("input_gate.severities=coverage:warn", "'input_gate.severities.coverage' names no check of the gate; "),
    ("gate.severities=coverage:loud", "'gate.severities.coverage' expects block, warn, info or off, got 'loud'; mend its value."),
    ("gate.severities=no_duplicate_users:warn", "holds what readers are promised and always blocks; remove it."),
    ("gate.severities=coverage", "'gate.severities' expects a table of key = value, got 'coverage'"),
])
def test_severities_of_the_gate_name_checks_and_levels(override, sentence):
    with pytest.raises(ConfigError) as error:
        load_config(None, [override])
    assert sentence in str(error.value)


def test_severities_that_are_allowed():
    settings = load_config(None, ["gate.severities=coverage:off,lost_users:warn", "input_gate.severities=few_duplicates:block"])
    assert settings.gate.severities == {"coverage": "off", "lost_users": "warn"} and settings.input_gate.severities == {"few_duplicates": "block"}
