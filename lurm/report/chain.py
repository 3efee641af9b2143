"""A release with all it was made of: the table, the chain of artifacts behind it, and the bags that were embedded.

In: a warehouse and a date. Out: `Released`, whose parts are read when they are asked for.
"""

import logging
from dataclasses import dataclass

from lurm.config import Config
from lurm.embedding_table import EmbeddingTable, open_table
from lurm.errors import MissingInputError
from lurm.lineage import Context
from lurm.manifest import Snapshot
from lurm.releases import releases
from lurm.schema import BAGS, MONTH
from lurm.store import Store

log = logging.getLogger("lurm")


@dataclass(frozen=True)
class Released:
    """What readers get at a date, and what `encoder_id -> space_id -> model_id` say of themselves."""

    store: Store
    row: dict  # of the release pointer
    history: list[dict]  # every move of the pointer, oldest first
    table: EmbeddingTable
    model: dict
    space: dict
    encoder: dict

    @property
    def as_of(self) -> str:
        return self.table.as_of

    def month_bags(self) -> tuple[Snapshot, str]:
        """The monthly bags that the release was made from, and a sentence where they are not all there any more (else empty)."""
        context = Context(self.store, Config(), self.as_of, self.table.model_id, allow_future_model=True)
        try:
            return context.bags(with_years=False).where(scale=MONTH), ""
        except MissingInputError as error:
            log.warning("the bags of this release are not as they were: %s", error)
        counted = self.store.snapshot(BAGS.name).where(space_id=self.model["space_id"], scale=MONTH, until=lambda until: until <= self.as_of)
        bags = Snapshot(counted.table, counted.version, tuple(file for file in counted.files if file.rows), counted.root)
        if not bags.files:
            raise MissingInputError(f"Expected bags of months before {self.as_of} in space {self.model['space_id']}, found none; run "
                                    "`lurm build-bags` for that date, or look at a later release.")
        return bags, f"Bags of this date are not all kept any more; counts are of {len(bags.values('period'))} months that were closed then."


def open_release(uri: str, as_of: str | None = None) -> Released:
    """What readers get, with `as_of` the newest released date that is not after it.

    Raises MissingInputError when nothing is released, StoreError when the model's chain is not in the warehouse.
    """
    table = open_table(uri, as_of)
    store = Store(uri)
    history = releases(store)
    row = next(row for row in history if row["epoch"] == table.epoch)
    model = store.artifact_info("models", table.model_id)
    space, encoder = store.artifact_info("spaces", model["space_id"]), store.artifact_info("encoders", model["encoder_id"])
    return Released(store, row, history, table, model, space, encoder)
