"""One frozen, typed tree of settings, a section per stage.

Settings come from a TOML file and from `--set section.field=value`; what neither names keeps the default written here. Unknown
names are refused with the nearest known one. Defaults are the reading of the paper that `docs/decisions.md` argues for.
"""

import dataclasses
import difflib
import hashlib
import json
import os
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

from lurm.errors import ConfigError
from lurm.limits import check_limits

BUNDLED = Path(__file__).parent / "configs"
EVALUATION = "evaluate_"  # files of that name are of `lurm evaluate`


@dataclass(frozen=True)
class SparkSettings:
    """How Spark is started; on a cluster these usually come from spark-submit instead."""

    master: str = "local[*]"
    driver_memory: str = "4g"
    shuffle_partitions: int = 64  # at most; small data uses fewer. On a cluster about 3 x the cores
    user_buckets: int = 8  # files per period; one task embeds one bucket, so aim at 10^4 to 10^5 users a bucket
    item_buckets: int = 8
    rows_per_file: int = 1_000_000
    gpus_per_worker: float = 0.0  # > 0 asks for a GPU in the resource profile of encode-items and embed-users
    broadcast_mb: int = 64  # tables below this size are sent to every worker instead of shuffled
    in_process_mb: int = 64  # stages that read so little (all but ingest and build-pairs) do it in the calling process, without Spark; 0: never
    conf: dict[str, str] = field(default_factory=dict)  # passed to Spark as they are


@dataclass(frozen=True)
class EventsSettings:
    """Where the log is and how its columns are called."""

    path: str = ""  # file, folder, glob or URI
    format: str = "auto"  # auto, parquet, csv, jsonl, delta
    user_column: str = "user_id"
    item_column: str = "item_id"
    time_column: str = "timestamp"
    time_format: str = "auto"  # auto (timestamp, date or ISO text; numbers are seconds), s, ms, us, or a Spark pattern such as dd.MM.yyyy
    type_column: str = ""  # event type, optional
    type_weights: dict[str, int] = field(default_factory=dict)  # weight of an event type; 0 leaves it out, one not named counts 1
    deduplicate: bool = False  # exact duplicates are real in many logs; true keeps the first of each
    csv_separator: str = ","


@dataclass(frozen=True)
class ItemsSettings:
    """Where the catalogue is and how its columns are called."""

    path: str = ""
    format: str = "auto"
    item_column: str = "item_id"
    title_column: str = "title"
    categories_column: str = ""  # optional: text or list of text
    max_title_characters: int = 2_000  # longer titles are cut (and counted)
    csv_separator: str = ","


@dataclass(frozen=True)
class PairsSettings:
    """Positive pairs of items for the encoder (models.md 1.1)."""

    beta_days: float = 5.0  # two events less than this apart make a pair
    max_pairs: int = 2_000_000
    max_pairs_per_user: int = 512
    max_events_per_user: int = 2_000  # a seeded sample of longer lives, taken in runs of neighbours


@dataclass(frozen=True)
class EncoderSettings:
    """Item encoder (equations 1-3)."""

    tokenizer: str = "words"  # words: lower-cased words, CJK characters one by one; subwords: byte-pair encoding, for any script
    vocabulary_size: int = 100_000
    min_frequency: int = 2  # of a word in the titles of the items seen
    length_percentile: float = 95.0  # titles are cut at the length that covers this share
    dim: int = 128
    temperature: float = 0.1
    batch_size: int = 1_024
    learning_rate: float = 1e-3
    epochs: int = 3
    max_steps: int = 4_000
    held_out_share: float = 0.02
    evaluate_every: int = 100
    patience: int = 5
    checkpoint_every: int = 200
    device: str = "auto"  # auto, cpu, cuda
    precision: str = "auto"  # auto, float32, bfloat16
    processes: int = 1  # more than one: started by Spark's TorchDistributor; or run the stage under torchrun


@dataclass(frozen=True)
class InterestsSettings:
    """K-means over item embeddings."""

    n_interests: int = 0  # 0 derives D from the catalogue and the users, see lurm.interests.derive_n_interests
    max_interests: int = 100_000
    items_per_interest: int = 300
    pairs_per_interest: int = 50  # distinct (user, item) pairs an interest must be able to count on
    max_sample: int = 1_000_000
    n_iterations: int = 20  # at most; 0: what the start finds, which in two levels is nearly as good and many times quicker
    backend: str = "auto"  # auto, faiss, torch, numpy, two-level (many interests on a CPU)
    device: str = "auto"
    processes: int = 1


