"""Persons to be found in what a warehouse holds, by their ids or by keyed hashes of them.

In: values of columns, texts of files. Out: which of them are, or name, one of the persons. A hash is HMAC-SHA-256 of the id under a key that
lies apart from the hashes, so that a list of persons can be kept without keeping whom it lists. An id is the text that the log has, without
blanks around it; another spelling is another id. In free text an id is looked for only from MIN_TEXT characters on: "17" is everywhere.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MIN_TEXT = 6
ERASED = "(erased)"
_WORD = re.compile(r"""[^\s"'`<>(){}\[\],;:=\\/&|]+""")
_AROUND = ".!?"  # what a sentence may put behind an id


def keyed_hash(key: bytes, user: str) -> str:
    """HMAC-SHA-256 of an id, 64 hexadecimal digits."""
    return hmac.digest(key, user.encode(), hashlib.sha256).hex()


@dataclass(frozen=True)
class Persons:
    """Some persons: `ids`, or where these are not known, `hashes` under `key`."""

    ids: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()
    key: bytes = field(default=b"", repr=False)  # never in a log

    def __len__(self) -> int:
        return len(self.ids) + len(self.hashes)

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, str) or not value:
            return False
        return value in self.ids or bool(self.hashes) and keyed_hash(self.key, value) in self.hashes

    def mask(self, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """(n,) bool: which values are a person; each distinct value is looked at once."""
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
            values = pa.concat_arrays(values.chunks) if isinstance(values, pa.ChunkedArray) else values
        if not len(self) or not len(values):
            return np.zeros(len(values), bool)
        if not self.hashes:
            return pc.is_in(values, value_set=self._set).to_numpy(zero_copy_only=False)
        coded = values.dictionary_encode()
        known = np.array([value in self for value in coded.dictionary.to_pylist()] + [False])  # the last stands for null
        return known[coded.indices.fill_null(len(known) - 1).to_numpy(zero_copy_only=False)]

    def named_in(self, text: str) -> bool:
        """Whether a free text names one of them."""
        if self._few and not any(user in text for user in self._few):
            return False
        return any(self._is_named(word) for word in set(_WORD.findall(text))) or any(pattern.search(text) for pattern in self._odd)

    def named_in_path(self, path: str) -> bool:
        """Whether the name of a file names one of them, as its stem or, where there are few persons, as any part of it."""
        parts = {part for word in path.split("/") for part in (word, word.partition(".")[0], word.rpartition(".")[0])}
        return any(self._is_named(part) for part in parts) or any(re.search(rf"(?<![^\W_]){re.escape(user)}(?![^\W_])", path) for user in self._few)

    def hide(self, text: str) -> str:
        """A free text with "(erased)" in the place of every id."""
        for pattern in self._odd:
            text = pattern.sub(ERASED, text)

        def shown(found: re.Match) -> str:
            word = found[0]
            if not self._is_named(word):
                return word
            return ERASED if word in self else word.replace(word.strip(_AROUND), ERASED)

        return _WORD.sub(shown, text)

    def in_row(self, text: str) -> bool:
        """Whether a row kept as JSON has one of them as a value; a text that is no JSON (it was cut) is looked at word for word."""
        try:
            tree = json.loads(text)
        except ValueError:
            return self.named_in(text)
        return any(value.strip() in self or self.named_in(value) for value in texts_in(tree, numbers=True))

    def hide_tree(self, tree):
        """JSON with every text, names of fields included, as `hide` gives it."""
        if isinstance(tree, dict):
            return {self.hide_tree(name): self.hide_tree(value) for name, value in tree.items()}
        if isinstance(tree, list):
            return [self.hide_tree(value) for value in tree]
        return self.hide(tree) if isinstance(tree, str) else tree

    @cached_property
    def _set(self) -> pa.Array:
        return pa.array(sorted(self.ids - {""}), pa.string())

    @cached_property
    def _few(self) -> list[str]:
        """A handful of ids: that none of them is in a text is seen faster than by its words."""
        return [user for user in self.ids if len(user) >= MIN_TEXT] if not self.hashes and len(self.ids) <= 20 else []

    @cached_property
    def _odd(self) -> list[re.Pattern]:
        """Ids that are no word: with a blank or a colon in them."""
        odd = [user for user in self.ids if len(user) >= MIN_TEXT and not _WORD.fullmatch(user)]
        return [re.compile(rf"(?<![\w-]){re.escape(user)}(?![\w-])") for user in odd]

    def _is_named(self, word: str) -> bool:
        return len(word) >= MIN_TEXT and (word in self or word.strip(_AROUND) in self)


def texts_in(tree, numbers: bool = False) -> Iterator[str]:
    """Every text of a JSON value, names of fields included, and with `numbers` those as text; a text that is JSON itself is opened.

    Where lurm writes, an id is a text: a number that is the same, such as the size of a file, is nobody.
    """
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield name
            yield from texts_in(value, numbers)
    elif isinstance(tree, list):
        for value in tree:
            yield from texts_in(value, numbers)
    elif isinstance(tree, str):
        yield tree
        if tree[:1] in ("{", "["):
            try:
                yield from texts_in(json.loads(tree), numbers)
            except ValueError:
                return
    elif numbers and tree is not None and not isinstance(tree, bool):
        yield str(tree)


def texts_of(data: bytes) -> Iterable[str] | None:
    """The texts of a file: of its JSON, of JSON line by line, else the whole of it; None where it is no text."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    try:
        return texts_in(json.loads(text))
    except ValueError:
        pass
    try:
        return texts_in([json.loads(line) for line in text.splitlines() if line])
    except ValueError:
        return [text]
