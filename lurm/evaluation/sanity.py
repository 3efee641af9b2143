"""The first figure on real users: labels read off frozen embeddings, beside a well-tuned TF-IDF of the same history.

    python -m lurm.evaluation.sanity --events events.parquet --items items.parquet --users users.parquet \\
        --embeddings embeddings.parquet --as-of 2022-01-01

In: Parquet files or folders. events: user_id, item_id, timestamp; items: item_id, title; users: user_id and label columns; embeddings:
user_id, embedding (list of float32, of events before --as-of). Out: a Markdown table, one row a label, no row of a person. Users count if
`--where` holds, if they have `--min-events` events before `--as-of` and if they have an embedding.

Both sides see events before --as-of, pass through the same probe (`lurm.evaluation.probe`) on the same seeded folds, and are compared
pairwise; the interval resamples users. TF-IDF: all titles of the user joined, 1-2-grams, sublinear, min_df 3, L2. The defaults are the
labels of the Amazon purchases (Berke et al. 2024). TF-IDF's vocabulary, like the embedding, is learned without labels from all users.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from lurm.errors import InputError, LurmError
from lurm.evaluation.probe import Fold, make_folds, one_scale, out_of_fold_scores

AMAZON_LABELS = ("gender=Female vs Male", "age_group=35 - 44 years,45 - 54 years,55 - 64 years,65 and older")
N_BOOTSTRAP = 2_000


@dataclass(frozen=True)
class Label:
    """Which values of a column are the positive class, and which the negative one (empty: every other value)."""

    column: str
    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """One row of the table; AUC between 0 and 1, means over folds and repeats."""

    label: Label
    n_users: int
    n_positive: int
    embedding: float
    tf_idf: float
    difference: float  # embedding minus TF-IDF
    interval: tuple[float, float]  # 95 % of the difference over resampled users


def parse_label(text: str) -> Label:
    """`column=value[,value]` against all other values, or `column=value[,value] vs value[,value]`."""
    column, equals, values = text.partition("=")
    positive, _, negative = values.partition(" vs ")
    if not (equals and column.strip() and positive.strip()):
        raise InputError(f"Expected a label as column=value[,value] and perhaps ' vs value[,value]', got {text!r}; write gender=Female.")
    sides = [tuple(value.strip() for value in side.split(",") if value.strip()) for side in (positive, negative)]
    return Label(column.strip(), *sides)


def read_documents(events_path: str, items_path: str, as_of: str) -> dict[str, list[str]]:
    """Titles of every user's events before `as_of` (exclusive, midnight UTC), in order of time; events without a title are left out."""
    moment = pa.scalar(np.datetime64(as_of, "us")).cast(pa.timestamp("us", tz="UTC"))
    events = _read(events_path, ["user_id", "item_id", "timestamp"])
    events = events.set_column(2, "timestamp", events["timestamp"].cast(moment.type))
    events = events.filter(pc.less(events["timestamp"], moment)).sort_by("timestamp")
    items = _read(items_path, ["item_id", "title"])
    place = pc.index_in(events["item_id"], items["item_id"].combine_chunks())
    titles = items["title"].take(place)
    documents: dict[str, list[str]] = {}
    for user, title in zip(events["user_id"].to_pylist(), titles.to_pylist(), strict=True):
        if title:
            documents.setdefault(user, []).append(title)
    return documents


