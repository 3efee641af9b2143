"""What the quality gate looks at before publishing: the staged table alone, against the calendar, and against the release.

In: a manifest, the bags it was made from, the release that readers have. Out: the figures that `lurm.checks.OUTPUT_CHECKS` are about;
None where there is nothing to judge.
"""

from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lurm.config import GateSettings
from lurm.drift import Drift, baseline, compare
from lurm.errors import StoreError
from lurm.lineage import Context
from lurm.manifest import Manifest, Snapshot
from lurm.periods import empty_months
from lurm.profile import RANKED, Profile, Sample, profile_embeddings
from lurm.schema import MONTH
from lurm.staging import read_files
from lurm.vectors import effective_rank, mean_cosine


def output_figures(context: Context, manifest: Manifest) -> tuple[dict, dict]:
    """Figures of the staged table, and the facts that explain them (what it was compared with)."""
    settings = context.config.gate
    profile, sample = profile_embeddings(context.store, manifest, settings.sampled_users)
    months = context.bags().where(scale=MONTH)
    facts = {"empty_months": empty_months(_users_of_months(months), context.as_of, settings.min_compared_users)}
    drift, told = _drift(context, manifest, profile, sample)
    figures = {**_alone(profile, sample, manifest, settings), **drift, "empty_months": len(facts["empty_months"]),
               "interests_used": _interests_used(context, months)}
    return figures, {**facts, **told}


def _alone(profile: Profile, sample: Sample, manifest: Manifest, settings: GateSettings) -> dict:
    """The table by itself."""
    enough = len(sample.users) >= settings.min_compared_users
    unusable, mean_anchor = manifest.figures.get("users_without_usable_events"), float(np.mean(profile.anchor_norms))
    return {
        **asdict(profile),
        "rows_missed": profile.rows - profile.manifest_rows, "users_missed": profile.rows - manifest.figures["users"],
        "zero_share": profile.zero_vectors / max(1, profile.rows),
        "coverage": profile.rows / max(1, profile.rows + unusable) if unusable is not None else None,
        "mean_cosine": mean_cosine(sample.vectors) if enough else None,
        "effective_rank": effective_rank(sample.vectors[:RANKED]) if enough else None,
        "weakest_anchor": min(profile.anchor_norms) / mean_anchor if mean_anchor > 0 else None,
    }


def _drift(context: Context, manifest: Manifest, profile: Profile, sample: Sample) -> tuple[dict, dict]:
    """Against the release, if there is one with enough users."""
    nothing = {"unreadable_releases": 0, "user_ratio": None, "lost_users": None, "same_user_cosine": None, "mean_shift": None, "norm_ratio": None,
               "same_model_overlap": None, "new_model_overlap": None}
    release, settings, model_id = baseline(context.store, context.as_of, manifest.run_key), context.config.gate, manifest.figures["model_id"]
    if release is None:
        return nothing, {"compared_with": "nothing: this is the first release"}
    told = {"compared_with": {name: release[name] for name in ("epoch", "as_of", "model_id", "table_version", "n_users")}}
    if release["n_users"] < settings.min_compared_users:
        return nothing, told
    same = release["model_id"] == model_id
    if same and (release["n_anchors"], release["dim"]) != (manifest.figures["n_anchors"], manifest.figures["dim"]):
        model_id, same = "", False  # one name and two shapes: only what needs no common space
    try:
        drift: Drift = compare(context.store, release, model_id, profile, sample, settings.min_compared_users)
    except (StoreError, OSError, pa.ArrowException) as error:
        return {**nothing, "unreadable_releases": 1}, {**told, "unreadable": str(error)}
    overlap = drift.neighbour_overlap
    figures = {**nothing, **asdict(drift), "same_model_overlap": overlap if same else None, "new_model_overlap": None if same else overlap}
    return figures, told


def _users_of_months(bags: Snapshot) -> dict[str, int]:
    counts: dict[str, int] = {}
    for file in bags.files:
        counts[file.partition["period"]] = counts.get(file.partition["period"], 0) + file.rows
    return counts


def _interests_used(context: Context, bags: Snapshot) -> float | None:
    """Share of the interests that somebody has in the newest closed month; None without such a month, or without the space itself."""
    store, bags = context.store, bags.where(period=lambda month: month < context.as_of[:7])
    if not bags.files or not store.has_artifact("spaces", context.space_id()):
        return None
    used = np.zeros(store.artifact_info("spaces", context.space_id())["n_interests"], bool)
    newest = bags.where(period=bags.values("period")[-1])
    for batch in read_files(store, newest.uris(), ["interest_ids"]):
        used[pc.unique(batch.column("interest_ids").flatten()).to_numpy()] = True
    return float(used.mean())
