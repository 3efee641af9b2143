"""publish: staged files → quality gate → one commit → release pointer.

In: the manifest that embed-users left. Out: a new version of `user_embeddings` and a move of the release pointer, and what the gate found,
kept in audits/<run key>/. A table that the gate blocks is never committed; a kill at any point leaves readers on the old release, and
running again finishes the work. `force_reason` of the context publishes in spite of limits, never in spite of a broken contract.
"""

import json
from datetime import UTC, datetime

from lurm.alignment import KIND, aligned
from lurm.audit import Audit, audit, keep_audit, kept_report
from lurm.checks import BLOCK, OUTPUT_CHECKS, WARN
from lurm.errors import AuditError, MissingInputError
from lurm.lineage import Context
from lurm.manifest import Manifest
from lurm.output_gate import output_figures
from lurm.releases import move_release, release_row, released, releases
from lurm.schema import SCHEMA_VERSION, USER_EMBEDDINGS
from lurm.store import Store


def run(context: Context) -> dict:
    """Publish the user embeddings of this as_of and model."""
    store, settings = context.store, context.config.publish
    manifest = store.staged(USER_EMBEDDINGS.name, context.embed_key())
    if manifest is None:
        raise MissingInputError(f"Expected staged user embeddings of {context.as_of}, found none; run `lurm embed-users`.")
    before = _published_before(context, manifest)
    if before is not None:
        return before
    if settings.align != "none":
        manifest = aligned(context, manifest)
    run_key = manifest.run_key
    figures, facts = output_figures(context, manifest)
    facts |= _alignment(store, manifest)
    verdict = audit(f"user embeddings of {context.as_of}", figures, OUTPUT_CHECKS, context.config.gate)
    forced = _forced(context, verdict)
    report = keep_audit(store, run_key, verdict, {**_candidate(manifest), **facts, "forced": forced})
    if verdict.of(BLOCK) and not forced:
        raise AuditError(_sentence(context, verdict, manifest, report))
    published_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    trained = manifest.figures.get("trained_as_of") or ""
    metadata = {"audit_digest": verdict.digest, "schema_version": str(SCHEMA_VERSION), "inputs": json.dumps(manifest.inputs)}
    metadata |= {"trained_as_of": trained, "future_model": str(trained > context.as_of).lower()}
    metadata |= {name: manifest.figures[name] for name in ("aligned_to", "alignment_id") if name in manifest.figures}
    if forced:
        metadata["forced"] = forced
    version = store.commit(manifest, {"published_at": published_at}, metadata)
    kept = {**verdict.report(), "forced": forced}
    if not settings.release:
        return {"table_version": version, **_told(kept, manifest), "released": False}
    move = move_release(store, release_row(manifest, version, verdict.digest, released(store), forced))
    return _published(move, kept, manifest)


def _published_before(context: Context, manifest: Manifest) -> dict | None:
    """What this run reported when it was released, if that was the last move of its date: the same again, without a second audit.

    The release that the audit was held against may have changed since, and a table that readers have is not to be blocked.
    """
    store = context.store
    last = next((row for row in reversed(releases(store)) if row["as_of"] == context.as_of), None)
    if last is None or last["run_key"] != manifest.run_key or not store.committed(manifest.table, manifest.run_key, manifest.replaces):
        return None
    report = kept_report(store, manifest.run_key)
    return _published(last, report, manifest) if report else None


def _published(move: dict, report: dict, manifest: Manifest) -> dict:
    return {"table_version": move["table_version"], **_told(report, manifest), "released": True, "epoch": move["epoch"], "current": move["current"]}


def _told(report: dict, manifest: Manifest) -> dict:
    """What the stage says of an audited table."""
    figures = report["figures"]
    told = {"users": figures["rows"], "norm_mean": round(float(figures["norm_mean"]), 4), "model_id": manifest.figures["model_id"]}
    if "aligned_to" in manifest.figures:
        told["aligned_to"] = manifest.figures["aligned_to"]
    warnings = [finding["name"] for finding in report["findings"] if finding["severity"] == WARN]
    return {**told, **({"warnings": warnings} if warnings else {}), **({"forced": report["forced"]} if report["forced"] else {})}


def _forced(context: Context, verdict: Audit) -> str | None:
    """The reason given for publishing a blocked table; None if it is not blocked, not forced, or breaks the contract with its readers."""
    blocking = verdict.of(BLOCK)
    return context.force_reason if blocking and not any(finding.contract for finding in blocking) else None


def _alignment(store: Store, manifest: Manifest) -> dict:
    """For the report: how the vectors were turned, and how well that fits."""
    return {"alignment": store.artifact_info(KIND, manifest.figures["model_id"])} if "alignment_id" in manifest.figures else {}


def _candidate(manifest: Manifest) -> dict:
    scope = "/".join(f"{name}={value}" for name, value in manifest.replaces[0].items())
    return {"candidate": f"tables/{manifest.table}/{scope}/{manifest.run_key}-*.parquet", "files": len(manifest.files), "users": manifest.rows()}


def _sentence(context: Context, verdict: Audit, manifest: Manifest, report: str) -> str:
    blocking = verdict.of(BLOCK)
    broken = [finding for finding in blocking if finding.contract]
    others = f" (and {', '.join(finding.name for finding in blocking[1:])})" if blocking[1:] else ""
    if broken:
        remedy = f"mend the cause and run embed-users again, --force cannot publish a table against {broken[0].name}"
    else:
        remedy = "mend the cause and run embed-users again, or say why it may be published all the same: `lurm publish --force --reason TEXT`"
    return (f"The quality gate blocked the table of {context.as_of}: {blocking[0]}{others}; the candidate is {_candidate(manifest)['candidate']}, "
            f"the report {report} (and index.html) in {context.store.uri}; {remedy}.")
