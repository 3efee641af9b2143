"""The vectors of a release as they stream by: matrices of whole vectors or of one anchor, with a line of progress now and then.

In: an open table. Out: batches of user ids and their matrix; memory is one batch, whatever the table holds.
"""

import logging
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from lurm.embedding_table import EmbeddingTable

BATCH_ROWS = 8_192
EVERY_SECONDS = 10.0  # between two lines of progress

log = logging.getLogger("lurm")


def stream_vectors(table: EmbeddingTable, anchor: int | None = None, batch_rows: int = BATCH_ROWS,
                   what: str = "read") -> Iterator[tuple[pa.Array, np.ndarray]]:
    """All users in the order of the files, as (user ids (n,), vectors (n, width) float32); `what` opens the lines of progress.

    `anchor` (from 0) gives its numbers alone. Raises InputError for an anchor that is not there.
    """
    n_rows, told = 0, time.monotonic()
    for batch in table.scan(["user_id", "embedding"], batch_rows, None if anchor is None else [anchor]):
        yield batch.column("user_id"), batch.column("embedding").flatten().to_numpy().reshape(batch.num_rows, -1)
        n_rows += batch.num_rows
        if time.monotonic() - told > EVERY_SECONDS:
            told = time.monotonic()
            log.info("%s: %d of %d users", what, n_rows, table.n_users)
