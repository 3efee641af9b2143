"""Comparison of two tables of user embeddings: what changes for a consumer who goes on from one to the other.

In: two tables, each a release, a candidate or a model at a date. Out: one tree of plain data: users who come and go, how many of a user's
nearest users stay (over all users and by the least stable ones), norms overall and by anchor, effective rank, how far users moved where
both tables are in one space, what aligning would give where they are not, and what a probe reads off each. Rows are joined by user.

All users are counted (8 bytes each in memory); vectors are those of a sample by hash, the same users whenever and wherever it is asked.
"""

import logging
from collections.abc import Mapping

import numpy as np

from lurm.alignment import ANCHORS, VECTOR, fit_alignment, held_out, quality
from lurm.candidates import candidates, find_candidate
from lurm.embedding_table import EmbeddingTable
from lurm.errors import InputError, MissingInputError
from lurm.pipeline import RELEASED
from lurm.profile import hash_of_users
from lurm.releases import coordinates, released, releases
from lurm.store import Store
from lurm.vectors import effective_rank, mean_shift, nearest, same_row_cosines, shared

log = logging.getLogger("lurm")
CANDIDATE = "candidate"
NEIGHBOURHOODS = (10, 100)
SAMPLED = 2_000
FEWEST = 100  # users in common; fewer say nothing of vectors
PERCENTILES = (1, 10, 50, 90)


# ---- which tables ------------------------------------------------------------------------------------------------------------------------


def choose(store: Store, before: str, now: str, as_of: str | None = None) -> tuple[dict, dict]:
    """The rows of two tables: of each name at `as_of`, or at the newest date that both have.

    A name is an epoch, the id of a model, `released` (the model of the present release) or `candidate` (the model of the newest one). Two
    epochs are what they are, whatever their dates. Raises MissingInputError with what there is, InputError for one table named twice.
    """
    history, waiting = releases(store), candidates(store)
    found = [_rows(store, history, waiting, name, as_of) for name in (before, now)]
    dates = {row["as_of"] for row in found[0]} & {row["as_of"] for row in found[1]} & ({as_of} if as_of else {row["as_of"] for row in found[0]})
    if before.isdigit() and now.isdigit() and as_of is None:
        pair = found[0][0], found[1][0]
    elif dates:
        left, right = ([row for row in rows if row["as_of"] == max(dates)][-1] for rows in found)
        pair = left, right
    else:
        have = [f"{name}: {', '.join(sorted({row['as_of'] for row in rows})[-5:])}" for name, rows in zip((before, now), found, strict=True)]
        wanted = f"both to have {as_of}" if as_of else "a date that both have"
        raise MissingInputError(f"Expected {wanted}, their newest dates are {'; '.join(have)}; publish the missing one, or name two epochs.")
    if pair[0]["run_key"] == pair[1]["run_key"]:
        raise InputError(f"Expected two different tables, {before} and {now} are both {pair[0]['model_id']} at {pair[0]['as_of']}; name another one.")
    return pair


def _rows(store: Store, history: list[dict], waiting: list[dict], name: str, as_of: str | None) -> list[dict]:
    """The tables that a name stands for, those of one date in the order in which they became it."""
    if name.isdigit():
        rows = [row for row in history if row["epoch"] == int(name)]
    elif name == CANDIDATE:
        model_id = find_candidate(store, None, as_of)["model_id"]
        rows = [row for row in waiting if row["model_id"] == model_id]
    else:
        now = released(store)
        model_id = now["model_id"] if name == RELEASED and now is not None else name
        rows = [row for row in history if row["model_id"] == model_id]
        there = {row["as_of"] for row in rows}
        rows += [row for row in waiting if row["model_id"] == model_id and row["as_of"] not in there]
    if not rows:
        known = ", ".join(dict.fromkeys(row["model_id"] for row in [*history, *waiting])) or "none"
        epochs = f"epochs 1 to {len(history)}" if history else "no epoch"
        raise MissingInputError(f"Expected an epoch, a model with a table, {RELEASED} or {CANDIDATE}, got {name!r}; {store.uri} has {epochs}, and "
                                f"tables of these models: {known}.")
    return rows


# ---- what changes ------------------------------------------------------------------------------------------------------------------------


