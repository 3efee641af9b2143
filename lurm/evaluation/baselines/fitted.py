"""What several methods need of one history is made once: a small memory of the last histories, keyed by their content and by settings.

In: a `History`, a key, a function that makes the thing. Out: the thing, made at the first call. So all ablations share one item encoder and
one k-means, and all sequence models one tokenised catalogue.
"""

import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

import pyarrow as pa

from lurm.evaluation.baselines.method import History

KEPT_HISTORIES = 2
Thing = TypeVar("Thing")
_kept: "OrderedDict[str, dict[Hashable, object]]" = OrderedDict()
_digests: dict[int, tuple[weakref.ref, str]] = {}  # by identity, for Arrow tables have no hash; a table never changes


def history_key(history: History) -> str:
    """16 hexadecimal digits of the content: equal events, items and cut have equal keys."""
    parts = "\n".join([_digest(history.events), _digest(history.items), history.as_of])
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def fitted(history: History, key: Hashable, make: Callable[[], Thing]) -> Thing:
    """make() for this history and key, called once as long as the history is among the last two that were asked for."""
    name = history_key(history)
    things = _kept.setdefault(name, {})
    _kept.move_to_end(name)
    while len(_kept) > KEPT_HISTORIES:
        _kept.popitem(last=False)
    if key not in things:
        things[key] = make()
    return things[key]  # type: ignore[return-value]


def forget() -> None:
    """Empty the memory."""
    _kept.clear()


def _digest(table: pa.Table) -> str:
    place = id(table)
    known, digest = _digests.get(place, (None, ""))
    if known is None or known() is not table:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:  # written anew: the same rows give the same bytes, however they were sliced
            writer.write_table(table.combine_chunks())
        digest = hashlib.sha256(sink.getvalue()).hexdigest()
        _digests[place] = (weakref.ref(table, lambda _: _digests.pop(place, None)), digest)
    return digest
