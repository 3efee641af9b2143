"""The quality gate: what a staged table must satisfy before any reader sees it.

In: exactly the files of a manifest, never a listing. Out: a profile (a few numbers) and the list of violated limits. The checks are
plain data, so that more of them, and other severities, can be added beside these.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lurm.config import PublishSettings
from lurm.errors import StoreError
from lurm.manifest import Manifest
from lurm.schema import USER_EMBEDDINGS
from lurm.staging import walk_sorted
from lurm.store import Store

BLOCK = "block"


@dataclass(frozen=True)
class Profile:
    """One pass over the staged user embeddings."""

    rows: int
    manifest_rows: int
    null_users: int
    null_embeddings: int
    wrong_length: int
    not_finite: int  # vectors with a NaN or an infinity
    zero_vectors: int
    duplicate_users: int
    damaged_files: int  # files whose bytes are not those of the manifest
    norm_mean: float
    norm_max: float


@dataclass(frozen=True)
class Check:
    """A limit on one figure of the profile."""

    name: str
    figure: Callable[[Profile], float]
    allowed: Callable[[PublishSettings, Manifest], tuple[float, float]]  # lowest and highest value that passes
    severity: str = BLOCK


@dataclass(frozen=True)
class Finding:
    """A check that failed."""

    name: str
    severity: str
    value: float
    lowest: float
    highest: float


def _exactly(value: float) -> Callable:
    return lambda settings, manifest: (value, value)


CHECKS = (
    Check("row_count_is_that_of_the_manifest", lambda p: p.rows - p.manifest_rows, _exactly(0)),
    Check("row_count_is_that_of_the_stage", lambda p: p.rows, lambda s, m: (m.figures["users"], m.figures["users"])),
    Check("enough_users", lambda p: p.rows, lambda s, m: (max(1, s.min_users), float("inf"))),
    Check("no_damaged_files", lambda p: p.damaged_files, _exactly(0)),
    Check("no_null_users", lambda p: p.null_users, _exactly(0)),
    Check("no_null_embeddings", lambda p: p.null_embeddings, _exactly(0)),
    Check("dimension_is_that_of_the_model", lambda p: p.wrong_length, _exactly(0)),
    Check("all_numbers_finite", lambda p: p.not_finite, _exactly(0)),
    Check("share_of_zero_vectors", lambda p: p.zero_vectors / max(1, p.rows), lambda s, m: (0, s.max_zero_share)),
    Check("no_duplicate_users", lambda p: p.duplicate_users, _exactly(0)),
)


def audit(profile: Profile, manifest: Manifest, settings: PublishSettings) -> list[Finding]:
    """The checks that fail, in the order of CHECKS."""
    findings = []
    for check in CHECKS:
        value, (lowest, highest) = check.figure(profile), check.allowed(settings, manifest)
        if not lowest <= value <= highest:
            findings.append(Finding(check.name, check.severity, float(value), float(lowest), float(highest)))
    return findings


def digest(profile: Profile, findings: list[Finding]) -> str:
    """Names the outcome of an audit; it goes into the commit and the release."""
    text = json.dumps([asdict(profile), [asdict(finding) for finding in findings]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def profile_embeddings(store: Store, manifest: Manifest) -> Profile:
    """Read every file of the manifest once (one file in memory at a time), then walk the users of all files to find duplicates."""
    length = int(manifest.figures["n_anchors"]) * int(manifest.figures["dim"])
    totals = dict.fromkeys(("rows", "null_users", "null_embeddings", "wrong_length", "not_finite", "zero_vectors", "damaged_files"), 0)
    norm_sum, norm_max = 0.0, 0.0
    users: list[pa.ChunkedArray] = []
    for file in manifest.files:
        path = store.path("tables", manifest.table, *file.path.split("/"))
        try:
            data = store.read_bytes(path)
        except OSError as error:
            raise StoreError(f"Expected the staged file {file.path}, could not read it ({error}); run `lurm embed-users` again.") from None
        if hashlib.sha256(data).hexdigest() != file.sha256:
            totals["damaged_files"] += 1
            continue
        table = pq.read_table(pa.BufferReader(data), partitioning=None).select(USER_EMBEDDINGS.data_schema.names)
        totals["rows"] += table.num_rows
        totals["null_users"] += table.column("user_id").null_count
        users.append(table.column("user_id"))
        for chunk in table.column("embedding").chunks:
            totals["null_embeddings"] += chunk.null_count
            lengths = np.diff(chunk.offsets.to_numpy())
            fits = lengths == length
            totals["wrong_length"] += int((~fits).sum()) - chunk.null_count
            whole = chunk.filter(pa.array(fits)).flatten()
            if whole.null_count:  # a hole in a vector counts like a NaN
                whole = whole.fill_null(np.nan)
            norms = np.linalg.norm(whole.to_numpy(zero_copy_only=False).reshape(-1, length), axis=1)
            finite = np.isfinite(norms)
            totals["not_finite"] += int((~finite).sum())
            totals["zero_vectors"] += int((norms == 0).sum())
            norm_sum += float(norms[finite].sum())
            norm_max = max(norm_max, float(norms[finite].max(initial=0)))
    counted = max(1, totals["rows"] - totals["not_finite"] - totals["wrong_length"])
    return Profile(
        manifest_rows=manifest.rows(), duplicate_users=_duplicates(users), norm_mean=norm_sum / counted, norm_max=norm_max, **totals
    )


def _duplicates(users: list[pa.ChunkedArray]) -> int:
    """Rows whose user has another row; each file is sorted by user (an unsorted one counts as it is, after sorting)."""
    streams = []
    for column in users:
        names = column.drop_null().combine_chunks()
        if len(names):
            table = pa.table({"user_id": names}).sort_by("user_id").combine_chunks()
            streams.append(iter(table.to_batches(max_chunksize=65_536)))
    duplicates, last = 0, None
    for pieces in walk_sorted(streams, "user_id"):
        names = np.concatenate([batch.column("user_id").to_numpy(zero_copy_only=False) for _, batch in pieces])
        distinct = np.unique(names)
        duplicates += len(names) - len(distinct) + int(distinct[0] == last)  # the last user of a batch may open the next one
        last = distinct[-1]
    return duplicates