def compare_tables(store: Store, before: EmbeddingTable, now: EmbeddingTable, n_sampled: int = SAMPLED) -> dict:
    """Everything that can be said without labels; `sampled_users` below FEWEST means that too few are in both to say more."""
    log.info("compare: counting the users of %s and %s", before, now)
    users = [_hashes(table) for table in (before, now)]
    both = np.intersect1d(*users, assume_unique=True)
    result = {
        "before": _told(store, before), "now": _told(store, now),
        "users": {"before": len(users[0]), "now": len(users[1]), "both": len(both), "lost": len(users[0]) - len(both),
                  "gained": len(users[1]) - len(both)},
        "sampled_users": min(n_sampled, len(both)),
    }
    if result["sampled_users"] < FEWEST:
        return result
    names = _names(now, both[:n_sampled])
    del users, both
    log.info("compare: reading the vectors of %d users", len(names))
    shapes = [(table.n_anchors, table.dim) for table in (before, now)]
    same_space = shapes[0] == shapes[1] and result["before"]["space"] == result["now"]["space"]
    return {**result, **compare_vectors(names, before.vectors(names), now.vectors(names), (before.n_anchors, now.n_anchors), same_space,
                                        fit=shapes[0] == shapes[1] and not same_space)}


def compare_vectors(users: np.ndarray, before: np.ndarray, now: np.ndarray, n_anchors: tuple[int, int], same_space: bool, fit: bool = False) -> dict:
    """The same from vectors of the same users, (n, d) and (n, e), n >= FEWEST; with `fit` also what a turn of one into the other would give."""
    most = [size for size in NEIGHBOURHOODS if size < len(users) - 1]
    near = [nearest(matrix, most[-1]) for matrix in (before, now)]
    neighbours = {}
    for size in most:
        stays = shared(near[0][:, :size], near[1][:, :size])
        neighbours[str(size)] = {**_spread(stays), "chance": size / (len(users) - 1)}
    parts = [np.split(matrix, count, axis=1) for matrix, count in zip((before, now), n_anchors, strict=True)]
    lengths = [np.linalg.norm(matrix, axis=1) for matrix in (before, now)]
    result = {
        "same_space": same_space, "neighbours": neighbours,
        "norms": {"before": _spread(lengths[0]), "now": _spread(lengths[1]), "ratio": _ratio(lengths[0].mean(), lengths[1].mean())},
        "effective_rank": {"before": effective_rank(before), "now": effective_rank(now)},
        "anchors": [_anchor(number, *pair, same_space) for number, pair in enumerate(zip(*parts, strict=True))] if len(set(n_anchors)) == 1 else [],
        "same_user_cosine": _spread(same_row_cosines(before, now)) if same_space else None,
        "mean_shift": mean_shift(before, now) if same_space else None,
    }
    apart = held_out(users)
    if fit and apart.any() and not apart.all():
        kinds = {ANCHORS: n_anchors[0], VECTOR: 1}
        result["if_aligned"] = {kind: _if_aligned(before, now, apart, n_parts, n_anchors[0]) for kind, n_parts in kinds.items()}
    return result


def _if_aligned(before: np.ndarray, now: np.ndarray, apart: np.ndarray, n_parts: int, n_anchors: int) -> dict:
    """How near a turn of `now` would come to `before`, for users whom it was not fitted on."""
    alignment = fit_alignment(now[~apart], before[~apart], n_parts)
    return quality(now[apart], before[apart], alignment.turn(now[apart]), n_anchors)


def _anchor(number: int, before: np.ndarray, now: np.ndarray, same_space: bool) -> dict:
    """One anchor of both; in two spaces they bear the same number and nothing else."""
    lengths = [float(np.linalg.norm(part, axis=1).mean()) for part in (before, now)]
    told = {"anchor": number, "norm_before": lengths[0], "norm_now": lengths[1], "ratio": _ratio(*lengths)}
    size = NEIGHBOURHOODS[0]
    told["neighbours"] = float(shared(nearest(before, size), nearest(now, size)).mean())
    return {**told, "same_user_cosine": float(same_row_cosines(before, now).mean())} if same_space else told


def _hashes(table: EmbeddingTable) -> np.ndarray:
    """(n,) uint64 of all users, ascending."""
    parts = [hash_of_users(batch.column("user_id")) for batch in table.scan(["user_id"], batch_rows=65_536)]
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *parts]))


