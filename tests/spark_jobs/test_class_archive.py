"""Spark's classes come from the archive where there is one; without one, or with one that does not fit, Spark starts all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lurm.errors import LurmError
from spark_jobs import class_archive
from spark_jobs.class_archive import ARCHIVE, MAKES, java_options, main, make_archive

START = """
import sys
from pathlib import Path
from lurm.config import load_config
from spark_jobs import class_archive
class_archive.ARCHIVE = Path(sys.argv[1])
from spark_jobs.session import open_session
spark = open_session(load_config(None, ["spark.master=local[1]"]))
print(spark.range(1000).groupBy((__import__("pyspark").sql.functions.col("id") % 7)).count().count())
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """`make test` has made one; whoever starts pytest by hand waits for it once."""
    return ARCHIVE if ARCHIVE.is_file() else make_archive(tmp_path_factory.mktemp("classes") / "spark-classes.jsa")


def started(archive: Path, folder: Path, more: str = "") -> tuple[list[str], str]:
    """Where the classes of a session came from, one line each, and what it said on stderr."""
    loaded = folder / "loaded"
    environment = {**os.environ, "SPARK_SUBMIT_OPTS": f"-XX:TieredStopAtLevel=1 -Xlog:class+load:file={loaded} {more}"}
    ended = subprocess.run([sys.executable, "-c", START, archive], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0 and ended.stdout.split() == ["7"], ended.stderr[-3_000:]
    return loaded.read_text().splitlines(), ended.stderr


@pytest.mark.slow
def test_most_classes_of_a_session_come_from_it(archive, tmp_path):
    lines, _ = started(archive, tmp_path)
    assert sum("shared objects file (top)" in line for line in lines) > len(lines) / 2 > 3_000
    lines, said = started(archive, tmp_path, "-XX:-UseCompressedOops")  # as with a heap above 32 GB: it does not fit
    assert not any("shared objects file (top)" in line for line in lines) and "archive" not in said


def test_no_archive_is_no_option(tmp_path, monkeypatch):
    assert java_options(tmp_path / "none.jsa") == ""
    (tmp_path / "with blank.jsa").touch()
    assert java_options(tmp_path / "with blank.jsa") == "", "options are cut at blanks"
    (tmp_path / "one.jsa").touch()
    assert java_options(tmp_path / "one.jsa").startswith(f"-XX:SharedArchiveFile={tmp_path}/one.jsa ")
    monkeypatch.setenv("SPARK_SUBMIT_OPTS", f"{MAKES}=x")
    assert java_options(tmp_path / "one.jsa") == "", "a JVM makes one from all of its classes"


def test_what_goes_wrong_is_one_sentence_and_leaves_the_old_one(tmp_path, monkeypatch, capsys):
    old = tmp_path / "old.jsa"
    old.write_bytes(b"old")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(LurmError, match="Expected an archive of Spark's classes .* got none: lurm: Expected Java 17 or later for Spark, found none"):
        make_archive(old)
    assert [file.name for file in tmp_path.iterdir()] == ["old.jsa"] and old.read_bytes() == b"old"
    with pytest.raises(LurmError, match="Expected to write .*old.jsa/x.jsa, got (Not a directory|File exists); without it Spark starts as before"):
        make_archive(old / "x.jsa")
    monkeypatch.setattr(class_archive, "ARCHIVE", old / "x.jsa")
    assert main([]) == 1 and capsys.readouterr().err.startswith("lurm: Expected to write ")
    assert main(["--options"]) == 0 and capsys.readouterr().out == "\n"
