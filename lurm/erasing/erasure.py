"""Erasure: persons are removed from a warehouse, physically and from every version, and do not come back.

In: ids of users. Out: the warehouse without them, and a proof, erasures/<id>.json: when, how many persons (keyed hashes only), what was
written again or deleted, and what a scan of every file found afterwards. What an erasure cannot reach is said in `REMAINS`.

A kill at any moment leaves something that the same call finishes, or `resume`, which knows the persons by their hashes: first the erasure
is written down as begun (no stage runs until it has ended) and the persons are suppressed, then go half-written files, the tables one by one,
events last, so that what was derived is always found as long as its source is, and then exports and texts. Readers see a release as it was or
as it is; one who holds an old version open may meet a missing file, and opens the table again.
"""

import json
import logging
import os
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime

from lurm import __version__
from lurm.erasing.file_erasure import delete_exports, delete_half_written, delete_work, exports_of, hide_in_texts
from lurm.erasing.log_rewriting import manifests
from lurm.erasing.persons import Persons
from lurm.erasing.suppression import BEGUN, ERASURES, hashes_of, suppress, suppression_key, unfinished_erasures
from lurm.erasing.table_erasure import empty_table, erase_from_table
from lurm.erasing.traces import PERSONAL, Scan, holding, scan
from lurm.errors import InputError, MissingInputError
from lurm.lease import Lease, lease
from lurm.releases import correct_users
from lurm.schema import ITEM_PAIRS, SEEN_ITEMS, USER_EMBEDDINGS
from lurm.store import Store

log = logging.getLogger("lurm")
FROM_ALL = (ITEM_PAIRS, SEEN_ITEMS)  # made from all users together: no row names one, none can be taken out alone
REMAINS = (
    "weights, word lists and centroids that were trained with the persons' events: training anew replaces them",
    "figures over all users in reports and records of runs, such as numbers of rows",
    "items that only these persons had: they are the company's catalogue",
    "the log outside the warehouse: the suppression list keeps the persons out of what is read, delete them there too",
    "tables, exports and joins that others have copied out of the warehouse",
    "backups, snapshots and old object versions of the storage itself, and scratch folders of other machines",
)


def erase(store: Store, users: Iterable[str], wait_seconds: float = 0.0) -> dict:
    """Remove persons from every table, version, manifest, export and record of a warehouse; returns the proof.

    An erasure of the same persons that was killed is gone on with. Raises InputError without an id, StoreError if a run holds the lease, and
    ConfigError or MissingInputError where the key of the suppression list is wrong or missing; then nothing was changed.
    """
    persons = _persons(users)
    with lease(store, "erase", wait_seconds) as held:
        hashes = hashes_of(store, persons.ids)
        return _erase(store, persons, _begun(store, hashes) or _begin(store, hashes), held)


def resume(store: Store, erasure: str, wait_seconds: float = 0.0) -> dict:
    """Finish an erasure that was killed, knowing its persons by their hashes only; returns the proof."""
    begun = unfinished_erasures(store)
    if erasure not in begun:
        raise MissingInputError(f"Expected an unfinished erasure {erasure!r} in {store.uri}, there is: {', '.join(begun) or 'none'}; look at ended "
                                "ones with `lurm erase --verify`.")
    with lease(store, "erase", wait_seconds) as held:
        record = json.loads(store.read_bytes(store.path(ERASURES, f"{erasure}{BEGUN}")))
        return _erase(store, Persons(hashes=frozenset(record["persons"]), key=suppression_key(store)), record, held)


def plan(store: Store, users: Iterable[str]) -> dict:
    """What `erase` would find: files and rows by table, exports, and the ids that no table holds. Nothing is written."""
    persons = _persons(users)
    found = {table.name: holding(store, table, persons) for table in PERSONAL}
    return {
        "tables": {name: {"files": len(one.rows), "rows": sum(one.rows.values())} for name, one in found.items()},
        "exports": exports_of(store, persons),
        "not_found": sorted(persons.ids - set().union(*(one.users for one in found.values()))),
    }


def verify(store: Store, erasure: str) -> Scan:
    """Look again for the persons of an ended erasure, by their hashes."""
    proof = read_proof(store, erasure)
    return scan(store, Persons(hashes=frozenset(proof["persons"]), key=suppression_key(store)))


def verify_users(store: Store, users: Iterable[str]) -> Scan:
    """Look for persons by their ids, down to the bytes of every file."""
    return scan(store, _persons(users))


def proofs(store: Store) -> list[str]:
    """Ids of ended erasures, oldest first."""
    names = [os.path.basename(entry.path) for entry in store.list_files(ERASURES)]
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json") and not name.endswith(BEGUN))