def _names(table: EmbeddingTable, chosen: np.ndarray) -> np.ndarray:
    """Users with these hashes, ascending."""
    found: list[str] = []
    for batch in table.scan(["user_id"], batch_rows=65_536):
        places = np.flatnonzero(np.isin(hash_of_users(batch.column("user_id")), chosen))
        found += batch.column("user_id").take(places).to_pylist()
    return np.asarray(sorted(found), object)


def _told(store: Store, table: EmbeddingTable) -> dict:
    told = {name: getattr(table, name) for name in ("epoch", "as_of", "model_id", "version", "n_anchors", "dim", "trained_as_of")}
    return {**told, "space": coordinates(store, table.model_id)}


def _spread(values: np.ndarray) -> dict[str, float]:
    """Mean and percentiles of something of every user."""
    return {"mean": float(np.mean(values)), **{f"p{share}": float(value) for share, value in
                                               zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)}}


def _ratio(before: float, now: float) -> float | None:
    return float(now / before) if before > 0 else None


# ---- in words ----------------------------------------------------------------------------------------------------------------------------


def lines_of(result: Mapping) -> list[str]:
    """What `lurm compare` prints."""
    lines = [f"{name:<20}{_named(result[name])}" for name in ("before", "now")]
    users = result["users"]
    lines.append(f"{'users':<20}{users['before']:,} before, {users['now']:,} now; {users['both']:,} in both, {users['lost']:,} lost, "
                 f"{users['gained']:,} gained")
    if result["sampled_users"] < FEWEST:
        return [*lines, f"{'vectors':<20}not compared: fewer than {FEWEST} users are in both"]
    lines.append(f"{'sample':<20}{result['sampled_users']:,} users by hash; neighbours are sought among them")
    for size, kept in result["neighbours"].items():
        lines.append(f"{f'nearest {size} kept':<20}{kept['mean']:.3f} (chance {kept['chance']:.3f})   {_percentiles(kept)}")
    if result["same_user_cosine"] is not None:
        cosine = result["same_user_cosine"]
        lines.append(f"{'same user, cosine':<20}{cosine['mean']:.3f}   {_percentiles(cosine)}")
        lines.append(f"{'mean moved by':<20}{result['mean_shift']:.3f} spreads")
    norms, rank = result["norms"], result["effective_rank"]
    lines.append(f"{'norms':<20}{norms['before']['mean']:.3f} -> {norms['now']['mean']:.3f}")
    lines.append(f"{'effective rank':<20}{rank['before']:.1f} -> {rank['now']:.1f}")
    for anchor in result["anchors"]:
        cosine = f", cosine {anchor['same_user_cosine']:.3f}" if "same_user_cosine" in anchor else ""
        lines.append(f"{'  anchor {}'.format(anchor['anchor']):<20}norm {anchor['norm_before']:.3f} -> {anchor['norm_now']:.3f}, nearest 10 kept "
                     f"{anchor['neighbours']:.3f}{cosine}")
    if not result["same_space"]:
        lines.append(f"{'space':<20}not the same: what was trained on the one cannot use the other")
    for kind, figures in result.get("if_aligned", {}).items():
        what = "each anchor turned" if kind == ANCHORS else "whole vector turned"
        lines.append(f"{'  if aligned':<20}{what}: cosine {figures['cosine']:.3f} (another user's {figures['other_cosine']:.3f}), explains "
                     f"{figures['explained']:.2f} of what differs between users (publish.align={kind})")
    for name, task in result.get("tasks", {}).items():
        difference = task["difference"]
        lines.append(f"{f'probe, {name}':<20}AUC {task['before']:.3f} -> {task['now']:.3f}, difference {difference['mean']:+.3f} "
                     f"(95 %: {difference['low']:+.3f} to {difference['high']:+.3f}; {task['users']:,} users)")
    return lines


def _named(side: Mapping) -> str:
    space = "" if side["space"] == side["model_id"] else f", aligned to {side['space']}"
    role = f"epoch {side['epoch']}" if side["epoch"] else "candidate"
    return f"{role}, {side['model_id']} at {side['as_of']}{space}"


def _percentiles(values: Mapping[str, float]) -> str:
    return ", ".join(f"{share} % of users at most {values[f'p{share}']:.2f}" for share in PERCENTILES)
