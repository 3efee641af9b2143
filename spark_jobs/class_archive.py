"""An archive of the JVM's classes, with which Spark starts in about three fifths of the time.

Of the seconds that Spark takes to start and to answer its first query many go into finding, checking and linking some 17,000 classes. A JVM can keep
them as it has them in memory (class data sharing, JEP 350) and map them the next time. In: this environment's own Spark and Java. Out: one file
of about 180 MB beside the environment, which `open_session` names to every JVM that it starts. A JVM that it does not fit (another Java, another
Spark, other jars) leaves it aside and starts as ever, so it can be deleted at any time. `python -m spark_jobs.class_archive` makes it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lurm.errors import LurmError

ARCHIVE = Path(sys.prefix) / "spark-classes.jsa"
MAKES = "-XX:ArchiveClassesAtExit"
QUIET = "-Xlog:cds=off -Xlog:cds+dynamic=off -Xlog:class+path=off"  # a JVM that it does not fit need not say so
QUICKLY = ("spark.master=local[2]", "spark.shuffle_partitions=2", "spark.user_buckets=1", "spark.item_buckets=1")
SECONDS = 600  # most that making it may take


def java_options(archive: Path | None = None) -> str:
    """Options of a JVM that is to start from the archive; none where there is no archive, or where this JVM is to make one."""
    archive = archive or ARCHIVE
    if not archive.is_file() or set(str(archive)) & set(" \"'") or MAKES in os.environ.get("SPARK_SUBMIT_OPTS", ""):
        return ""
    return f"-XX:SharedArchiveFile={archive} {QUIET}"


def make_archive(archive: Path | None = None) -> Path:
    """Run the stages that always need Spark on a world of 60 users, and keep the classes of the JVM that did.

    Raises: LurmError where no archive came of it.
    """
    from lurm.synthetic import WorldSettings, write_world

    archive = archive or ARCHIVE
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="lurm-classes-") as folder:
            world = write_world(Path(folder) / "world", WorldSettings(n_users=60, n_items=80, n_topics=4, n_months=3, events_per_user=10))
            made = Path(folder) / "classes.jsa"
            command = [sys.executable, "-m", "lurm.cli", "run", "--warehouse", f"{folder}/warehouse", "--as-of", world.end, "--until", "build-pairs"]
            for setting in (f"events.path={world.events_path}", f"items.path={world.items_path}", *QUICKLY):
                command += ["--set", setting]
            environment = {**os.environ, "SPARK_SUBMIT_OPTS": f"{MAKES}={made} -XX:TieredStopAtLevel=1 {QUIET}"}
            # The JVM writes the archive as it ends, after its Python has; it holds our pipes until then, so this waits for it.
            ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
            if ended.returncode or not made.is_file():
                last = (ended.stderr.strip() or "nothing was said").splitlines()[-1]
                raise LurmError(f"Expected an archive of Spark's classes from a run of `lurm run --until build-pairs`, got none: {last}")
            _put(made, archive)
    except subprocess.TimeoutExpired:
        raise LurmError(f"Expected Spark's classes to be archived within {SECONDS} s, they were not; try again on a quieter machine.") from None
    except OSError as error:
        raise LurmError(f"Expected to write {archive}, got {error.strerror or error}; without it Spark starts as before.") from None
    return archive


def _put(made: Path, archive: Path) -> None:
    """Whole and on the disk before it has its name, for half an archive ends the JVM that maps it; who has mapped the old one keeps it."""
    whole = archive.with_name(f"{archive.name}.{os.getpid()}")
    try:
        with made.open("rb") as source, whole.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
        os.replace(whole, archive)
    finally:
        whole.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m spark_jobs.class_archive", description=__doc__.partition("\n")[0],
        epilog=f"It is written to {ARCHIVE} and taken by every Spark that lurm starts from this environment; spark-submit takes it where "
               "SPARK_SUBMIT_OPTS has what --options prints. Delete it to be rid of it.",
    )  # fmt: skip
    parser.add_argument("--options", action="store_true", help="make nothing; print the options of a JVM that starts from the archive")
    if parser.parse_args(arguments).options:
        print(java_options())
        return 0
    try:
        archive = make_archive()
    except LurmError as error:
        print(f"lurm: {error}", file=sys.stderr)
        return 1
    print(f"lurm: Spark starts from {archive} ({archive.stat().st_size >> 20} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
