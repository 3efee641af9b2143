"""Positive pairs for the item encoder: two different items of one user, less than beta days apart.

In: events sorted by user and time. Out: at most `max_pairs_per_user` pairs of item ids a user, drawn by a hash of seed, user and
position, so that the result does not depend on how the events were cut into batches. LURM paper, section 2.1.1.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from lurm.config import PairsSettings
from lurm.sampling import GOLDEN, mix

PAIRS = pa.schema([("left_item_id", pa.string()), ("right_item_id", pa.string()), ("order_key", pa.int64())])
DAY = 86_400_000_000  # microseconds
DRAWS = 3  # tries for a partner that is another item


def sample_pairs(batches: Iterable[pa.RecordBatch], settings: PairsSettings, seed: int) -> Iterator[pa.RecordBatch]:
    """Draw pairs from batches of user_id, user_hash (int64), item_id, timestamp (us), sorted by user_id, timestamp, item_id.

    Every event is paired with one earlier event of the last beta days. Users longer than `max_events_per_user` are handled in runs of
    that many neighbours, of whose pairs the `max_pairs_per_user` with the smallest keys survive: memory does not grow with a life.
    """
    pending: pa.Table | None = None
    position, kept = 0, None  # of the user being carried: events already handled, and their surviving pairs
    for batch in batches:
        table = pa.Table.from_batches([batch])
        pending = table if pending is None else pa.concat_tables([pending, table])
        if pending.num_rows < settings.max_events_per_user:
            continue
        pending = pending.combine_chunks()
        hashes = pending.column("user_hash").to_numpy()
        last_start = int(np.flatnonzero(np.diff(hashes, prepend=hashes[0] ^ 1))[-1])
        if last_start:  # all but the last user are complete
            yield _draw(pending.slice(0, last_start), settings, seed, position, kept)
            position, kept, pending = 0, None, pending.slice(last_start)
        while pending.num_rows > settings.max_events_per_user:  # one very long life
            run = pending.slice(0, settings.max_events_per_user)
            kept = _draw(run, settings, seed, position, kept)
            position, pending = position + run.num_rows, pending.slice(run.num_rows)
    if pending is not None and pending.num_rows:
        yield _draw(pending, settings, seed, position, kept)


def _draw(table: pa.Table, settings: PairsSettings, seed: int, position: int, kept: pa.RecordBatch | None) -> pa.RecordBatch:
    """Pairs of some whole users; the first of them may continue at `position` with the pairs `kept` so far."""
    table = table.combine_chunks()
    hashes = table.column("user_hash").to_numpy().astype(np.uint64)
    times = table.column("timestamp").cast(pa.int64()).to_numpy()
    items = table.column("item_id").to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
    users = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(hashes))))
    place = np.arange(len(hashes)) - starts[users]
    place[users == 0] += position
    # Users and times in one ascending key, so that one search finds the oldest possible partner of every event.
    span = int(times.max() - times.min()) + int(settings.beta_days * DAY) + 2
    key = users * span + (times - times.min())
    here = np.arange(len(hashes))
    run_start = here - place % settings.max_events_per_user  # runs are counted from the life's first event, wherever a batch was cut
    oldest = np.maximum(np.searchsorted(key, key - int(settings.beta_days * DAY), side="right"), np.maximum(starts[users], run_start))
    choices = here - oldest
    event = mix(hashes ^ mix(place.astype(np.uint64) + np.uint64(seed * GOLDEN % 2**64)))
    partner = np.full(len(hashes), -1)
    for draw in range(DRAWS):
        candidate = oldest + (mix(event + np.uint64(draw + 1)) % np.maximum(choices, 1).astype(np.uint64)).astype(np.int64)
        fits = (partner < 0) & (choices > 0) & (items[np.minimum(candidate, here)] != items)
        partner[fits] = candidate[fits]
    found = np.flatnonzero(partner >= 0)
    order_key = mix(event[found] ^ np.uint64(0xD1B54A32D192ED03)).view(np.int64)
    pairs = pa.table([pa.array(items[partner[found]], pa.string()), pa.array(items[found], pa.string()), pa.array(order_key)], schema=PAIRS)
    owners = users[found]
    if kept is not None:
        pairs = pa.concat_tables([pa.Table.from_batches([kept]), pairs])
        owners = np.concatenate([np.zeros(kept.num_rows, dtype=owners.dtype), owners])
    ranked = np.lexsort((pairs.column("order_key").to_numpy(), owners))
    sorted_owners = owners[ranked]
    first = np.searchsorted(sorted_owners, sorted_owners)
    chosen = ranked[np.arange(len(ranked)) - first < settings.max_pairs_per_user]
    batches = pairs.take(pa.array(chosen)).combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], PAIRS)

