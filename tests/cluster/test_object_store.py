"""A warehouse and its inputs on an object store: a whole run, readers, joins, commits, lease, rollback, vacuum and erasure over S3's protocol.

The server is moto, on loopback, in a process of its own. It keeps objects in one process's memory, so these tests say that lurm speaks the
protocol and needs nothing that a prefix does not have (renames, folders, appends). They do not prove what a store of many machines does:
how fresh its listings are, how it throttles, how long it takes, whether two conditional PUTs that cross in its network are really ordered
(tests/cluster/object_store.py orders them here), rights of accounts, encryption, versions that a bucket keeps of deleted objects.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from erasable import ERIKA, KEY, MAX, build, places_of
from faults import Publication, Versions
from object_store import BUCKET, KEY_ID, SECRET, ObjectStore, upload
from published import publish_day
from small_pipeline import AS_OF, SMALL, contents, published

from lurm import lease as lease_module
from lurm import open_table
from lurm.erasing.erasure import erase, verify_users
from lurm.erasing.persons import Persons
from lurm.erasing.traces import scan
from lurm.errors import MissingInputError, StoreError
from lurm.garbage import find_garbage, vacuum
from lurm.lease import TABLE, holding_now, lease
from lurm.releases import releases, rollback
from lurm.store import Store
from spark_jobs.tables import CHUNK_BYTES, _chunks

ROOT = Path(__file__).resolve().parents[2]
COMMITTERS, ROUNDS = 4, 5


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server, and the way to it in this process's environment, nowhere else."""
    running = ObjectStore(tmp_path_factory.mktemp("server"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        patch.setenv("LURM_SUPPRESSION_KEY", KEY)
        patch.setenv("LURM_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
        yield running
    running.close()


@pytest.fixture
def store(server, request) -> Store:
    """An empty warehouse."""
    return Store(f"s3://{BUCKET}/{request.node.name.partition('[')[0]}")


def download(store: Store, folder: Path) -> None:
    for entry in store.list_files(recursive=True):
        file = folder / entry.path.removeprefix(f"{store.root}/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(store.read_bytes(entry.path))


@pytest.fixture(scope="module")
def remote(server, world, tmp_path_factory) -> tuple[Store, str]:
    """A warehouse in which `lurm run` has run with inputs beside it, and all that it printed."""
    upload(world, f"s3://{BUCKET}/inputs")
    store, elsewhere = Store(f"s3://{BUCKET}/warehouse"), tmp_path_factory.mktemp("elsewhere")
    overrides = [*SMALL, f"events.path=s3://{BUCKET}/inputs/events", f"items.path=s3://{BUCKET}/inputs/items"]
    command = [sys.executable, "-m", "lurm.cli", "run", "--warehouse", store.uri, "--as-of", AS_OF, "--log-format", "json"]
    command += [part for override in overrides for part in ("--set", override)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr[-3_000:]
    assert list(elsewhere.iterdir()) == [], "nothing is written beside the warehouse"
    return store, ended.stdout + ended.stderr


@pytest.mark.slow
def test_a_whole_run_gives_the_tables_of_a_local_one(remote, finished):
    store, _ = remote
    local, _ = finished
    here, there = contents(local.store), contents(store)
    assert {name: there[name] == here[name] for name in here} == dict.fromkeys(here, True)
    assert all(len(rows) > 0 for name, rows in here.items() if name != "quarantine")
    for mine, theirs in zip(published(local.store, AS_OF), published(store, AS_OF), strict=True):
        assert np.array_equal(mine, theirs)


@pytest.mark.slow
def test_credentials_are_in_no_output_and_in_no_file(remote, tmp_path):
    store, printed = remote
    assert scan(store, Persons(frozenset([KEY_ID, SECRET]))).traces == (), "columns of text decoded, everything else as bytes"
    download(store, tmp_path)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 100 and any("runs" in file.parts for file in files)
    found = [file for file in files for secret in (KEY_ID, SECRET) if secret.encode() in file.read_bytes()]
    assert found == [] and KEY_ID not in printed and SECRET not in printed
    assert "publish: done" in printed, "the output was looked at"


@pytest.mark.slow
def test_readers_and_joins(remote, finished):
    store, _ = remote
    local, _ = finished
    table, here = open_table(store.uri), open_table(local.store.uri)
    users = published(local.store, AS_OF)[0][:5].tolist()
    assert np.array_equal(table.vectors(users), here.vectors(users)) and (table.as_of, table.n_users) == (AS_OF, here.n_users)
    labels = pa.table({"user_id": users * 2, "time": ["2021-02-15"] * 5 + ["2021-03-01"] * 5})
    joined = table.join(labels)
    assert joined.column("as_of").to_pylist() == [None] * 5 + [AS_OF] * 5, "never the future"
    assert joined.equals(here.join(labels))


def released_rows(store: Store) -> dict[int, dict[str, bytes]]:
    """What each epoch shows: user to the bytes of the vector."""
    rows = {}
    for move in releases(store):
        batches = open_table(store.uri, epoch=move["epoch"]).scan(["user_id", "embedding"])
        rows[move["epoch"]] = {row["user_id"]: np.array(row["embedding"], np.float32).tobytes() for batch in batches for row in batch.to_pylist()}
    return rows


def test_small_files_share_a_task():
    """A start costs more than a small file; every file is read once, in order, and a large one alone."""
    sizes = [10] * 50 + [200 << 20] + [10] * 3
    names = [f"{number}.parquet" for number in range(len(sizes))]
    chunks = _chunks(names, sizes, 4)
    assert [name for chunk in chunks for name in chunk] == names and [len(chunk) for chunk in chunks] == [50, 1, 3]
    assert [len(chunk) for chunk in _chunks(names[:50], sizes[:50], 4)] == [12, 13, 12, 13] and len(_chunks(names[:1], sizes[:1], 4)) == 1
    assert _chunks(["a", "b"], [0, 0], 4) == [["a", "b"]] and len(_chunks(names, [CHUNK_BYTES] * len(names), 4)) == 54


def test_sizes_of_many_objects_come_in_the_order_asked(store):
    """They are asked for side by side; what is missing is None."""
    names = [store.path("some", f"{number}.bin") for number in range(50)]
    for number, name in enumerate(names[::2]):
        store.write_bytes(name, bytes(number + 1))
    assert store.sizes(names) == [number // 2 + 1 if number % 2 == 0 else None for number in range(50)]
    assert store.sizes(names[:1]) == [1] and store.sizes([]) == []


# ---- commits ---------------------------------------------------------------------------------------------------------------------------


def test_of_several_committers_at_once_one_wins(store):
    """Each has looked at the same version; they start together, again and again."""
    delta, together, won = store.create(TABLE), threading.Barrier(COMMITTERS), []

    def commit(number: int, seen) -> None:
        mine = Store(store.uri)
        together.wait()
        if mine.commit_on(seen, TABLE, [], {"by": str(number)}) is not None:
            won.append(number)

    for round_number in range(1, ROUNDS + 1):
        handles = [store.load(TABLE.name) for _ in range(COMMITTERS)]
        threads = [threading.Thread(target=commit, args=(number, handle)) for number, handle in enumerate(handles)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        delta = store.load(TABLE.name)
        assert len(won) == round_number == delta.version(), "one winner a round, and he is in the log"
        assert delta.history(1)[0]["by"] == str(won[-1])


@pytest.mark.slow
def test_two_publications_at_once_both_land_whole(store):
    """Other dates, one table: who loses the race looks again, and no version is a mixture."""
    known, days = Versions(), [Publication(f"2022-0{month}-01", f"{month}" * 16, ("a", "b", f"c{month}")) for month in range(1, 4)]
    known.add(*days)
    threads = [threading.Thread(target=one.publish, args=(Store(store.uri),)) for one in days]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known.check(store)
    assert [known.seen(store.uri, one.as_of) for one in days] == [one.key for one in days] and known.seen(store.uri) == days[-1].key
    assert len(releases(store)) == 3


def test_the_lease(store, monkeypatch):
    assert holding_now(store) is None and store.list_files(recursive=True) == []
    with lease(store, "first") as held:
        held.check()
        with pytest.raises(StoreError, match="Expected to be the only run"):
            with lease(Store(store.uri), "second"):
                raise AssertionError("two holders")
    monkeypatch.setattr(lease_module, "CLOCK_SECONDS", 0.0)
    silent = Store(store.uri)
    with lease(silent, "silent", ttl_seconds=0.5) as lost:
        monkeypatch.setattr(lost, "_finished", threading.Event())
        lost._finished.set()  # its thread renews no more
        time.sleep(0.6)
        with lease(Store(store.uri), "next"):
            assert holding_now(store).holder.startswith("next")
            lost._finished.clear()
            with pytest.raises(StoreError, match="Expected to hold the lease .* next"):
                lost.check()


@pytest.mark.slow
def test_releases_go_back_and_garbage_goes_away(store):
    for number, as_of in enumerate(("2022-01-01", "2022-02-01")):
        publish_day(store, as_of, ["anna", "max", f"u{number}"])
    rollback(store, reason="a test")
    assert open_table(store.uri).as_of == "2022-01-01" and open_table(store.uri, epoch=2).as_of == "2022-02-01"
    orphan = store.path("tables", "user_embeddings", "as_of=2022-03-01", "model_id=m", "feedfeedfeedfeed-0123.parquet")
    store.write_bytes(orphan, b"left by a run that was killed")
    assert find_garbage(store, 7, time.time()) == [], "a week is kept"
    assert orphan in [garbage.path for garbage in find_garbage(store, 7, time.time() + 8 * 86_400)]
    gone = vacuum(store, keep_days=-1)
    assert [garbage.path for garbage in gone if garbage.kind == "user_embeddings"] == [orphan]
    assert set(store.sizes([garbage.path for garbage in gone])) == {None}
    assert open_table(store.uri, epoch=2).vectors(["u1"]).shape == (1, 6)


@pytest.mark.slow
def test_an_erased_person_is_in_no_object(store, tmp_path):
    build(store.uri, everything=False)
    store.load("user_embeddings").create_checkpoint()
    store.write_bytes(store.path("runs", "r1.json"), f'{{"error": "it does not hold {ERIKA}, {MAX}"}}'.encode())
    store.write_bytes(store.path("tables", "events", "month=2022-01", "x.parquet.0a.tmp"), f"half {ERIKA}".encode())
    before = {epoch: {user: vector for user, vector in rows.items() if user != ERIKA} for epoch, rows in released_rows(store).items()}
    download(store, tmp_path / "before")
    assert len(places_of(tmp_path / "before", ERIKA)) > 10
    proof = erase(store, [ERIKA])
    download(store, tmp_path / "after")
    assert places_of(tmp_path / "after", ERIKA) == set() and proof["rescan"]["found"] == 0 and proof["persons_found"] == 1
    assert verify_users(store, [ERIKA]).traces == () and verify_users(store, [MAX]).traces != ()
    assert released_rows(store) == before, "all others, at every epoch, bit for bit"


def test_the_suppression_key_is_not_kept_beside_it(store, monkeypatch):
    monkeypatch.delenv("LURM_SUPPRESSION_KEY")
    publish_day(store, "2022-01-01", [ERIKA])
    with pytest.raises(MissingInputError, match="LURM_SUPPRESSION_KEY is not set"):
        erase(store, [ERIKA])


# ---- credentials -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", [f"s3://{KEY_ID}:hidden@{BUCKET}/w", f"s3://{BUCKET}/w?access_key={KEY_ID}&secret_key=hidden"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri):
    with pytest.raises(StoreError, match="without credentials") as error:
        Store(uri)
    assert KEY_ID not in str(error.value) and "hidden" not in str(error.value)


@pytest.mark.slow
def test_a_server_that_is_gone_is_one_sentence_without_credentials(store, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError) as error:
        Store(store.uri).load("events")
    assert "\n" not in str(error.value) and SECRET not in str(error.value) and KEY_ID not in str(error.value)
