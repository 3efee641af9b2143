"""Alignment: a new model's vectors turned into the space of the vectors that readers have, so that what readers trained on these survives.

In: vectors of the same users under two models. Out: an orthogonal matrix (orthogonal Procrustes: Schoenemann, Psychometrika 1966), either
one for each anchor, with the anchors of the new model matched to those of the old one, or one for the whole vector. A turn changes no
length and no inner product of what it turns; it only says in which directions the axes point. It belongs to the new model as the artifact
alignments/<model_id>, chosen once, and every table of that model is turned by it. What two trainings disagree about no turn can mend:
`quality` says how much. Two trainings need not agree on what an anchor is for, and then only the turn of the whole vector helps; the
anchors of what is published are then mixtures of those of the model.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from lurm.candidates import table_of
from lurm.config import fingerprint
from lurm.errors import AuditError, InputError, StoreError
from lurm.lineage import Context
from lurm.manifest import DataFile, Manifest
from lurm.profile import Sample, profile_embeddings
from lurm.releases import coordinates, followed, releases
from lurm.sampling import hash_of_text
from lurm.schema import TABLES
from lurm.staging import read_files, stage_table
from lurm.store import Store
from lurm.vectors import best_rotation, same_row_cosines

log = logging.getLogger("lurm")
KIND = "alignments"
ANCHORS, VECTOR = "anchors", "vector"  # what is turned by itself
MOST_USERS = 20_000  # whose vectors are fitted and measured on
HELD_OUT_SHARE = 0.2  # of them, by hash, are measured on alone
BLOCK = 4_096
FILE = "rotations.npy"
UNUSABLE = ("damaged_files", "files_of_another_schema", "null_embeddings", "wrong_length", "not_finite")


@dataclass(frozen=True)
class Alignment:
    """How the vectors of a model are turned; part i of the result is part `parts[i]` of the model's vector times `rotations[i]`."""

    parts: np.ndarray  # (n_parts,) int64, each once: the anchors, or 0 alone for the whole vector
    rotations: np.ndarray  # (n_parts, width, width) float64, orthogonal

    def turn(self, vectors: np.ndarray) -> np.ndarray:
        """(n, n_parts * width) to the same shape, float32; products are made in float64, so lengths stay to the last digit of float32."""
        split = np.asarray(vectors, np.float64).reshape(len(vectors), *self.rotations.shape[:2])
        turned = [split[:, part] @ rotation for part, rotation in zip(self.parts, self.rotations, strict=True)]
        return np.concatenate(turned, axis=1).astype(np.float32)

    def turn_batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Rows of user_embeddings with their vectors turned; everything else stays."""
        column = batch.column("embedding")
        turned = self.turn(column.flatten().to_numpy().reshape(batch.num_rows, -1))
        offsets = pa.array(np.arange(batch.num_rows + 1, dtype=np.int32) * turned.shape[1])
        return batch.set_column(batch.schema.get_field_index("embedding"), batch.schema.field("embedding"),
                                pa.ListArray.from_arrays(offsets, pa.array(turned.reshape(-1)), type=column.type))


# ---- fitting -----------------------------------------------------------------------------------------------------------------------------


def fit_alignment(vectors: np.ndarray, targets: np.ndarray, n_parts: int) -> Alignment:
    """The turn that brings `vectors` (n, d) of a new model nearest to `targets` of an old one, row by row the same users.

    n_parts: the number of anchors, or 1 for the whole vector. Every pair of parts is fitted, and parts are matched one to one so that the
    whole residual is least (Hungarian method). Memory: one (d, d) matrix and a block of rows.
    """
    from scipy.optimize import linear_sum_assignment

    n_numbers = vectors.shape[1]
    width, cross = n_numbers // n_parts, np.zeros((n_numbers, n_numbers))
    for start in range(0, len(vectors), BLOCK):
        cross += np.asarray(vectors[start : start + BLOCK], np.float64).T @ np.asarray(targets[start : start + BLOCK], np.float64)
    cross = cross.reshape(n_parts, width, n_parts, width)
    fitted = [[best_rotation(cross[part, :, target]) for part in range(n_parts)] for target in range(n_parts)]
    gains = np.array([[gain for _, gain in row] for row in fitted])
    parts = linear_sum_assignment(gains, maximize=True)[1]
    return Alignment(parts, np.stack([fitted[target][part][0] for target, part in enumerate(parts)]))


def held_out(users: np.ndarray) -> np.ndarray:
    """(n,) bool: who is not fitted on, by a hash of the user."""
    return hash_of_text(users, seed=1) < HELD_OUT_SHARE


def quality(vectors: np.ndarray, targets: np.ndarray, turned: np.ndarray, n_anchors: int) -> dict:
    """How near `turned` is to `targets`, and how near `vectors` were; all (n, n_anchors * dim), the same users row by row.

    residual: squared distance over squared length of the targets (0: equal; 1: zero vectors were as near). explained: of what differs
    between users in the targets, the share that the turned vectors have too; 0 or less is what a constant vector would give.
    other_cosine: of a turned vector and the target of another user, the chance level of `cosine`.
    """
    targets = np.asarray(targets, np.float64)
    by_anchor = zip(*(np.split(matrix, n_anchors, axis=1) for matrix in (targets, turned)), strict=True)
    return {
        "cosine_before": float(same_row_cosines(vectors, targets).mean()), "cosine": float(same_row_cosines(turned, targets).mean()),
        "other_cosine": float(same_row_cosines(turned, np.roll(targets, 1, axis=0)).mean()),
        "residual": _residual(targets, turned), "explained": explained(targets, turned),
        "anchors": [{"residual": _residual(part, now), "explained": explained(part, now)} for part, now in by_anchor],
    }


def explained(targets: np.ndarray, turned: np.ndarray) -> float:
    """Share of the variance of `targets` around their mean that `turned` explains, both (n, d); at most 1, and 0 for a constant."""
    missed = targets - turned
    spread = np.square(targets - targets.mean(axis=0)).sum()
    return float(1 - np.square(missed - missed.mean(axis=0)).sum() / max(spread, 1e-30))


def _residual(targets: np.ndarray, turned: np.ndarray) -> float:
    return float(np.square(turned - targets).sum() / max(np.square(targets).sum(), 1e-30))


# ---- the artifact ------------------------------------------------------------------------------------------------------------------------


def alignment_id(alignment: Alignment, model_id: str, aligned_to: str) -> str:
    """Names what is done to the vectors of a model."""
    digest = hashlib.sha256(alignment.rotations.tobytes() + alignment.parts.tobytes()).hexdigest()
    return f"alignment-{fingerprint(model_id, aligned_to, digest)}"


def save_alignment(store: Store, model_id: str, alignment: Alignment, info: Mapping) -> None:
    """Keep the turn of a model as artifacts/alignments/<model_id>: rotations.npy, and info.json with its SHA-256."""
    directory = store.workspace(f"alignment-{model_id}")
    np.save(directory / FILE, alignment.rotations, allow_pickle=False)
    digest = hashlib.sha256((directory / FILE).read_bytes()).hexdigest()
    told = {"info": {**info, "model_id": model_id, "parts": alignment.parts.tolist()}, "file": FILE, "sha256": digest}
    (directory / "info.json").write_text(json.dumps(told, indent=1, sort_keys=True), encoding="utf-8")
    store.put_artifact(KIND, model_id, directory)
    for name in (FILE, "info.json"):
        (directory / name).unlink()
    directory.rmdir()


def load_alignment(store: Store, model_id: str) -> Alignment:
    """The turn of a model; raises StoreError if there is none, or if it is not the one that was written."""
    directory = store.get_artifact(KIND, model_id)
    told, data = json.loads((Path(directory) / "info.json").read_text(encoding="utf-8")), Path(directory) / FILE
    if not data.exists() or hashlib.sha256(data.read_bytes()).hexdigest() != told["sha256"]:
        raise StoreError(f"Expected the rotations that {KIND}/{model_id}/info.json describes, found another file or none; restore it from a backup: "
                         "the tables of this model were turned by it.")
    return Alignment(np.asarray(told["info"]["parts"], np.int64), np.load(data, allow_pickle=False))


# ---- publishing --------------------------------------------------------------------------------------------------------------------------


def aligned(context: Context, manifest: Manifest) -> Manifest:
    """The manifest of the same rows, turned into the space of the release that a table of this date goes on from.

    The turn is fitted here and kept, if the model has none yet. `manifest` comes back as it is where it is turned already, and where there
    is nothing to align to: no release, a model that has been released as it is, staged files that the gate refuses by its contract. Turned
    files are staged before the turn is kept, so whoever finds it finds them; a kill in between is mended by running again.
    Raises InputError for too few common users or another shape, and AuditError for a turn that explains less than publish.min_explained.
    """
    store, model_id = context.store, manifest.figures["model_id"]
    old = None if "alignment_id" in manifest.figures else _to_align_to(releases(store), context.as_of, model_id)
    if old is None:
        return manifest
    profile, sample = profile_embeddings(store, manifest, MOST_USERS)
    if profile.rows == 0 or any(getattr(profile, name) for name in UNUSABLE):
        return manifest
    alignment, info = _fitted(context, manifest, old, sample)
    run_key = context.embed_key(info["alignment_id"])
    turned = store.staged(manifest.table, run_key)
    if turned is None:
        files = turn_files(store, manifest, alignment, run_key)
        figures = {**manifest.figures, **told_of(info, manifest.figures.get("trained_as_of"))}
        turned = replace(manifest, run_key=run_key, files=files, figures=figures)
        store.write_manifest(turned)
    save_alignment(store, model_id, alignment, info)
    return turned


def told_of(info: Mapping, trained_as_of: str | None) -> dict:
    """What a manifest says of vectors that were turned: into whose space, by what, and since when they know the world."""
    return {"aligned_to": info["aligned_to"], "alignment_id": info["alignment_id"], "trained_as_of": max(trained_as_of or "", info["as_of"])}


def turn_files(store: Store, manifest: Manifest, alignment: Alignment, run_key: str) -> tuple[DataFile, ...]:
    """Stage the files of a manifest once more, turned, under another run key: one file a file, so memory is one file's rows."""
    table, turned = TABLES[manifest.table], []
    for number, file in enumerate(manifest.files, 1):
        uri = store.path("tables", manifest.table, *file.path.split("/"))
        batches = [alignment.turn_batch(batch) for batch in read_files(store, [uri], table.data_schema.names, BLOCK)]
        turned.append(stage_table(store, table, run_key, file.partition, pa.Table.from_batches(batches, table.data_schema)))
        log.info("publish: %d of %d files turned", number, len(manifest.files))
    return tuple(turned)


