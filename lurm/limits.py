"""What values a setting may take, where its type alone does not say: one table, one sentence for whoever steps over it.

In: the tree of settings as plain data. A path of the table is `section.field`, or `*.field` for every section that has the field.
Limits that tie two settings together stand at the end.
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from lurm.checks import BY_SECTION, SEVERITIES, Check
from lurm.errors import ConfigError
from lurm.periods import HALF_LIVES


@dataclass(frozen=True)
class Range:
    """Numbers from `lowest` to `highest`, both included unless `open_below` or `open_above`."""

    lowest: float
    highest: float = math.inf
    open_below: bool = False
    open_above: bool = False

    def allows(self, value: float) -> bool:
        above = value > self.lowest if self.open_below else value >= self.lowest
        below = value < self.highest if self.open_above else value <= self.highest
        return above and below and math.isfinite(value)  # NaN fails every comparison

    def __str__(self) -> str:
        low = f"a number {'above' if self.open_below else 'of at least'} {self.lowest:g}"
        return low + ("" if self.highest == math.inf else f" and {'below' if self.open_above else 'at most'} {self.highest:g}")


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def allows(self, value: str) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return " or ".join([", ".join(self.words[:-1]), self.words[-1]])


@dataclass(frozen=True)
class Text:
    """Text that is not empty; `length` fixes how many characters."""

    length: int = 0

    def allows(self, value: str) -> bool:
        return len(value) == self.length if self.length else bool(value.strip())

    def __str__(self) -> str:
        return f"text of exactly {self.length} character" if self.length else "text that is not empty"


COUNT, POSITIVE, SHARE = Range(1), Range(0, open_below=True), Range(0, 1)
PART = Range(0, 1, open_below=True, open_above=True)  # of a whole that must leave something on both sides
FORMATS = Choice(("auto", "parquet", "csv", "jsonl", "delta"))

LIMITS = {
    "seed": Range(0, 2**63 - 1),  # numpy's generators refuse negative seeds
    "spark.shuffle_partitions": COUNT,
    "spark.user_buckets": COUNT,
    "spark.item_buckets": COUNT,
    "spark.rows_per_file": COUNT,
    "spark.gpus_per_worker": Range(0),
    "spark.broadcast_mb": Range(0, 8_191),  # Spark broadcasts less than 8 GiB
    "spark.in_process_mb": Range(0),
    "*.format": FORMATS,
    "*.user_column": Text(),
    "*.item_column": Text(),
    "*.time_column": Text(),
    "*.time_format": Text(),
    "*.title_column": Text(),
    "*.csv_separator": Text(1),
    "items.max_title_characters": COUNT,
    "pairs.beta_days": POSITIVE,
    "pairs.max_pairs": COUNT,
    "pairs.max_pairs_per_user": COUNT,
    "pairs.max_events_per_user": Range(2),
    "encoder.tokenizer": Choice(("words", "subwords")),
    "encoder.vocabulary_size": COUNT,
    "encoder.min_frequency": COUNT,
    "encoder.length_percentile": Range(0, 100, open_below=True),
    "encoder.epochs": COUNT,
    "interests.max_interests": Range(2),
    "interests.items_per_interest": COUNT,
    "interests.pairs_per_interest": COUNT,
    "interests.max_sample": Range(2),
    "interests.n_iterations": Range(0),
    "interests.backend": Choice(("auto", "faiss", "torch", "numpy", "two-level")),
    "smen.n_anchors": COUNT,
    "smen.scales": Choice(("month+year", "month", "year")),
    "smen.year_blocks": Choice(("calendar", "rolling")),
    "smen.max_held_out_users": Range(2),
    "smen.min_window_months": COUNT,
    "smen.min_window_share": SHARE,
    "smen.disjoint_share": SHARE,
    "smen.shuffle_users": Range(2),
    "smen.max_users": Range(2),
    "smen.sparse_gradients": Choice(("auto", "on", "off")),
    "smen.min_effective_rank": Range(0),
    "embed.batch_size": COUNT,
    "encoder.batch_size": Range(2),  # a contrastive loss needs a negative
    "smen.batch_size": Range(2),
    "*.dim": COUNT,
    "*.temperature": POSITIVE,
    "*.learning_rate": POSITIVE,
    "*.max_steps": COUNT,
    "*.held_out_share": PART,
    "*.evaluate_every": COUNT,
    "*.patience": COUNT,
    "*.checkpoint_every": COUNT,
    "*.processes": COUNT,
    "*.device": Choice(("auto", "cpu", "cuda")),
    "*.precision": Choice(("auto", "float32", "bfloat16")),
    "gate.min_users": COUNT,
    "gate.max_zero_share": SHARE,
    "gate.min_coverage": SHARE,
    "gate.usual_coverage": SHARE,
    "gate.max_mean_cosine": SHARE,
    "gate.min_effective_rank": Range(0),
    "gate.min_anchor_share": SHARE,
    "gate.min_interests_used": SHARE,
    "gate.min_user_ratio": Range(0),
    "gate.max_user_ratio": POSITIVE,
    "gate.max_lost_users": SHARE,
    "gate.usual_lost_users": SHARE,
    "gate.min_same_user_cosine": Range(-1, 1),
    "gate.usual_same_user_cosine": Range(-1, 1),
    "gate.max_mean_shift": Range(0),
    "gate.usual_mean_shift": Range(0),
    "gate.min_norm_ratio": Range(0),
    "gate.max_norm_ratio": POSITIVE,
    "gate.min_overlap": SHARE,
    "gate.usual_overlap": SHARE,
    "gate.usual_new_model_overlap": SHARE,
    "gate.sampled_users": Range(2),
    "gate.min_compared_users": Range(12),  # ten neighbours, the user, and one that is none
    "publish.align": Choice(("none", "anchors", "vector")),
    "publish.min_explained": SHARE,
    "input_gate.max_unknown_share": SHARE,
    "input_gate.usual_unknown_share": SHARE,
    "input_gate.max_quarantined_share": SHARE,
    "input_gate.usual_quarantined_share": SHARE,
    "input_gate.max_future_share": SHARE,
    "input_gate.max_days_since_last_event": Range(0),
    "input_gate.min_volume": Range(0),
    "input_gate.max_volume": POSITIVE,
    "input_gate.max_duplicate_share": SHARE,
    "input_gate.min_events": COUNT,
    "service.price_per_core_hour": Range(0),
}


def check_limits(tree: Mapping) -> None:
    """Raise ConfigError for the first setting outside its limits; `tree` is the whole tree of settings as plain data."""
    for section, fields in tree.items():
        for field, value in fields.items() if isinstance(fields, Mapping) else [("", fields)]:
            name = f"{section}.{field}" if field else section
            limit = LIMITS.get(name) or LIMITS.get(f"*.{field}")
            if limit is not None and not limit.allows(value):
                raise ConfigError(f"Setting {name!r} expects {limit}, got {value!r}; mend its value.")
    for kind, weight in tree["events"]["type_weights"].items():
        if weight < 0:
            raise ConfigError(f"Setting 'events.type_weights.{kind}' expects a number of at least 0 (0 leaves the type out), got {weight}; mend it.")
    n_interests = tree["interests"]["n_interests"]
    if n_interests < 0 or n_interests == 1:
        raise ConfigError(f"Setting 'interests.n_interests' expects 0 (derive it) or at least 2, got {n_interests}; mend its value.")
    if tree["smen"]["memory"] and tree["smen"]["n_anchors"] < 2:
        raise ConfigError(f"Setting 'smen.memory' expects smen.n_anchors of at least 2, one of them the memory, got {tree['smen']['n_anchors']}; "
                          "give more anchors or set smen.memory=false.")
    encoder_dim, smen_dim = tree["encoder"]["dim"], tree["smen"]["dim"]
    n_traces = 2 * len(HALF_LIVES)
    if tree["smen"]["memory"] and tree["smen"]["activity"] and smen_dim <= n_traces:
        raise ConfigError(f"Setting 'smen.activity' expects smen.dim above {n_traces}, the numbers that it takes of the memory, got {smen_dim}; "
                          "make smen.dim larger or set smen.activity=false.")
    if tree["smen"]["start_from_centroids"] and encoder_dim != smen_dim:
        raise ConfigError(
            f"Setting 'smen.start_from_centroids' expects encoder.dim and smen.dim to be equal, got {encoder_dim} and {smen_dim}; make them equal "
            "or set smen.start_from_centroids=false."
        )
    for section, checks in BY_SECTION.items():
        known = {check.name: check for check in checks}
        for name, severity in tree[section]["severities"].items():
            _check_severity(f"{section}.severities.{name}", severity, known.get(name), sorted(known))


def _check_severity(setting: str, severity: str, check: Check | None, known: list[str]) -> None:
    if check is None:
        near = difflib.get_close_matches(setting.rpartition(".")[2], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}."
        raise ConfigError(f"Setting {setting!r} names no check of the gate; {hint}")
    if check.contract:
        raise ConfigError(f"Setting {setting!r} expects a check with a limit, this one holds what readers are promised and always blocks; remove it.")
    if severity not in SEVERITIES:
        raise ConfigError(f"Setting {setting!r} expects {Choice(SEVERITIES)}, got {severity!r}; mend its value.")
