"""What one call of a stage knows, and the chain encoder_id -> space_id -> model_id that it belongs to.

Ids are fingerprints of recipe, seed, parents and the *content* of the inputs before `as_of`; so the same inputs give the same ids in
any warehouse, later events change none, and a stage that is started alone finds its parents by computing their names.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from lurm.config import Config, fingerprint, to_dict
from lurm.errors import LineageError, MissingInputError
from lurm.manifest import Snapshot
from lurm.periods import starts_before, until
from lurm.schema import MONTH
from lurm.store import Store

OPERATIONAL = ("device", "checkpoint_every", "processes")  # how a thing is computed, not what


@dataclass(frozen=True)
class Context:
    """One call of one stage: where, with which settings, for which date.

    `model_id` pins a trained chain (daily runs, backfills); without it the chain is the one trained at `as_of` itself. `spark` opens
    the session when a stage needs it. Each input table is pinned at its first use (`pins`): whatever others commit meanwhile, one call
    of a stage sees one version.
    """

    store: Store
    config: Config
    as_of: str
    model_id: str | None = None
    spark: Callable | None = field(default=None, compare=False)
    pins: dict[str, Snapshot] = field(default_factory=dict, compare=False)
    allow_future_model: bool = False  # let a pinned model be one that has seen events at or after as_of; the table then says so
    force_reason: str | None = None  # publish in spite of blocking limits, and keep this reason

    # ---- inputs, pinned --------------------------------------------------------------------------------------------------------

    def events(self) -> Snapshot:
        """The months of the log that have instants before as_of; readers must still cut the last one at as_of."""
        snapshot = self.pinned("events").where(month=lambda month: starts_before(month, self.as_of))
        if not snapshot.files:
            raise MissingInputError(f"Expected events before {self.as_of} in {self.store.uri}, found none; run `lurm ingest`, or choose a "
                                    "later --as-of.")
        return snapshot

    def items(self) -> Snapshot:
        snapshot = self.pinned("items")
        if not snapshot.files:
            raise MissingInputError(f"Expected a catalogue in {self.store.uri}, found none; run `lurm ingest` with items.path set.")
        return snapshot

    def pairs_key(self) -> str:
        return self._key("build-pairs", self.config.pairs, self.config.seed, self.as_of, self.events().digest(), self.items().digest())

    def pairs(self, table: str) -> Snapshot:
        """item_pairs or seen_items of this as_of, as build-pairs of this configuration wrote them."""
        if not self.store.committed(table, self.pairs_key(), ({"as_of": self.as_of},)):
            raise MissingInputError(f"Expected {table} of {self.as_of} for this configuration, found none; run `lurm build-pairs`.")
        return self.pinned(table).where(as_of=self.as_of)

    def embeddings(self) -> Snapshot:
        snapshot = self.pinned("item_embeddings").where(encoder_id=self.encoder_id())
        if not snapshot.files:
            raise MissingInputError(f"Expected item embeddings of encoder {self.encoder_id()}, found none; run `lurm encode-items`.")
        return snapshot

    def interests(self) -> Snapshot:
        snapshot = self.pinned("item_interests").where(space_id=self.space_id())
        if not snapshot.files:
            raise MissingInputError(f"Expected items assigned in space {self.space_id()}, found none; run `lurm assign-interests`.")
        return snapshot

    def bags(self, with_years: bool = True) -> Snapshot:
        """The bags, months and years, that count exactly the events before as_of.

        A month that was counted and found empty is a file without rows: it says that the month is done, and is no part of the result.
        """
        snapshot = self.pinned("bags").where(
            space_id=self.space_id(), period=lambda period: starts_before(period, self.as_of)
        )
        files = [file for file in snapshot.files if file.partition["until"] == until(file.partition["period"], self.as_of)]
        expected, found = set(self.events().values("month")), {file.partition["period"] for file in files}
        missing = sorted(expected - found)
        if missing:
            raise MissingInputError(f"Expected bags of {len(expected)} months before {self.as_of} in space {self.space_id()}, found none of "
                                    f"{missing[0]}; run `lurm build-bags`.")
        months = {file.partition["period"] for file in files if file.rows} & expected  # what has left the log counts no more
        periods = months | {month[:4] for month in months}
        if with_years and not periods <= found:  # a later date has closed the year: months alone would be embedded as if there were no years
            raise MissingInputError(f"Expected bags of the year {min(periods - found)} before {self.as_of} in space {self.space_id()}, found none; "
                                    "run `lurm build-bags`.")
        return Snapshot(snapshot.table, snapshot.version, tuple(file for file in files if file.rows and file.partition["period"] in periods),
                        snapshot.root)

    def closed_bags(self, until: str) -> Snapshot:
        """Those of `bags()` that lie wholly before the month of `until` (a year: before its year)."""
        return self.bags().where(period=lambda period: period < (until[:7] if len(period) == 7 else until[:4]))

    def states(self, until: str) -> Snapshot:
        """The states kept at `until`, made of exactly the closed bags before it."""
        model_id = self.trained_model_id()
        scope = {"model_id": model_id, "until": until}
        if not self.closed_bags(until).files:  # everybody is new
            return self.pinned("user_states").where(model_id="")
        if not self.store.committed("user_states", self.states_key(until), (scope,)):
            raise MissingInputError(f"Expected states of {model_id} at {until} from the bags as they are, found none; run `lurm update-states`.")
        return self.pinned("user_states").where(**scope)

    def pinned(self, table: str) -> Snapshot:
        """A table at the version at which this call looked at it first."""
        if table not in self.pins:
            self.pins[table] = self.store.snapshot(table)
        return self.pins[table]

    # ---- the chain -------------------------------------------------------------------------------------------------------------

    def encoder_id(self) -> str:
        if self.model_id:
            return self._model_info()["encoder_id"]
        return "encoder-" + self._key(
            self.config.encoder, self.config.seed, self.pairs("item_pairs").digest(), self.pairs("seen_items").digest()
        )

    def space_id(self) -> str:
        if self.model_id:
            return self._model_info()["space_id"]
        return "space-" + self._key(self.config.interests, self.config.seed, self.encoder_id(), self.pairs("seen_items").digest())

    def trained_model_id(self) -> str:
        if self.model_id:
            self._model_info()
            return self.model_id
        return "model-" + self._key(self.config.smen, self.config.seed, self.space_id(), self.as_of, self.bags().where(scale=MONTH).digest())

    def batch_key(self, stage: str, parent: str, inputs: Snapshot) -> str:
        """Run key of an incremental stage: the same inputs for the same parent are the same increment."""
        return self._key(stage, parent, inputs.digest())

    def states_key(self, until: str) -> str:
        return self._key("update-states", self.trained_model_id(), until, self.closed_bags(until).digest())

    def embed_key(self, alignment_id: str | None = None) -> str:
        """Names the embeddings of this date, turned as the model's alignment says (or as `alignment_id` does, which is not kept yet)."""
        alignment_id = alignment_id or (self.alignment() or {}).get("alignment_id")
        return self._key("embed-users", self.trained_model_id(), self.as_of, self.bags().digest(), *([alignment_id] if alignment_id else []))

    def alignment(self) -> dict | None:
        """What the turn of this model into an older model's space says of itself; None if its vectors are in a space of their own.

        Raises LineageError if the turn was fitted to vectors that have seen events at or after as_of, unless that is allowed.
        """
        model_id = self.trained_model_id()
        if not self.store.has_artifact("alignments", model_id):
            return None
        info = self.store.artifact_info("alignments", model_id)
        if info["as_of"] > self.as_of and not self.allow_future_model:
            raise LineageError(f"Expected an alignment fitted on events before {self.as_of}, that of {model_id} has seen those before "
                               f"{info['as_of']}; choose a later --as-of, or accept it with --allow-future-model.")
        return info

    def check_chain(self, info: dict, **expected: str) -> None:
        """Refuse to join artifacts of two chains."""
        for name, wanted in expected.items():
            if info.get(name) != wanted:
                raise LineageError(f"Expected an artifact of {name} {wanted}, got one of {info.get(name)}; use artifacts of one chain.")

    def _model_info(self) -> dict:
        if not self.store.has_artifact("models", self.model_id):
            known = ", ".join(self.store.list_artifacts("models")) or "none"
            raise MissingInputError(f"Expected model {self.model_id!r} in {self.store.uri}, found: {known}; pass one of these to --model.")
        info = self.store.artifact_info("models", self.model_id)
        if info["as_of"] > self.as_of and not self.allow_future_model:
            raise LineageError(f"Expected a model trained on events before {self.as_of}, {self.model_id} has seen those before {info['as_of']}; "
                               "choose an older --model or a later --as-of.")
        return info

    @staticmethod
    def _key(*parts) -> str:
        plain = []
        for part in parts:
            if hasattr(part, "__dataclass_fields__"):
                part = {name: value for name, value in to_dict(part).items() if name not in OPERATIONAL}
            plain.append(part)
        return fingerprint(*plain)
