"""Erasure: nothing is left of a person, everything is left of the others, and a kill at any moment is mended by the same call."""

import json
import shutil
from pathlib import Path

import pytest
from erasable import (
    ANNA,
    ERIKA,
    KEY,
    MAX,
    OTHER_MODEL,
    USERS,
    build,
    kinds_of,
    live_rows,
    places_of,
    released_rows,
)
from faults import FAULTS, Crash, FaultyObjects
from thinned import WALKS, stops

from lurm import open_table
from lurm.config import Config
from lurm.erasing.erasure import erase, plan, proofs, read_proof, resume, verify, verify_users
from lurm.erasing.suppression import listed, suppressed, unfinished_erasures
from lurm.erasing.traces import PERSONAL
from lurm.errors import InputError, LurmError, MissingInputError, StoreError
from lurm.garbage import vacuum
from lurm.lease import _ended, holding_now, lease
from lurm.lineage import Context
from lurm.releases import releases, rollback
from lurm.runner import run_stages
from lurm.schema import BAGS, EVENTS, ITEM_PAIRS, QUARANTINE, SEEN_ITEMS, TABLES, USER_EMBEDDINGS
from lurm.store import Store


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("LURM_SUPPRESSION_KEY", KEY)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Store:
    """Read only."""
    return build(tmp_path_factory.mktemp("erasable") / "warehouse")


@pytest.fixture
def store(built, tmp_path) -> Store:
    return copy_of(built, tmp_path / "warehouse")


def copy_of(store: Store, folder: Path, objects=None) -> Store:
    shutil.copytree(store.root, folder)
    return Store(str(folder), objects and objects(str(folder)))


def without(shown: dict[int, dict], *users: str) -> dict[int, dict]:
    return {epoch: {user: vector for user, vector in rows.items() if user not in users} for epoch, rows in shown.items()}


def test_nothing_is_left_of_her_down_to_the_bytes(store):
    kinds = kinds_of(places_of(store.root, ERIKA))
    assert kinds >= {f"{name} {what}" for name in ("user_embeddings", "bags", "user_states", "events") for what in ("data", "log", "manifest")}
    assert kinds >= {"quarantine data", "user_embeddings checkpoint", "exports", "runs", "audits", "work"}, "the test looks where she is"
    proof = erase(store, [ERIKA])
    assert places_of(store.root, ERIKA) == set()
    assert proof["rescan"]["found"] == 0 and proof["persons_found"] == 1 and proof["n_persons"] == 1
    assert proof["exports_deleted"] == ["with-her"] and store.exists("exports", "without-her", "vectors.npy")
    assert not store.list_files("exports", "with-her")
    assert verify_users(store, [ERIKA]).traces == () and verify_users(store, [MAX]).traces != (), "a scan that finds nobody would prove nothing"


def test_everything_is_left_of_the_others(store):
    shown, others = released_rows(store), {table: live_rows(store, table) for table in TABLES.values()}
    versions = {table.name: store.snapshot(table.name).version for table in PERSONAL}
    old = {(name, version): store.snapshot(name, version).rows() for name, last in versions.items() for version in range(last + 1)}
    erase(store, [ERIKA])
    assert released_rows(store) == without(shown, ERIKA), "every epoch, bit for bit"
    for table, rows in others.items():
        expected = [] if table in (ITEM_PAIRS, SEEN_ITEMS) else [row for row in rows if ERIKA not in row]
        if table.name != "releases":
            assert live_rows(store, table) == expected, table.name
    for (name, version), n_rows in old.items():
        snapshot = store.snapshot(name, version)
        assert store.sizes(snapshot.uris()) == [file.size for file in snapshot.files], f"version {version} of {name} can be read"
        assert snapshot.rows() <= n_rows
    texts = [store.read_bytes(store.path("runs", "r1.json")), store.read_bytes(store.path("audits", "january0", "index.html"))]
    assert all(MAX.encode() in text and b"(erased)" in text for text in texts) and json.loads(texts[0])["n"] == 17