def tf_idf(documents: Sequence[Sequence[str]]) -> sparse.csr_matrix:
    """(users, words and pairs of words) of the users' joined titles; rows have length 1."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=3, norm="l2", dtype=np.float32)
    return vectorizer.fit_transform(" ".join(titles) for titles in documents)


def compare(
    embeddings: np.ndarray, words: sparse.csr_matrix, values: Sequence[object], label: Label, seed: int, n_repeats: int = 3
) -> Comparison:
    """Probe one label with both features on the same users and folds.

    embeddings (n, width) float and words (n, vocabulary) have a row for each of `values` (n,), the label column's content.
    """
    kept, target = _classes(values, label)
    folds = make_folds(target, 5, n_repeats, seed)
    scores = [out_of_fold_scores(one_scale(features[kept]), target, folds) for features in (embeddings, words)]
    sides = [weighted_auc(target, folds, side, np.ones((1, len(target))))[0] for side in scores]
    # A user drawn twice counts twice, a user not drawn not at all: with equal draws on both sides the difference is paired.
    draws = np.random.default_rng(seed).multinomial(len(target), np.full(len(target), 1 / len(target)), N_BOOTSTRAP).astype(np.float64)
    differences = weighted_auc(target, folds, scores[0], draws) - weighted_auc(target, folds, scores[1], draws)
    low, high = np.percentile(differences, [2.5, 97.5])
    return Comparison(label, len(target), int(target.sum()), sides[0], sides[1], sides[0] - sides[1], (float(low), float(high)))


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The table, AUC x 100."""
    lines = ["| label | users | positive | embedding | TF-IDF | difference [95 %] |", "|---|---|---|---|---|---|"]
    for row in comparisons:
        others = f" vs {', '.join(row.label.negative)}" if row.label.negative else ""
        name = f"{row.label.column}: {', '.join(row.label.positive)}{others}"
        low, high = row.interval
        lines.append(
            f"| {name.replace('|', '/')} | {row.n_users} | {row.n_positive / row.n_users:.0%} | {100 * row.embedding:.1f} "
            f"| {100 * row.tf_idf:.1f} | {100 * row.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0, or 2 with one sentence on stderr."""
    parser = argparse.ArgumentParser(description="Labels read off frozen user embeddings, beside TF-IDF.")
    for name in ("events", "items", "users", "embeddings"):
        parser.add_argument(f"--{name}", required=True, help="Parquet file or folder")
    parser.add_argument("--as-of", required=True, help="YYYY-MM-DD; events before it count")
    parser.add_argument("--label", action="append", help="column=value[,value][ vs value[,value]], may be repeated")
    parser.add_argument("--where", default="home_state_available", help="boolean column of users that must hold; '' for none")
    parser.add_argument("--min-events", type=int, default=20)
    parser.add_argument("--seed", type=int, default=17)
    chosen = parser.parse_args(arguments)
    try:
        print(_report(chosen))
    except LurmError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _report(chosen: argparse.Namespace) -> str:
    began = time.perf_counter()
    labels = [parse_label(text) for text in chosen.label or AMAZON_LABELS]
    users = _read(chosen.users, ["user_id", *([chosen.where] if chosen.where else []), *dict.fromkeys(label.column for label in labels)])
    if chosen.where:
        users = users.filter(users[chosen.where])
    embedded = _read(chosen.embeddings, ["user_id", "embedding"])
    vectors = {user: place for place, user in enumerate(embedded["user_id"].to_pylist())}
    documents = read_documents(chosen.events, chosen.items, chosen.as_of)
    known = [len(documents.get(user, ())) >= chosen.min_events for user in users["user_id"].to_pylist()]
    users = users.filter(pa.array(known, pa.bool_()))
    found = [user in vectors for user in users["user_id"].to_pylist()]
    if not any(found):
        raise InputError(
            f"Expected users with {chosen.min_events} events and an embedding, got {len(users)} with events and none of them embedded; "
            f"check that both files name users alike."
        )
    users = users.filter(pa.array(found))
    ids = users["user_id"].to_pylist()
    rows = embedded["embedding"].take(pa.array([vectors[user] for user in ids])).to_pylist()
    if len({len(row) for row in rows}) != 1:
        raise InputError(f"Expected embeddings of one width, got widths {sorted({len(row) for row in rows})}; write them from one model.")
    features = np.array(rows, dtype=np.float64)
    words = tf_idf([documents[user] for user in ids])
    comparisons = [compare(features, words, users[label.column].to_pylist(), label, chosen.seed) for label in labels]
    note = (
        f"{len(ids)} users with {chosen.min_events} or more events before {chosen.as_of} ({found.count(False)} more have no embedding); "
        f"embedding of {features.shape[1]} numbers, TF-IDF of {words.shape[1]:,}; 5 folds x 3 repeats, seed {chosen.seed}, "
        f"{time.perf_counter() - began:.0f} s."
    )
    return f"{markdown(comparisons)}\n\nAUC x 100. {note}"


def _classes(values: Sequence[object], label: Label) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the two classes, and 1 for the positive and 0 for the negative ones."""
    texts = ["" if value is None else str(value).strip() for value in values]
    absent = set(label.positive + label.negative) - set(texts)
    if absent:
        raise InputError(
            f"Expected {label.column!r} to have the value {min(absent)!r}, got {', '.join(sorted(set(texts) - {''})[:12])}; mend --label."
        )
    kept = np.array([n for n, text in enumerate(texts) if text in label.positive or (text in label.negative if label.negative else text)])
    return kept, np.array([int(texts[n] in label.positive) for n in kept])


def weighted_auc(target: np.ndarray, folds: Sequence[Fold], scores: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """(draws,) mean AUC over folds where user n counts weights[draw, n] times; weights (draws, n)."""
    total, parts = np.zeros(len(weights)), np.zeros(len(weights))
    for fold, score in zip(folds, scores, strict=True):
        positive = target[fold.test] == 1
        gap = score[positive][:, None] - score[~positive][None, :]
        won = (gap > 0) + 0.5 * (gap == 0)  # (positives, negatives): the share of the pair that ranks right
        up, down = weights[:, fold.test[positive]], weights[:, fold.test[~positive]]
        pairs = up.sum(axis=1) * down.sum(axis=1)
        total += np.divide(((up @ won) * down).sum(axis=1), pairs, out=np.zeros(len(weights)), where=pairs > 0)
        parts += pairs > 0
    return total / parts


def _read(path: str, columns: list[str]) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"Expected Parquet at {path!r}, could not read it ({error}); give a file or folder of Parquet.") from None
    absent = [name for name in columns if name not in table.column_names]
    if absent:
        raise InputError(f"Expected column {absent[0]!r} in {path!r}, got {', '.join(table.column_names)}; rename it in the file.")
    return table.select(columns)


if __name__ == "__main__":
    sys.exit(main())
