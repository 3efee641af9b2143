"""publish: staged files → audit → one commit → release pointer.

In: the manifest that embed-users left. Out: a new version of `user_embeddings` and a move of the release pointer. A table that fails
the audit is never committed; a kill at any point leaves readers on the old release, and running again finishes the work.
"""

import json
import logging
from dataclasses import asdict
from datetime import UTC, datetime

from lurm.audit import BLOCK, audit, digest, profile_embeddings
from lurm.errors import AuditError, MissingInputError
from lurm.lineage import Context
from lurm.releases import move_release, released
from lurm.schema import SCHEMA_VERSION, USER_EMBEDDINGS

log = logging.getLogger("lurm")


def run(context: Context) -> dict:
    """Publish the user embeddings of this as_of and model."""
    store, settings = context.store, context.config.publish
    run_key = context.embed_key()
    manifest = store.staged(USER_EMBEDDINGS.name, run_key)
    if manifest is None:
        raise MissingInputError(f"Expected staged user embeddings of {context.as_of}, found none; run `lurm embed-users`.")
    profile = profile_embeddings(store, manifest)
    findings = audit(profile, manifest, settings)
    audit_digest = digest(profile, findings)
    report = {"profile": asdict(profile), "findings": [asdict(finding) for finding in findings], "digest": audit_digest}
    store.write_bytes(store.path("manifests", USER_EMBEDDINGS.name, f"{run_key}.audit.json"), json.dumps(report, indent=1).encode())
    blocking = [finding for finding in findings if finding.severity == BLOCK]
    if blocking:
        first = blocking[0]
        raise AuditError(
            f"The audit blocked {len(manifest.files)} staged files of {context.as_of}: {first.name} is {first.value:g}, expected "
            f"{first.lowest:g} to {first.highest:g} ({len(blocking)} of its checks failed); see manifests/{USER_EMBEDDINGS.name}/{run_key}"
            ".audit.json in the warehouse, mend the cause and run embed-users again."
        )
    published_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    metadata = {"audit_digest": audit_digest, "schema_version": str(SCHEMA_VERSION), "inputs": json.dumps(manifest.inputs)}
    version = store.commit(manifest, {"published_at": published_at}, metadata)
    figures = {"table_version": version, "users": profile.rows, "norm_mean": round(profile.norm_mean, 4), "model_id": manifest.figures["model_id"]}
    if not settings.release:
        return {**figures, "released": False}
    now = released(store)
    row = {
        "as_of": context.as_of, "model_id": manifest.figures["model_id"], "table_version": version, "n_users": profile.rows,
        "n_anchors": manifest.figures["n_anchors"], "dim": manifest.figures["dim"], "run_key": run_key, "audit_digest": audit_digest,
        # A date older than what readers follow now is history being filled in: it can be read by its date, and wakes nobody.
        "current": now is None or context.as_of >= now["as_of"],
        "reason": "publish",
    }
    move = move_release(store, row)
    return {**figures, "released": True, "epoch": move["epoch"], "current": move["current"]}