@dataclass(frozen=True)
class SmenSettings:
    """SMEN, its head, its loss and its training (equations 4-9)."""

    n_anchors: int = 10
    dim: int = 128
    scales: str = "month+year"  # month+year, month, year
    year_blocks: str = "calendar"  # calendar: years as in the calendar; rolling: twelve months counted back from the end of the window
    shared_gru: bool = True  # one GRU for both scales; anchors always share
    memory: bool = True  # the last anchor holds what a whole life adds up to; false: all anchors are the paper's (docs/decisions.md)
    activity: bool = True  # the last ten numbers of the memory say how often and how recently; false: all are of interests
    start_from_centroids: bool = True  # We starts at the interests' centroids (docs/decisions.md)
    temperature: float = 0.1
    learning_rate: float = 1e-3
    batch_size: int = 256
    max_steps: int = 600
    held_out_share: float = 0.1
    max_held_out_users: int = 1_024
    evaluate_every: int = 25
    patience: int = 4
    checkpoint_every: int = 50
    min_window_months: int = 3
    min_window_share: float = 0.2  # of the user's active span
    disjoint_share: float = 0.5
    shuffle_users: int = 8_192  # users held in the shuffling buffer: the bound on memory
    max_users: int = 2_000_000  # trained on a seeded sample of users when there are more
    sparse_gradients: str = "auto"  # auto: sparse above 20,000 interests; on, off
    min_effective_rank: float = 1.5  # below it training is called collapsed
    device: str = "auto"
    precision: str = "auto"
    processes: int = 1


@dataclass(frozen=True)
class EmbedSettings:
    """Inference over all users."""

    batch_size: int = 1_024
    device: str = "auto"
    keep_states: bool = True  # keep where the GRU stands after the last closed month: 10 KB a user, and a day costs what the day brings


@dataclass(frozen=True)
class PublishSettings:
    """The release of what passed the quality gate."""

    release: bool = True  # false: commit a candidate, which `lurm release` makes the release
    align: str = "none"  # anchors, vector: turn a new model's vectors into the released space, so that models trained on these survive
    min_explained: float = 0.5  # of what differs between users in the released vectors, the least share that the turned ones must have too


@dataclass(frozen=True)
class GateSettings:
    """Limits of the quality gate before publishing (lurm.checks); two of one kind are where it warns and where it blocks."""

    min_users: int = 1
    max_zero_share: float = 0.01
    min_coverage: float = 0.5  # users embedded, of those with events
    usual_coverage: float = 0.9
    max_mean_cosine: float = 0.98  # of two users
    min_effective_rank: float = 1.5
    min_anchor_share: float = 0.001  # mean norm of the weakest anchor over that of all
    min_interests_used: float = 0.05
    min_user_ratio: float = 0.7  # the rest is measured against the release
    max_user_ratio: float = 3.0
    max_lost_users: float = 0.2
    usual_lost_users: float = 0.01
    min_same_user_cosine: float = 0.5  # under one model; a month of the demo has 0.98, half a year 0.94
    usual_same_user_cosine: float = 0.8
    max_mean_shift: float = 0.5  # in spreads of the released vectors
    usual_mean_shift: float = 0.25
    min_norm_ratio: float = 0.5
    max_norm_ratio: float = 2.0
    min_overlap: float = 0.1  # of the ten nearest users; a month of the demo keeps 0.8 of them
    usual_overlap: float = 0.4
    usual_new_model_overlap: float = 0.05
    sampled_users: int = 2_000  # by hash: the same users are compared in every version
    min_compared_users: int = 100  # fewer say nothing about drift, collapse or a month
    severities: dict[str, str] = field(default_factory=dict)  # of a check by name, where it is to be another: block, warn, info, off


@dataclass(frozen=True)
class InputGateSettings:
    """Limits of the gate on the log and the catalogue (lurm.checks)."""

    max_unknown_share: float = 0.9  # recent events whose item the catalogue lacks: above it the catalogue is another one
    usual_unknown_share: float = 0.2
    max_quarantined_share: float = 0.5
    usual_quarantined_share: float = 0.05
    max_future_share: float = 0.001
    max_days_since_last_event: float = 7.0
    min_volume: float = 0.3  # of a day or a week, over what is usual
    max_volume: float = 3.0
    max_duplicate_share: float = 0.2
    min_events: int = 100  # in the month, week or day that is compared with; fewer say nothing
    severities: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServiceSettings:
    """What the operators of the service want to know; no result depends on it."""

    price_per_core_hour: float = 0.0  # in any currency; 0 leaves the price out of the run records


