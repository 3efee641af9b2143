"""Garbage: files of the warehouse that no release, no reader and no run can need any more.

In: what the tables' logs and the release pointer refer to, and a listing. Out: the list of what may go, and `vacuum`, which deletes it
while it holds the lease, so that no run is there that could need it.

Needed for ever: files of the newest version of every table, and of every version of `user_embeddings` that a move of the release pointer
names, so that any epoch can be read and rolled back to. Needed for `keep_days` more: what a commit has removed since (a reader may have
pinned the version before), and what a run has staged and not committed (it may be run again, and goes on from there). A run whose staged
files are older than that counts as aborted. Tables of a model whose announced end is over (lurm.retirement) leave the newest version, and
its releases are not needed any more, unless readers follow that model. A killed vacuum leaves less garbage, and everything that is needed.
"""

import json
import logging
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from urllib.parse import unquote

from lurm.config import fingerprint
from lurm.errors import StoreError
from lurm.lease import lease
from lurm.manifest import Manifest
from lurm.objects import Entry
from lurm.releases import released, releases
from lurm.retirement import ends, mark_taken_out
from lurm.schema import TABLES, USER_EMBEDDINGS, USER_STATES
from lurm.store import Store, live_files

log = logging.getLogger("lurm")
KEEP_DAYS = 7.0
CACHES = (USER_STATES.name,)  # nobody pins an old version of these: what is replaced may go at once
HALF_WRITTEN = re.compile(r"(\.tmp|#\d+)$")  # ours, and those of delta-rs, which a kill leaves behind
MANIFESTS, WORK, ARTIFACTS, UNFINISHED = "manifests", "work", "artifacts", "half-written files"


@dataclass(frozen=True)
class Garbage:
    """A file that may go; `kind` is its table, or what else it is a part of."""

    kind: str
    path: str
    size: int


def vacuum(store: Store, keep_days: float = KEEP_DAYS, dry_run: bool = False, wait_seconds: float = 0.0) -> list[Garbage]:
    """Delete the garbage of a warehouse and return it; with `dry_run` only return it, which needs no right to write.

    Raises StoreError if a run holds the lease, and still does after `wait_seconds`.
    """
    if dry_run:
        return find_garbage(store, keep_days, time.time())
    with lease(store, "vacuum", wait_seconds) as held:
        take_out_retired(store, datetime.now(UTC).date().isoformat())
        found = find_garbage(store, keep_days, time.time())
        for garbage in found:  # the tables' files first: a manifest without them is a run that has to start again, not the other way round
            held.check()
            store.delete(garbage.path)
    log.info("vacuum: %d files, %d bytes deleted", len(found), sum(garbage.size for garbage in found))
    return found


def take_out_retired(store: Store, today: str) -> list[str]:
    """Remove the tables of models whose announced end is over from the newest version; returns these models. The present release's model
    stays. Files go as those of any replaced table do: a later vacuum deletes them, because no released version of an ended model counts."""
    now, gone = released(store), []
    for model_id, end in ends(store).items():
        if end.is_over(today) and end.taken_out_at is None and (now is None or now["model_id"] != model_id):
            if store.snapshot(USER_EMBEDDINGS.name).where(model_id=model_id).files:
                run_key = f"retired{fingerprint(end.model_id, end.announced_at)}"
                store.commit(Manifest(USER_EMBEDDINGS.name, run_key, (), ({"model_id": model_id},)))
            mark_taken_out(store, end)
            gone.append(model_id)
            log.info("vacuum: %s ended after %s, its tables are taken out", model_id, end.after)
    return gone


def find_garbage(store: Store, keep_days: float, now: float) -> list[Garbage]:
    """What could be deleted at `now` (seconds since 1970), in the order in which it may be: data files, then what speaks of them."""
    oldest_kept = now - keep_days * 86_400
    needed = {name: _live(store, name) for name in TABLES}  # all of them, before anything is called garbage
    for name in set(TABLES) - set(CACHES):
        needed[name] |= _removed_since(store, name, oldest_kept)
    found: list[Garbage] = []
    for name in TABLES:
        found += _data_files(store, name, needed[name], oldest_kept)
    for name in TABLES:
        found += _manifests(store, name, needed[name], oldest_kept)
    found += _workspaces(store, oldest_kept) + _unfinished_artifacts(store, oldest_kept)
    for folder in ("tables", "manifests", "artifacts", "runs"):
        entries = [entry for entry in store.list_files(folder, recursive=True) if HALF_WRITTEN.search(entry.path)]
        found += [Garbage(UNFINISHED, entry.path, entry.size) for entry in entries if entry.modified < oldest_kept]
    return found