def test_readers_pointer_rollback_and_numbers_of_users(store):
    before = releases(store)
    proof = erase(store, [ERIKA])
    moves = releases(store)
    assert [{**move, "n_users": 0} for move in moves] == [{**move, "n_users": 0} for move in before], "no move is added, none moves"
    assert [move["n_users"] for move in moves] == [3, 4, 3, 3, 0] and proof["moves_corrected"] == 5
    table = open_table(store.uri)
    assert (table.as_of, table.n_users) == ("2022-03-01", 0), "a release of her alone is a release of nobody"
    rollback(store, epoch=2)
    assert open_table(store.uri).n_users == 4 and ERIKA not in open_table(store.uri).to_numpy()[0]
    candidate = store.snapshot(USER_EMBEDDINGS.name).where(model_id=OTHER_MODEL)
    assert candidate.rows() == 4 and store.committed(USER_EMBEDDINGS.name, "candidate", ({"as_of": "2022-02-01", "model_id": OTHER_MODEL},))
    vacuum(store, keep_days=0)
    assert released_rows(store)[2] and places_of(store.root, ERIKA) == set()


def test_staged_runs_go_as_a_whole_and_manifests_follow(store):
    erase(store, [ERIKA])
    assert store.read_manifest(USER_EMBEDDINGS.name, "staged00") is None
    assert not [entry for entry in store.list_files("tables", USER_EMBEDDINGS.name, recursive=True) if "staged00" in entry.path]
    for table in PERSONAL:
        live = {file.path: (file.size, file.rows) for file in store.snapshot(table.name).files}
        for run_key in {file.run_key for file in store.snapshot(table.name).files}:
            manifest = store.read_manifest(table.name, run_key)
            assert {file.path: (file.size, file.rows) for file in manifest.files if file.path in live}.items() <= live.items()
    assert store.read_manifest("user_states", "s" * 16).figures["users"] == 1
    assert store.last_run_key(EVENTS.name) == "g" * 16, "or the whole log would be read again"
    month = store.snapshot(BAGS.name).where(period="2022-02")
    assert [file.rows for file in month.files] == [0], "a month that was counted stays counted"
    assert store.snapshot(QUARANTINE.name).rows() == 1


def test_the_proof_names_nobody_and_says_what_remains(store):
    proof = erase(store, [ERIKA, "nobody-by-this-name"])
    assert proofs(store) == [proof["erasure"]] and read_proof(store, proof["erasure"]) == proof
    assert ERIKA not in json.dumps(proof) and set(proof["persons"]) == set(listed(store)) and len(proof["persons"]) == 2
    assert proof["n_persons"] == 2 and proof["persons_found"] == 1
    told = proof["tables"]["user_embeddings"]
    assert told["rows_removed"] == 6 and told["version_after"] == told["version_before"] + 1 and told["bytes_before"] > told["bytes_after"]
    assert proof["tables"]["item_pairs"]["rows_removed"] == 1, "pairs are made from all users together: none can be taken out alone"
    assert any("weights" in sentence for sentence in proof["remains"])
    assert verify(store, proof["erasure"]).traces == ()
    assert erase(store, [MAX])["tables"]["user_embeddings"]["rows_removed"] == 4, "and the next one, on what is left"
    assert places_of(store.root, MAX) | places_of(store.root, ERIKA) == set()


def test_a_plan_changes_nothing(store):
    before = {entry.path: entry.modified for entry in store.list_files(recursive=True)}
    found = plan(store, [ERIKA, "nobody-by-this-name"])
    assert found["tables"]["user_embeddings"] == {"files": 6, "rows": 6} and found["exports"] == ["with-her"]
    assert found["not_found"] == ["nobody-by-this-name"]
    assert {entry.path: entry.modified for entry in store.list_files(recursive=True)} == before


def test_whom_nobody_knows_is_suppressed_all_the_same(store):
    contents = {table.name: live_rows(store, table) for table in TABLES.values()}
    proof = erase(store, [" nobody-by-this-name "])
    assert proof["persons_found"] == 0 and "nobody-by-this-name" in suppressed(store)
    assert {table.name: live_rows(store, table) for table in TABLES.values()} == contents, "pairs included"


def test_again_is_nothing_to_do(store):
    erase(store, [ERIKA])
    tables = {entry.path: entry.modified for entry in store.list_files("tables", recursive=True) if "/lease/" not in entry.path}
    again = erase(store, [ERIKA])
    assert {entry.path: entry.modified for entry in store.list_files("tables", recursive=True) if "/lease/" not in entry.path} == tables
    assert again["rescan"]["found"] == 0 and len(proofs(store)) == 2 and len(listed(store)) == 1


