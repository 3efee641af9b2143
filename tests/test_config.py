"""Settings: where they come from, what is refused and how it is said, and when two sets of settings are the same."""

import dataclasses

import pytest

from lurm.config import Config, SmenSettings, bundled_names, fingerprint, load_config, to_dict
from lurm.errors import ConfigError


def write(tmp_path, text):
    file = tmp_path / "my.toml"
    file.write_text(text)
    return str(file)


def test_nothing_named_is_all_defaults():
    assert load_config() == Config()


def test_a_file_and_then_the_command_line(tmp_path):
    file = write(tmp_path, 'seed = 3\n[smen]\nmax_steps = 10\ntemperature = 1\n[events]\npath = "log"\n[events.type_weights]\nbuy = 3\n')
    config = load_config(file, ["smen.max_steps=20", "smen.shared_gru=false", "pairs.beta_days=2.5", "pairs.max_pairs=1_000"])
    assert (config.seed, config.smen.max_steps, config.smen.shared_gru, config.pairs.max_pairs) == (3, 20, False, 1_000)
    assert config.smen.temperature == 1.0 and isinstance(config.smen.temperature, float)
    assert config.pairs.beta_days == 2.5 and config.events.type_weights == {"buy": 3} and config.events.path == "log"
    assert config.encoder == Config().encoder


@pytest.mark.parametrize(("override", "sentence"), [
    ("smen.max_step=3", "Unknown setting 'smen.max_step'; did you mean 'smen.max_steps'?"),
    ("smem.max_steps=3", "Unknown setting 'smem'; did you mean 'smen'?"),
    ("zzz=1", "Unknown setting 'zzz'; known here: embed, encoder, events, gate, input_gate, interests, items, pairs, publish, seed, service, smen, "
              "spark."),
    ("smen.max_steps=many", "Setting 'smen.max_steps' expects a whole number, got 'many'; mend its value."),
    ("smen.max_steps=1.5", "Setting 'smen.max_steps' expects a whole number, got '1.5'; mend its value."),
    ("smen.temperature=warm", "Setting 'smen.temperature' expects a number, got 'warm'; mend its value."),
    ("smen.shared_gru=1", "Setting 'smen.shared_gru' expects true or false, got '1'; mend its value."),
    ("smen=3", "Expected a section at 'smen', got '3'; write [smen] with fields below it."),
    ("events.type_weights=buy", "Setting 'events.type_weights' expects a table of key = value, got 'buy'; mend its value."),
    ("smen.max_steps", "--set expects section.field=value, got 'smen.max_steps'; write for example --set smen.max_steps=200."),
])
def test_every_mistake_of_the_command_line_is_one_sentence(override, sentence):
    with pytest.raises(ConfigError) as error:
        load_config(None, [override])
    assert str(error.value) == sentence


@pytest.mark.parametrize(("text", "part"), [
    ("[smen]\nanchors = 4\n", "Unknown setting 'smen.anchors'; did you mean 'smen.n_anchors'?"),
    ("[smem]\n", "Unknown setting 'smem'; did you mean 'smen'?"),
    ("smen = 4\n", "Expected a section at 'smen', got 4"),
    ('[smen]\nn_anchors = "4"\n', "'smen.n_anchors' expects a whole number, got '4'"),
    ("[smen]\nn_anchors = true\n", "'smen.n_anchors' expects a whole number, got 'True'"),
    ("[smen]\nshared_gru = 1\n", "'smen.shared_gru' expects true or false, got '1'"),
    ("[events]\npath = 7\n", "'events.path' expects text, got '7'"),
    ("[events.type_weights]\nbuy = 1.5\n", "'events.type_weights.buy' expects a whole number, got '1.5'"),
    ("[smen\n", "Expected TOML in"),
])
def test_every_mistake_of_a_file_is_one_sentence(tmp_path, text, part):
    with pytest.raises(ConfigError) as error:
        load_config(write(tmp_path, text))
    assert part in str(error.value) and "\n" not in str(error.value)


def test_a_value_is_not_a_section(tmp_path):
    with pytest.raises(ConfigError, match="'seed' is a value, not a section"):
        load_config(write(tmp_path, "seed = 3\n"), ["seed.more=1"])


def test_settings_that_are_tables(tmp_path):
    config = load_config(None, ["events.type_weights=click:1,buy:3"])
    assert config.events.type_weights == {"click": 1, "buy": 3}
    config = load_config(write(tmp_path, '[spark.conf]\n"spark.ui.enabled" = "false"\n'), ["events.type_weights.click=0"])
    assert config.spark.conf == {"spark.ui.enabled": "false"} and config.events.type_weights == {"click": 0}


def test_an_unknown_file_lists_the_bundled_ones(tmp_path):
    with pytest.raises(ConfigError, match="one of: amazon_purchases, demo, git_commits, online_retail"):
        load_config(str(tmp_path / "none.toml"))


@pytest.mark.parametrize("name", bundled_names())
def test_bundled_configurations_load(name):
    assert load_config(name) != Config()


def test_a_folder_does_not_shadow_a_bundled_name_but_a_file_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert load_config("demo").smen.max_steps == 150
    (tmp_path / "demo").rmdir()
    (tmp_path / "demo").write_text("[smen]\nmax_steps = 7\n")
    assert load_config("demo").smen.max_steps == 7


def test_a_folder_that_is_no_bundled_name_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="could not read it"):
        load_config(str(tmp_path))


def test_fingerprints_name_values_not_objects():
    assert fingerprint(SmenSettings(), 17, "x") == fingerprint(SmenSettings(), 17, "x")
    assert fingerprint(SmenSettings()) == fingerprint(to_dict(SmenSettings())), "a section is its plain data"
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}), "order of keys says nothing"
    different = [fingerprint(part) for part in (SmenSettings(), dataclasses.replace(SmenSettings(), n_anchors=9), 1, "1", [1], ["1"])]
    different += [fingerprint("a", "b"), fingerprint("ab"), fingerprint(["a", "b"]), fingerprint("b", "a")]
    assert len(set(different)) == len(different)
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in different)


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 3