def read_proof(store: Store, erasure: str) -> dict:
    """The record of an ended erasure; MissingInputError if there is none of this id."""
    known = proofs(store)
    if erasure not in known:
        raise MissingInputError(f"Expected the proof {erasure!r} in {store.uri}, the last ones are: {', '.join(known[-3:]) or 'none'}; choose one.")
    return json.loads(store.read_bytes(store.path(ERASURES, f"{erasure}.json")))


def _persons(users: Iterable[str]) -> Persons:
    persons = Persons(frozenset(user.strip() for user in users if user.strip()))
    if not len(persons):
        raise InputError("Expected at least one id of a user, got none; name one with --user, or a file with one a line with --users.")
    return persons


def _erase(store: Store, persons: Persons, record: dict, held: Lease) -> dict:
    """Everything; what an earlier call of the same erasure has done is not found again, and stays counted in the record."""
    record["calls"] += 1
    _keep(store, record)
    suppress(store, record["persons"], record["erasure"])
    _count(record, "half_written_deleted", delete_half_written(store, held))
    found = {table.name: holding(store, table, persons) for table in PERSONAL}
    record["persons_found"] = max(record.get("persons_found", 0), len(set().union(*(one.users for one in found.values()))))
    for table in FROM_ALL if any(one.rows for one in found.values()) else ():
        _add(record, table.name, empty_table(store, table, record["erasure"], held))
    for table in PERSONAL:
        log.info("erase: %s, %d rows in %d files", table.name, sum(found[table.name].rows.values()), len(found[table.name].rows))
        _add(record, table.name, erase_from_table(store, table, found[table.name], persons, record["erasure"], held))
        if table is USER_EMBEDDINGS:
            rows = {run_key: manifest.rows() for run_key, manifest in manifests(store, table.name)}
            _count(record, "moves_corrected", correct_users(store, rows))
        _keep(store, record)
    _count(record, "workspaces_deleted", delete_work(store, held))
    exports, texts = delete_exports(store, persons, held), hide_in_texts(store, persons, held)
    record["exports_deleted"] = sorted({*record.get("exports_deleted", []), *exports})
    record["texts_changed"] = sorted({*record.get("texts_changed", []), *texts})
    looked_for = "ids, in every file down to its bytes" if persons.ids else "hashes, in columns, keys and words of texts"
    record |= {"rescan": {"looked_for": looked_for, **scan(store, persons).report()}, "remains": list(REMAINS)}
    _end(store, record)
    return record


# ---- the record --------------------------------------------------------------------------------------------------------------------------


def _begun(store: Store, hashes: frozenset[str]) -> dict | None:
    """The record of an unfinished erasure of the same persons."""
    for erasure in unfinished_erasures(store):
        record = json.loads(store.read_bytes(store.path(ERASURES, f"{erasure}{BEGUN}")))
        if set(record["persons"]) == hashes:
            return record
    return None


def _begin(store: Store, hashes: frozenset[str]) -> dict:
    now = datetime.now(UTC)
    return {"erasure": f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1_000:03d}-{uuid.uuid4().hex[:6]}", "code_version": __version__,
            "begun_at": now.isoformat(timespec="seconds"), "ended_at": None, "calls": 0, "n_persons": len(hashes), "hash": "HMAC-SHA-256",
            "persons": sorted(hashes), "tables": {}}


def _keep(store: Store, record: dict) -> None:
    store.check_lease()
    store.write_bytes(store.path(ERASURES, f"{record['erasure']}{BEGUN}"), json.dumps(record, indent=1).encode())


def _end(store: Store, record: dict) -> None:
    record["ended_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    store.check_lease()
    store.write_bytes(store.path(ERASURES, f"{record['erasure']}.json"), json.dumps(record, indent=1).encode())
    store.delete(store.path(ERASURES, f"{record['erasure']}{BEGUN}"))
    log.info("erase: %s has ended, %d traces found afterwards", record["erasure"], record["rescan"]["found"])


def _count(record: dict, name: str, more: int) -> None:
    record[name] = record.get(name, 0) + more


def _add(record: dict, name: str, figures: dict[str, int]) -> None:
    """What was done to a table, added to what an earlier call had done; of versions the first before and the last after."""
    done = record["tables"].setdefault(name, {})
    for figure, value in figures.items():
        if figure == "version_before":
            done.setdefault(figure, value)
        elif figure == "version_after":
            done[figure] = value
        else:
            done[figure] = done.get(figure, 0) + value