def test_mistakes_are_one_sentence_and_change_nothing(store, monkeypatch):
    for users in ([], [" ", ""]):
        with pytest.raises(InputError, match="at least one id"):
            erase(store, users)
    with lease(Store(store.uri), "run of 2022-05-01"), pytest.raises(StoreError, match="Expected to be the only run"):
        erase(store, [ERIKA])
    with pytest.raises(MissingInputError, match="unfinished erasure 'x'"):
        resume(store, "x")
    with pytest.raises(MissingInputError, match="the last ones are: none"):
        read_proof(store, "x")
    erase(store, [MAX])
    monkeypatch.setenv("LURM_SUPPRESSION_KEY", "another key, also long")
    with pytest.raises(LurmError, match="made with, got another"):
        erase(store, [ERIKA])
    assert places_of(store.root, ERIKA)


# ---- killed ------------------------------------------------------------------------------------------------------------------------------


def killed(built: Store, folder: Path, number: int, fault: str) -> Store:
    """A copy in which the erasure was disturbed at one operation; whoever looks now is another process."""
    store = copy_of(built, folder, lambda uri: FaultyObjects(uri, number, FAULTS[fault][0]))
    try:
        erase(store, [ERIKA])
    except (Crash, LurmError):
        pass
    held = holding_now(Store(store.uri))
    _ended.update([held.token] if held else [])  # its process is gone, this one is not
    return Store(store.uri)


def test_no_stage_runs_on_what_is_half_erased_and_it_can_be_finished_without_her_name(built, tmp_path):
    writes = writes_of(built, tmp_path / "calm")
    store = killed(built, tmp_path / "warehouse", writes[len(writes) // 2], "die_before")
    [erasure] = unfinished_erasures(store)
    with pytest.raises(StoreError, match=f"{erasure} has begun and not ended; finish it with `lurm erase --resume {erasure}`"):
        run_stages(Context(store, Config(), "2022-05-01"), ["publish"])
    shown = without(released_rows(store), ERIKA)
    proof = resume(store, erasure)
    assert proof["calls"] == 2 and proof["rescan"]["found"] == 0 and unfinished_erasures(store) == []
    assert places_of(store.root, ERIKA) == set() and released_rows(store) == shown
    with pytest.raises(MissingInputError, match="run `lurm embed-users`|Expected"):
        run_stages(Context(store, Config(), "2022-05-01"), ["publish"])


def writes_of(built: Store, folder: Path) -> list[int]:
    """Numbers of the operations of an undisturbed erasure that write; the lease's own come at the same places every time."""
    calm = copy_of(built, folder, FaultyObjects)
    erase(calm, [ERIKA])
    return [number for number, operation in enumerate(calm.objects.trace) if operation in FAULTS["die_after"][1]]


@pytest.mark.slow
@pytest.mark.parametrize("step", WALKS)
@pytest.mark.parametrize("fault", ["die_before", "die_after", "fail_before", "fail_after"])
def test_a_fault_at_any_write(tmp_path, fault, step):
    """Readers of every epoch see it as it was or as it is, never a mixture; the same call again ends where the undisturbed one did."""
    built = build(tmp_path / "built", everything=False)
    shown = released_rows(built)
    writes = writes_of(built, tmp_path / "calm")
    end = Store(str(tmp_path / "calm"))
    rows = {table: live_rows(end, table) for table in PERSONAL}
    assert released_rows(end) == without(shown, ERIKA) and len(writes) > 20
    for number in stops(writes, step, list(FAULTS).index(fault)):
        store = killed(built, tmp_path / "at", number, fault)
        for epoch, seen in released_rows(store).items():
            assert seen in (shown[epoch], without(shown, ERIKA)[epoch]), f"{fault} at {number}, epoch {epoch}"
        table = open_table(store.uri)
        assert set(table.to_numpy()[0]) in (set(USERS[:4]), set(USERS[:4]) - {ERIKA}) and table.n_users == len(table.to_numpy()[0])
        erase(store, [ERIKA])
        assert places_of(store.root, ERIKA) == set() and released_rows(store) == without(shown, ERIKA), f"{fault} at {number}"
        assert {table: live_rows(store, table) for table in PERSONAL} == rows and unfinished_erasures(store) == []
        assert [move["n_users"] for move in releases(store)] == [3, 4, 3, 3]
        shutil.rmtree(store.root)


def test_anna_is_still_there(built):
    """The other tests copied what they erased from."""
    assert ANNA in str(released_rows(built)) and len(places_of(built.root, ERIKA)) > 20