def _to_align_to(history: list[dict], as_of: str, model_id: str) -> dict | None:
    """The release to fit on: of the model that a table of this date goes on from, at the same date, else the newest one before it."""
    now = followed(history, as_of)
    if now is None or any(row["model_id"] == model_id for row in history):
        return None
    rows = [row for row in history if row["model_id"] == now["model_id"] and row["as_of"] <= as_of]
    return max(rows, key=lambda row: (row["as_of"], row["epoch"]))


def _fitted(context: Context, manifest: Manifest, old: dict, sample: Sample) -> tuple[Alignment, dict]:
    """The turn and what is kept of it. Nothing in it names a user."""
    store, settings, fewest = context.store, context.config.publish, context.config.gate.min_compared_users
    shapes = [f"{what['n_anchors']} anchors x {what['dim']}" for what in (old, manifest.figures)]
    if shapes[0] != shapes[1]:
        raise InputError(f"Expected a model of {shapes[0]} to align to the released one, got {shapes[1]}; train one of the released shape, or "
                         "publish with publish.align=none.")
    table = table_of(store, old)
    targets, known = table.vectors(sample.users, absent="mask")
    users, vectors, targets = sample.users[known], sample.vectors[known], targets[known]
    if len(users) < fewest:
        raise InputError(f"Expected at least {fewest} users (gate.min_compared_users) of both {old['model_id']} at {old['as_of']} and the new table, "
                         f"found {len(users)}; publish with publish.align=none.")
    apart = held_out(users)
    n_anchors = table.n_anchors
    alignment = fit_alignment(vectors[~apart], targets[~apart], n_anchors if settings.align == ANCHORS else 1)
    figures = quality(vectors[apart], targets[apart], alignment.turn(vectors[apart]), n_anchors)
    said = f"explains {figures['explained']:.2f} (mean cosine of a user's two vectors {figures['cosine']:.2f})"
    if not figures["explained"] >= settings.min_explained:
        what, instead = ("a turn of each anchor", "vector or none") if settings.align == ANCHORS else ("a turn of the whole vector", "none")
        raise AuditError(f"Expected {what} into the space of {old['model_id']} that explains at least {settings.min_explained:g} of what differs "
                         f"between users (publish.min_explained), it {said}; publish with publish.align={instead}.")
    log.info("publish: aligned to %s at %s: of what differs between its users, the turn %s", old["model_id"], old["as_of"], said)
    aligned_to, seen = coordinates(store, old["model_id"]), [context.as_of, old["as_of"], old["trained_as_of"] or ""]
    return alignment, {
        "alignment_id": alignment_id(alignment, manifest.figures["model_id"], aligned_to), "kind": settings.align, "aligned_to": aligned_to,
        "fitted_to": {name: old[name] for name in ("model_id", "as_of", "epoch")}, "fitted_at": context.as_of, "as_of": max(seen),
        "users": int((~apart).sum()), "held_out_users": int(apart.sum()), "figures": figures,
    }
