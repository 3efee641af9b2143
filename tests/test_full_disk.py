"""A disk that is full and a warehouse that cannot be written: one sentence, nothing half published, readers undisturbed, and on it goes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from faults import Publication, Versions
from published import day

from lurm.cli import main
from lurm.errors import StoreError
from lurm.garbage import vacuum
from lurm.lease import lease
from lurm.releases import releases, rollback
from lurm.runner import run_stages
from lurm.store import Store

JANUARY = Publication("2022-01-01", "january0", ("a", "b", "c"))
FEBRUARY = Publication("2022-02-01", "february", ("a", "b", "c", "d"))
PAGE = 4_096
# What there was no space for, as the sentences name it.
PLACES = ("/user_embeddings/as_of", "/manifests/", "create table lease", "commit to lease", "/runs/", "/audits/", "commit to user_embeddings",
          "/tables/releases/", "commit to releases")


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own: mounting needs root, as in a container."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def versions():
    known = Versions()
    known.add(JANUARY, FEBRUARY)
    return known


def fill(disk: Path, pages_left: int) -> Path:
    """Fill the disk up to some pages."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(PAGE))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - pages_left * PAGE))
    return ballast


@pytest.mark.slow
def test_space_runs_out_anywhere(disk, versions, tmp_path):
    """With a page more each time, the disk is full at another write: of the lease, of a staged file, of the manifest, of a commit, ..."""
    said, published, pages = [], 0, 0
    JANUARY.publish(Store(str(tmp_path / "start")))
    while not published:
        store = Store(str(disk / f"warehouse{pages}"))
        shutil.copytree(tmp_path / "start", store.root)
        ballast = fill(disk, pages)
        try:
            FEBRUARY.stage(store)
            published = run_stages(day(store, FEBRUARY.as_of, FEBRUARY.key), ["publish"])["publish"]["epoch"]
        except StoreError as error:
            assert "\n" not in str(error) and str(error).endswith(".") and "No space left on device" in str(error), error
            said.append(str(error).partition("(")[0])
        # Also a run that has released and could not write its record says so; what it released is whole.
        assert versions.seen(store.uri) == ("february" if len(releases(store)) == 2 else "january0") and len(releases(store)) >= bool(published) + 1
        versions.check(store)
        ballast.unlink()

        again = Store(store.uri)
        FEBRUARY.stage(again)
        assert run_stages(day(again, FEBRUARY.as_of, FEBRUARY.key), ["publish"])["publish"]["epoch"] == 2
        assert versions.seen(store.uri) == "february"
        versions.check(again)
        vacuum(again, keep_days=0)
        assert not list(disk.rglob("*.tmp")) and versions.seen(store.uri) == "february"
        shutil.rmtree(store.root)
        pages += 1
    assert {part for sentence in said for part in PLACES if part in sentence} == set(PLACES), said


@pytest.fixture
def read_only(disk):
    store = Store(str(disk / "warehouse"))
    for one in (JANUARY, FEBRUARY):
        one.publish(store)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    yield store
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def test_a_warehouse_that_can_only_be_read(read_only, versions, tmp_path, capsys):
    store = read_only
    before = sorted(os.walk(store.root))
    march = Publication("2022-03-01", "march000", ("a", "b"))
    for write in (
        lambda: march.publish(store), lambda: rollback(store), lambda: vacuum(store), lambda: store.workspace("model-1"),
        lambda: run_stages(day(store, "2022-02-01", "february"), ["publish"]),
    ):
        with pytest.raises(StoreError, match=r"^Could not .*Read-only file system.*run again\.$"):
            write()
    with pytest.raises(StoreError, match="Could not create table lease .*Read-only file system"):
        with lease(store, "run"):
            raise AssertionError
    for command in (["status"], ["releases"], ["vacuum", "--dry-run"], ["read", "--output", str(tmp_path / "vectors.parquet")]):
        assert main([command[0], "--warehouse", store.uri, *command[1:]]) == 0
    assert main(["rollback", "--warehouse", store.uri]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "Read-only file system" in captured.err and "4 users of 2022-02-01" in captured.out
    assert versions.seen(store.uri) == "february" and versions.seen(store.uri, "2022-01-01") == "january0" and len(releases(store)) == 2
    assert sorted(os.walk(store.root)) == before
