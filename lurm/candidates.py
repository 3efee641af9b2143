"""Candidates: tables of user embeddings that are committed and audited, and that no move of the release pointer has ever named.

In: the newest version of `user_embeddings`, the moves. Out: rows like those of the releases, with epoch 0; a reader for those who ask for a
candidate, which nobody else gets; and the move that makes one the release. `publish.release=false` makes candidates: a new model lies
beside the released one, on the same dates, until it is compared and released, or replaced.
"""

from datetime import UTC, datetime

from lurm.audit import kept_report
from lurm.checks import BLOCK
from lurm.embedding_table import EmbeddingTable, release_files
from lurm.errors import AuditError, LineageError, MissingInputError
from lurm.manifest import Manifest
from lurm.periods import parse_as_of
from lurm.releases import move_release, release_row, released, releases
from lurm.schema import USER_EMBEDDINGS
from lurm.store import Store


def candidates(store: Store) -> list[dict]:
    """Every candidate, the oldest date first: columns of a release but the moment of a move, and `committed_at`."""
    named, rows = {row["run_key"] for row in releases(store)}, []
    snapshot = store.snapshot(USER_EMBEDDINGS.name)
    for run_key in sorted(snapshot.run_keys() - named):
        manifest = store.read_manifest(USER_EMBEDDINGS.name, run_key)
        if manifest is not None and manifest.figures.get("model_id"):  # without it nobody knows the shape of a vector
            at = next(file.partition["published_at"] for file in snapshot.files if file.run_key == run_key)
            rows.append(_row(store, manifest, snapshot.version, at))
    return sorted(rows, key=lambda row: (row["as_of"], row["committed_at"]))


def find_candidate(store: Store, model_id: str | None = None, as_of: str | None = None) -> dict:
    """The newest candidate, of a model and a date if they are named; of two models at one date it must be said which.

    Raises MissingInputError, which names the candidates there are.
    """
    everything = candidates(store)
    found = [row for row in everything if model_id in (None, row["model_id"]) and as_of in (None, row["as_of"])]
    found = [row for row in found if row["as_of"] == found[-1]["as_of"]]
    if len(found) != 1:
        wanted = " ".join(["a candidate", *([f"of {model_id}"] if model_id else []), *([f"at {as_of}"] if as_of else [])])
        there = ", ".join(f"{row['model_id']} at {row['as_of']}" for row in found or everything) or "none"
        raise MissingInputError(f"Expected {wanted} in {store.uri}, found: {there}; name one of them, or make one with publish.release=false.")
    return found[0]


def open_candidate(uri: str, model_id: str | None = None, as_of: str | None = None) -> EmbeddingTable:
    """Open a candidate for reading, as `lurm.open_table` opens a release; its epoch is 0. Pinned: what is committed later changes nothing."""
    store = Store(uri)
    return table_of(store, find_candidate(store, model_id, parse_as_of(as_of) if as_of else None))


def table_of(store: Store, row: dict) -> EmbeddingTable:
    """The table that a release or a candidate names."""
    return EmbeddingTable(store, row, release_files(store, row))


def release_candidate(store: Store, model_id: str | None = None, as_of: str | None = None) -> dict:
    """Move the pointer to a candidate, as `lurm publish` would have; returns the move. A candidate of an older date than readers follow
    becomes history: it is read by its date.

    No data is touched and nothing is measured again. Raises AuditError if the newest verdict of the quality gate is against it, and
    LineageError if its model has been aligned since, so that its vectors are not those that its later tables have.
    """
    row = find_candidate(store, model_id, as_of)
    manifest = store.read_manifest(USER_EMBEDDINGS.name, row["run_key"])
    report = kept_report(store, row["run_key"])
    blocking = [finding["name"] for finding in (report or {}).get("findings", []) if finding["severity"] == BLOCK]
    if report is None or blocking and not report["forced"]:
        why = f"the gate has blocked it since ({blocking[0]})" if blocking else "nobody has kept its audit"
        raise AuditError(f"Expected a candidate that passed the quality gate, {row['model_id']} at {row['as_of']} is not one: {why}; publish it "
                         "again with `lurm publish`, which measures it against the present release.")
    turned = store.artifact_info("alignments", row["model_id"]) if store.has_artifact("alignments", row["model_id"]) else {}
    if manifest.figures.get("alignment_id") != turned.get("alignment_id"):
        raise LineageError(f"Expected a candidate in the space of its model, {row['model_id']} at {row['as_of']} was committed before the model was "
                           f"aligned to {turned.get('aligned_to')}; embed and publish this date again.")
    return move_release(store, release_row(manifest, row["table_version"], report["digest"], released(store), report["forced"]))


def _row(store: Store, manifest: Manifest, table_version: int, published_at: str) -> dict:
    row = release_row(manifest, table_version, "", None)
    return {**row, "epoch": 0, "current": False, "reason": "candidate", "aligned_to": manifest.figures.get("aligned_to"),
            "committed_at": datetime.fromisoformat(published_at).replace(tzinfo=UTC)}
