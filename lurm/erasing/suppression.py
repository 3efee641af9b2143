"""The suppression list: who must not come back, kept as keyed hashes; and whether an erasure has been left unfinished.

In: ids. Out: suppression/list.json in the warehouse, which holds hashes and dates and names nobody. Every reading of the log obeys it, and no
stage runs while an erasure is unfinished. The key comes from LURM_SUPPRESSION_KEY, or, for a warehouse in a local folder, from the file
<warehouse>.suppression-key beside it, made once, which only its owner may read. Who has the list and not the key cannot test whether an id
he knows is on it; who has both can.
"""

import json
import os
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from lurm.erasing.persons import Persons, keyed_hash
from lurm.errors import ConfigError, MissingInputError, StoreError
from lurm.store import Store

VARIABLE, SHORTEST = "LURM_SUPPRESSION_KEY", 16
FOLDER, FILE = "suppression", "list.json"
ERASURES, BEGUN = "erasures", ".begun.json"
_CHECK = "lurm suppression list"  # its hash says which key a list was made with


def suppressed(store: Store) -> Persons:
    """Whom the list names, as hashes; nobody where there is no list, and then no key is asked for.

    Raises ConfigError for a key that the list was not made with, MissingInputError if there is a list and no key.
    """
    tree = _read(store)
    return Persons(hashes=frozenset(tree["persons"]), key=_key_of(store, tree)) if tree["persons"] else Persons()


def listed(store: Store) -> dict[str, dict]:
    """The list as it is kept: hash to since (time) and erasure (id); needs no key."""
    return _read(store)["persons"]


def hashes_of(store: Store, users: Iterable[str]) -> frozenset[str]:
    """The hashes under which the list of this warehouse keeps some ids; where there is no list yet, the key may be made now."""
    key = _key_of(store, _read(store))
    return frozenset(keyed_hash(key, user) for user in users)


def suppress(store: Store, hashes: Iterable[str], erasure: str) -> None:
    """Put persons on the list by their hashes; who is on it already stays as he is. The caller holds the lease."""
    tree = _read(store)
    news = sorted(set(hashes) - set(tree["persons"]))
    if news:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        _write(store, _key_of(store, tree), {**tree["persons"], **{name: {"since": since, "erasure": erasure} for name in news}})


def unsuppress(store: Store, users: Iterable[str]) -> int:
    """Take persons off the list, because they have consented anew; returns how many were on it. The caller holds the lease."""
    tree = _read(store)
    if not tree["persons"]:
        return 0
    key = _key_of(store, tree)
    gone = {keyed_hash(key, user) for user in users} & set(tree["persons"])
    if gone:
        _write(store, key, {name: facts for name, facts in tree["persons"].items() if name not in gone})
    return len(gone)


def suppression_key(store: Store, create: bool = False) -> bytes:
    """The key of the hashes. With `create` a file is made beside a local warehouse that has none.

    Raises ConfigError for a key of fewer than 16 characters, MissingInputError if there is none.
    """
    told = os.environ.get(VARIABLE)
    if told is not None:
        if len(told) < SHORTEST:
            raise ConfigError(f"Expected at least {SHORTEST} characters in {VARIABLE}, got {len(told)}; take 32 random ones.")
        return told.encode()
    if not store.is_local:
        raise MissingInputError(f"Expected the key of the suppression list of {store.uri} in the environment, {VARIABLE} is not set; set it to the "
                                "key of this warehouse, or for its first erasure to 32 random characters that are kept.")
    path = Path(f"{store.root}.suppression-key")
    try:
        if create and not path.exists():
            _make_key(path)
        key = path.read_bytes().strip()
    except FileNotFoundError:
        raise MissingInputError(f"Expected the key of the suppression list in {path} or in {VARIABLE}, found neither; bring back the file: without "
                                "it the list cannot be obeyed.") from None
    except OSError as error:
        raise StoreError(f"Could not read or make the key {path} ({error.strerror or error}); check rights, or set {VARIABLE}.") from None
    if len(key) < SHORTEST:
        raise ConfigError(f"Expected a key of at least {SHORTEST} characters in {path}, got {len(key)}; bring back the file.")
    return key


def unfinished_erasures(store: Store) -> list[str]:
    """Ids of erasures that began and did not end, oldest first; names are listed, nothing is read."""
    names = [os.path.basename(entry.path) for entry in store.list_files(ERASURES)]
    return sorted(name.removesuffix(BEGUN) for name in names if name.endswith(BEGUN))


def check_erasures_ended(store: Store) -> None:
    """Raise StoreError while an erasure is unfinished: a stage that runs now could carry on what is half removed."""
    begun = unfinished_erasures(store)
    if begun:
        raise StoreError(f"Expected no unfinished erasure in {store.uri}, {begun[0]} has begun and not ended; finish it with `lurm erase --resume "
                         f"{begun[0]}`, then run again.")


def _make_key(path: Path) -> None:
    """Whole or not at all, and never over one that is there."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        os.remove(temporary)


def _key_of(store: Store, tree: dict) -> bytes:
    key = suppression_key(store, create=not tree["persons"])
    if tree["persons"] and keyed_hash(key, _CHECK) != tree["key_check"]:
        raise ConfigError(f"Expected the key that the suppression list of {store.uri} was made with, got another; set {VARIABLE} to the first one: "
                          "with this one nobody would be recognised.")
    return key


def _read(store: Store) -> dict:
    if not store.exists(FOLDER, FILE):
        return {"persons": {}, "key_check": ""}
    try:
        return json.loads(store.read_bytes(store.path(FOLDER, FILE)))
    except ValueError as error:
        raise StoreError(f"Expected JSON in {FOLDER}/{FILE} of {store.uri}, could not read it ({error}); restore the file.") from None


def _write(store: Store, key: bytes, persons: dict[str, dict]) -> None:
    tree = {"algorithm": "HMAC-SHA-256", "key_check": keyed_hash(key, _CHECK), "persons": persons}
    store.check_lease()
    store.write_bytes(store.path(FOLDER, FILE), json.dumps(tree, indent=1).encode())