@dataclass(frozen=True)
class Config:
    """All settings of lurm."""

    seed: int = 17
    spark: SparkSettings = field(default_factory=SparkSettings)
    events: EventsSettings = field(default_factory=EventsSettings)
    items: ItemsSettings = field(default_factory=ItemsSettings)
    pairs: PairsSettings = field(default_factory=PairsSettings)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    interests: InterestsSettings = field(default_factory=InterestsSettings)
    smen: SmenSettings = field(default_factory=SmenSettings)
    embed: EmbedSettings = field(default_factory=EmbedSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    input_gate: InputGateSettings = field(default_factory=InputGateSettings)
    publish: PublishSettings = field(default_factory=PublishSettings)
    service: ServiceSettings = field(default_factory=ServiceSettings)


def bundled_names(of_evaluations: bool = False) -> list[str]:
    """The configurations of runs that come with lurm, by the name that --config takes; or those of `lurm evaluate`."""
    return sorted(entry.stem for entry in BUNDLED.glob("*.toml") if entry.stem.startswith(EVALUATION) == of_evaluations)


def load_config(path: str | None = None, overrides: typing.Sequence[str] = ()) -> Config:
    """Read settings from a TOML file (a path, or the name of a bundled one such as `demo`) and apply `section.field=value` overrides.

    Raises ConfigError for a missing file, broken TOML, an unknown name (with the nearest known one), a value of the wrong type or one
    outside the limits of `lurm.limits`.
    """
    tree = read_toml(path, bundled_names()) if path else {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set expects section.field=value, got {override!r}; write for example --set smen.max_steps=200.")
        _set(tree, name.strip(), text.strip())
    config = _build(Config, tree, "")
    check_limits(to_dict(config))
    return config


def fingerprint(*parts: object) -> str:
    """16 hexadecimal digits that name any tree of plain data and dataclasses; equal trees have equal names."""
    text = json.dumps([_plain(part) for part in parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_dict(settings: object) -> dict:
    """A section, or the whole tree, as plain data for JSON."""
    return dataclasses.asdict(settings)


def _plain(part):
    return dataclasses.asdict(part) if dataclasses.is_dataclass(part) else part


def read_toml(path: str, known: typing.Sequence[str], what: str = "a configuration file") -> dict:
    """A TOML file, by its path or the name of a bundled one; raises ConfigError, which lists the `known` names, if it cannot be read."""
    bundled = BUNDLED / f"{path}.toml"
    file = bundled if bundled.exists() and not os.path.isfile(path) else Path(path)
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"Expected {what} at {path!r}, found none; give a path to a TOML file or one of: {', '.join(known)}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"Expected TOML in {path!r}, could not read it ({error}); mend the file.") from None


def _set(tree: dict, name: str, text: str) -> None:
    *sections, leaf = name.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {name}: {section!r} is a value, not a section; write section.field=value.")
    tree[leaf] = _Text(text)


class _Text(str):
    """A value from the command line: text whose type the field decides."""


def _build(cls, tree: object, prefix: str):
    if not isinstance(tree, dict):
        raise ConfigError(f"Expected a section at {prefix.rstrip('.')!r}, got {tree!r}; write [{prefix.rstrip('.')}] with fields below it.")
    hints = typing.get_type_hints(cls)
    for name in tree:
        if name not in hints:
            raise ConfigError(f"Unknown setting {prefix + name!r}; {_did_you_mean(name, hints, prefix)}")
    values = {}
    for name, value in tree.items():
        hint = hints[name]
        values[name] = _build(hint, value, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else _coerce(value, hint, prefix + name)
    return cls(**values)


def _did_you_mean(name: str, hints: dict, prefix: str) -> str:
    near = difflib.get_close_matches(name, hints, n=1, cutoff=0.5)
    if near:
        return f"did you mean {prefix + near[0]!r}?"
    return f"known here: {', '.join(sorted(prefix + hint for hint in hints))}."


def _coerce(value, hint, name: str):
    wrong = ConfigError(f"Setting {name!r} expects {_type_name(hint)}, got {str(value)!r}; mend its value.")
    if typing.get_origin(hint) is dict:
        return _coerce_mapping(value, typing.get_args(hint)[1], name, wrong)
    if isinstance(value, _Text):
        text = str(value)
        if hint is bool:
            if text.lower() not in ("true", "false"):
                raise wrong
            return text.lower() == "true"
        try:
            return hint(text.replace("_", "")) if hint in (int, float) else text
        except ValueError:
            raise wrong from None
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise wrong
    return value


def _coerce_mapping(value, item_type, name: str, wrong: ConfigError) -> dict:
    if isinstance(value, _Text):  # --set events.type_weights=click:1,buy:3
        pairs = [part.split(":", 1) for part in value.split(",") if part]
        if any(len(pair) != 2 for pair in pairs):
            raise wrong
        value = {key: _Text(text) for key, text in pairs}
    if not isinstance(value, dict):
        raise wrong
    return {key: _coerce(item, item_type, f"{name}.{key}") for key, item in value.items()}


def _type_name(hint) -> str:
    if isinstance(hint, types.GenericAlias):
        return "a table of key = value"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]
