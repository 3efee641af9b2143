"""The log: every line of a run carries its id, JSON lines parse, and secrets never reach a line."""

import json
import logging
import os
import subprocess
import sys
import threading

import pytest

from lurm.errors import ConfigError
from lurm.logs import HIDDEN, JsonLines, TextLines, error_line, hide_secrets, is_secret, log_format, logged_run, logged_stage
from lurm.store import Store

# A stage of two lines and a warning, run by the real command line in a process of its own.
COMMAND = """
import dataclasses, logging, sys, types, warnings
from lurm import pipeline
from lurm.cli import main

def run(context):
    warnings.warn("an old library complains")
    logging.getLogger("other").warning("a library speaks")
    return {"users": 2}

sys.modules["two_lines"] = types.SimpleNamespace(run=run)
pipeline.BY_NAME["publish"] = dataclasses.replace(pipeline.BY_NAME["publish"], runner="two_lines")
sys.exit(main(sys.argv[1:]))
"""


def record(message: str, *arguments, level=logging.INFO, **extra) -> logging.LogRecord:
    made = logging.LogRecord("lurm", level, "file", 1, message, arguments, None)
    for name, value in extra.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(("text", "gone", "stays"), [
    ("s3://AKIA123:abc%2Fdef@bucket/lurm", "AKIA123:abc", "bucket"),
    ("s3://user:hunter2@bucket/lurm is not there", "hunter2", "bucket/lurm is not there"),
    ("fs.s3a.secret.key=abcdef and more", "abcdef", "and more"),
    ("spark.conf=fs.s3a.access.key:ABCDEF,spark.x:1", "ABCDEF", "spark.x:1"),
    ('{"password": "hunter2", "user": "ann"}', "hunter2", "ann"),
    ("s3://bucket/x?region=eu&access_key=AKIA9&scheme=http", "AKIA9", "region=eu"),
    ("fs.azure.account.key.me.blob=QUJD", "QUJD", "fs.azure.account.key.me.blob"),
    ("a token: abc.def", "abc.def", "a token"),
])
def test_secrets_are_hidden_and_nothing_else(text, gone, stays):
    hidden = hide_secrets(text)
    assert gone not in hidden and HIDDEN in hidden and stays in hidden


@pytest.mark.parametrize("text", [
    "encoder.tokenizer=subwords", "run_key=0123456789abcdef", "as_of 2022-01-01", "file:///data/lurm", "sorted by key: user_id",
    "s3://bucket/lurm?region=eu-west-1", "https://host:8080/path", "12 tokens a title",
])
def test_what_is_no_secret_stays(text):
    assert hide_secrets(text) == text


def test_names_of_secrets():
    assert all(is_secret(name) for name in ("fs.s3a.secret.key", "spark.authenticate.secret", "PASSWORD", "my.Token", "fs.azure.account.key.x"))
    assert not any(is_secret(name) for name in ("spark.executor.memory", "spark.sql.shuffle.partitions"))


def test_text_lines_carry_the_run():
    lines = TextLines()
    assert lines.format(record("hello %d", 3)).endswith(" hello 3")
    with logged_run("20220101T000000-abc123"):
        assert lines.format(record("build-bags: start")).endswith(" 20220101T000000-abc123 build-bags: start")
    assert "abc123" not in lines.format(record("after"))


def test_json_lines_have_fields():
    with logged_run("run-1"), logged_stage("publish"):
        line = json.loads(JsonLines().format(record("published %s", "it\nall", figures={"users": 7, "health": {"a": 1}, "message": "mine"})))
    expected = {"run_id": "run-1", "stage": "publish", "message": "published it\nall", "level": "info", "users": 7, "health": {"a": 1}}
    assert expected.items() <= line.items()
    assert line["time"].endswith("+00:00")
    outside = json.loads(JsonLines().format(record("alone")))
    assert outside["run_id"] is None and outside["stage"] is None


def test_json_lines_stay_json_where_a_secret_is_hidden():
    line = json.loads(JsonLines().format(record('said {"password": "x y"}', figures={"uri": "s3://a:b@c", "inner": {"list": ["token=1"]}})))
    assert line["uri"] == f"s3://{HIDDEN}@c" and line["inner"] == {"list": [f"token={HIDDEN}"]} and "x" not in line["message"].split("password")[1]


def test_a_traceback_is_a_field():
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError:
        told = logging.LogRecord("lurm", logging.ERROR, "file", 1, "failed", (), sys.exc_info())
    assert "ZeroDivisionError: by nothing" in json.loads(JsonLines().format(told))["traceback"]
    assert "ZeroDivisionError: by nothing" in TextLines().format(told)


def test_threads_of_a_run_carry_its_id_and_runs_side_by_side_keep_theirs():
    lines, here = {}, threading.Barrier(2)

    def one(run_id: str) -> None:
        with logged_run(run_id):
            here.wait(10)
            lines[run_id] = TextLines().format(record("x"))
            here.wait(10)

    threads = [threading.Thread(target=one, args=(name,)) for name in ("run-a", "run-b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(f" {name} x" in line for name, line in lines.items()) and len(lines) == 2
    with logged_run("run-c"):
        helper = threading.Thread(target=lambda: lines.update(helper=TextLines().format(record("x"))))
        helper.start()
        helper.join()
    assert " run-c x" in lines["helper"]


def test_the_format_comes_from_the_option_then_from_the_environment(monkeypatch):
    monkeypatch.delenv("LURM_LOG_FORMAT", raising=False)
    assert log_format() == "text" and log_format("json") == "json"
    monkeypatch.setenv("LURM_LOG_FORMAT", "json")
    assert log_format() == "json" and log_format("text") == "text"
    assert json.loads(error_line("Expected 100 %, got s3://a:b@c."))["message"] == f"Expected 100 %, got s3://{HIDDEN}@c."
    monkeypatch.setenv("LURM_LOG_FORMAT", "xml")
    with pytest.raises(ConfigError, match="Expected LURM_LOG_FORMAT to be text or json, got 'xml'; set it to one of them."):
        log_format()


def lines_of(*arguments: str, **environment: str) -> list[str]:
    command = [sys.executable, "-c", COMMAND, *arguments]
    answer = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120)
    return answer.stderr.splitlines()


def test_every_line_of_a_real_run_carries_its_id(tmp_path):
    store = Store(str(tmp_path / "w"))
    arguments = ["publish", "--warehouse", store.uri, "--as-of", "2022-01-01"]
    told = [json.loads(line) for line in lines_of(*arguments, "--log-format", "json")]
    ids = {line["run_id"] for line in told}
    assert len(ids) == 1 and store.exists("runs", f"{ids.pop()}.json"), told
    assert [line["logger"] for line in told] == ["lurm", "py.warnings", "other", "lurm"] and "complains" in told[1]["message"]
    assert told[-1]["stage"] == "publish" and told[-1]["users"] == 2 and told[-1]["message"].startswith("publish: done in ")
    text = [line for line in lines_of(*arguments) if line[2:3] == ":"]  # a warning without a log has no time before it
    assert len({line.split()[1] for line in text}) == 1 and len(text) == 3 and store.exists("runs", f"{text[0].split()[1]}.json")
    (sentence,) = lines_of("publish", "--warehouse", store.uri, "--as-of", "soon", LURM_LOG_FORMAT="json")
    assert json.loads(sentence)["level"] == "error" and "Expected --as-of as a date" in json.loads(sentence)["message"]