def _live(store: Store, name: str) -> set[str]:
    """Files of the newest version of a table, and of all its released versions."""
    newest = store.load(name)
    if newest is None:
        if store.list_files("tables", name, "_delta_log"):
            raise StoreError(f"Expected a readable log of {name} in {store.uri}, it has files and no version; mend the table before a vacuum.")
        return set()
    gone = {end.model_id for end in ends(store).values() if end.taken_out_at is not None} if name == USER_EMBEDDINGS.name else set()
    moves = [move for move in releases(store) if move["model_id"] not in gone] if name == USER_EMBEDDINGS.name else []
    live = {file.path for file in live_files(newest, TABLES[name])}
    for version in sorted({move["table_version"] for move in moves} - {newest.version()}):
        live |= {file.path for file in live_files(store.load(name, version), TABLES[name]) if file.partition.get("model_id") not in gone}
    return live


def _data_files(store: Store, name: str, needed: set[str], oldest_kept: float) -> list[Garbage]:
    root = store.path("tables", name)
    files = [entry for entry in store.list_files("tables", name, recursive=True) if entry.path.endswith(".parquet")]
    rest = [entry for entry in files if "/_delta_log/" not in entry.path and entry.path.removeprefix(f"{root}/") not in needed]
    replaced = _committed(store, name, {_run_key(entry) for entry in rest}) if name in CACHES else set()
    return [Garbage(name, entry.path, entry.size) for entry in rest if entry.modified < oldest_kept or _run_key(entry) in replaced]


def _run_key(entry: Entry) -> str:
    return PurePosixPath(entry.path).name.partition("-")[0]


def _removed_since(store: Store, name: str, oldest_kept: float) -> set[str]:
    """Files that a commit after `oldest_kept` took out of the table."""
    removed = set()
    for entry in store.list_files("tables", name, "_delta_log"):
        if entry.path.endswith(".json") and entry.modified >= oldest_kept:
            for line in store.read_bytes(entry.path).splitlines():
                action = json.loads(line).get("remove")
                if action is not None:
                    removed.add(unquote(action["path"]))
    return removed


def _committed(store: Store, name: str, run_keys: set[str]) -> set[str]:
    """Those of some runs that the table's ledger knows."""
    delta = store.load(name)
    return set() if delta is None else {run_key for run_key in run_keys if delta.transaction_version(run_key) is not None}


def _manifests(store: Store, name: str, needed: set[str], oldest_kept: float) -> list[Garbage]:
    """Manifests of runs that no needed file is from, with what the quality gate said of them."""
    folder = store.path("manifests", name)
    runs: dict[str, list[Entry]] = {}
    for entry in store.list_files("manifests", name, recursive=True):
        runs.setdefault(re.split(r"[./]", entry.path.removeprefix(f"{folder}/"))[0], []).append(entry)
    old = {run_key for run_key, entries in runs.items() if max(entry.modified for entry in entries) < oldest_kept}
    dead = [run_key for run_key in sorted(old) if not _is_needed(store, name, run_key, needed)]
    beside = [entry for run_key in dead if name == USER_EMBEDDINGS.name for entry in store.list_files("audits", run_key, recursive=True)]
    return [Garbage(MANIFESTS, entry.path, entry.size) for entry in [*(entry for run_key in dead for entry in runs[run_key]), *beside]]


def _is_needed(store: Store, name: str, run_key: str, needed: set[str]) -> bool:
    """Whether something of a run is needed; a run that committed no file stays, because only its manifest says that it is done."""
    manifest = store.read_manifest(name, run_key)
    if manifest is None:
        return False
    return any(file.path in needed for file in manifest.files) if manifest.files else bool(_committed(store, name, {run_key}))


def _workspaces(store: Store, oldest_kept: float) -> list[Garbage]:
    """Checkpoints of trainings that nobody has gone on with."""
    if not store.is_local:  # they lie on the machine that trained, not in the warehouse
        return []
    return _groups(store.list_files("work", recursive=True), store.path("work"), 1, WORK, oldest_kept)


def _unfinished_artifacts(store: Store, oldest_kept: float) -> list[Garbage]:
    root = store.path("artifacts")
    entries = store.list_files("artifacts", recursive=True)
    finished = {entry.path.removesuffix("/info.json") for entry in entries if entry.path.endswith("/info.json")}
    return _groups([entry for entry in entries if entry.path.rpartition("/")[0] not in finished], root, 2, ARTIFACTS, oldest_kept)


def _groups(entries: Iterable[Entry], root: str, depth: int, kind: str, oldest_kept: float) -> list[Garbage]:
    """Files of those folders, `depth` below the root, in which nothing is young."""
    folders: dict[tuple, list[Entry]] = {}
    for entry in entries:
        folders.setdefault(PurePosixPath(entry.path.removeprefix(f"{root}/")).parts[:depth], []).append(entry)
    old = [members for members in folders.values() if max(member.modified for member in members) < oldest_kept]
    return [Garbage(kind, member.path, member.size) for members in old for member in members]
