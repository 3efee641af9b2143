"""Titles to token ids (paper section 3.1: an item is its title, a title is its words).

In: titles, any text. Out: a huggingface `Tokenizer` whose real tokens are numbered 0 .. V-1 (in mode "words" the most frequent first),
and the token ids of many titles in CSR form: the tokens of title i are token_ids[offsets[i]:offsets[i+1]].

Two modes (`encoder.tokenizer`):
  words     Latin, Cyrillic, Arabic ... words; every Han and Hiragana character is a word of its own, so Chinese works without a segmenter.
            Numbers keep their point (7.5), one-letter prefixes and suffixes their hyphen (usb-c, t-shirt); other compounds are split
            (stainless-steel), apostrophes inside words vanish (men's = mens), all other punctuation is dropped.
  subwords  byte-pair encoding trained on the titles, for scripts without spaces (Chinese, Japanese, Thai).
Both see the text after compatibility folding (NFKC), without case and without accents. What the vocabulary does not know is dropped.

Training is deterministic: ties in frequency are broken by the token itself.
"""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from unicodedata import category

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from lurm.config import EncoderSettings
from lurm.errors import ConfigError, InputError

UNKNOWN = "[UNK]"  # no word can read so, for brackets are dropped; its id is V and it never leaves this file
_CHUNK = 8_192  # titles encoded at a time, so that memory holds few of the library's objects

# The library encodes a batch on all cores, which hangs in a forked worker once the parent has done so; there, one core per worker is right.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: os.environ.update(TOKENIZERS_PARALLELISM="false"))



def _words(character: str, digit: str, single: str = "") -> str:
    """The regular expression of one word, over a class of word characters, of digits, and of characters that are words by themselves."""
    one = f"[{character}]"
    return "|".join([
        *([f"[{single}]"] if single else []),
        f"[{digit}]+(?:[.,][{digit}]+)+{one}*",  # 7.5, 1,000, 3.5mm
        f"(?<!{one})[a-z]-[a-z]+(?!{one})",  # t-shirt
        f"[a-z]+-[a-z](?!{one}|-)",  # usb-c
        f"(?:(?![{single}]){one})+" if single else f"{one}+",
    ])  # fmt: skip


_ANY = r"\p{L}\p{M}\p{N}"
_WORDS = _words(_ANY, r"\p{N}", single=r"\p{Han}\p{Hiragana}")
_RUNS = f"[{_ANY}]+"
_ASCII_WORDS = re.compile(_words("a-z0-9", "0-9"))
_ASCII_APOSTROPHE = re.compile("(?<=[a-z])'(?=[a-z])")
_ASCII_PAYS_FROM = 2_048  # titles; below, copying the vocabulary out of the library costs more than it saves


def train_tokenizer(titles: Iterable[str], settings: EncoderSettings) -> Tokenizer:
    """The vocabulary of these titles; the same titles give the same tokenizer, byte for byte.

    Raises InputError when no token is frequent enough, ConfigError for an unknown mode.
    """
    if settings.tokenizer == "words":
        tokenizer = _train_words(_clean(titles), settings)
    elif settings.tokenizer == "subwords":
        tokenizer = _train_subwords(_clean(titles), settings)
    else:
        raise ConfigError(f"Setting 'encoder.tokenizer' expects words or subwords, got {settings.tokenizer!r}; mend its value.")
    if vocabulary_size(tokenizer) == 0:
        raise InputError(
            f"Expected titles with words that occur at least encoder.min_frequency = {settings.min_frequency} times, found none; "
            "check items.title_column or lower encoder.min_frequency."
        )
    return tokenizer


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """V, the number of real tokens."""
    return tokenizer.get_vocab_size() - (tokenizer.token_to_id(UNKNOWN) is not None)


def encode_titles(tokenizer: Tokenizer, titles: Sequence[str], max_length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (nnz,) int32 and offsets (n+1,) int64 of n titles, each cut after max_length known tokens; unknown ones are dropped."""
    n_known = vocabulary_size(tokenizer)
    fast = isinstance(tokenizer.model, models.WordLevel) and len(titles) >= _ASCII_PAYS_FROM
    vocabulary = tokenizer.get_vocab() if fast else {}
    flat, lengths = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.int64)]
    for start in range(0, len(titles), _CHUNK):
        chunk = list(_clean(titles[start : start + _CHUNK]))
        ids = _encode_mixed(tokenizer, chunk, vocabulary) if fast else _encode(tokenizer, chunk)
        length = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        tokens = np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32, count=int(length.sum()))
        title_of = np.repeat(np.arange(len(ids)), length)
        known = tokens < n_known
        tokens, title_of = tokens[known], title_of[known]
        length = np.bincount(title_of, minlength=len(ids))
        if max_length is not None:
            place = np.arange(len(tokens)) - np.repeat(np.cumsum(length) - length, length)
            tokens = tokens[place < max_length]
            length = np.minimum(length, max_length)
        flat.append(tokens)
        lengths.append(length)
    offsets = np.zeros(len(titles) + 1, dtype=np.int64)
    np.cumsum(np.concatenate(lengths), out=offsets[1:])
    return np.concatenate(flat), offsets


def length_at_percentile(tokenizer: Tokenizer, titles: Iterable[str], percentile: float) -> int:
    """The shortest length, in known tokens and at least 1, that covers this percentage of the titles."""
    counts = np.zeros(1, dtype=np.int64)  # counts[l] titles of length l
    iterator = iter(titles)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        _, offsets = encode_titles(tokenizer, chunk)
        here = np.bincount(np.diff(offsets), minlength=len(counts))
        here[: len(counts)] += counts
        counts = here
    covered = np.cumsum(counts)
    return max(1, int(np.searchsorted(covered, covered[-1] * percentile / 100.0 - 1e-9)))


def _encode(tokenizer: Tokenizer, titles: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(titles, add_special_tokens=False)]


def _encode_mixed(tokenizer: Tokenizer, titles: list[str], vocabulary: dict[str, int]) -> list[list[int]]:
    """The same ids as `_encode` in mode "words", four times as fast where titles are plain ASCII.

    Folding ASCII is lower-casing, and most of the library's time goes into keeping track of where each folded character came from.
    """
    ids = [
        [vocabulary[word] for word in _ASCII_WORDS.findall(_ASCII_APOSTROPHE.sub("", title.lower())) if word in vocabulary]
        if title.isascii()
        else []
        for title in titles
    ]
    others = [place for place, title in enumerate(titles) if not title.isascii()]
    for place, encoded in zip(others, _encode(tokenizer, [titles[place] for place in others]), strict=True):
        ids[place] = encoded
    return ids


def _train_words(titles: Iterator[str], settings: EncoderSettings) -> Tokenizer:
    tokenizer = _tokenizer(models.WordLevel({}, unk_token=UNKNOWN), _WORDS)
    trainer = trainers.WordLevelTrainer(vocab_size=settings.vocabulary_size, min_frequency=settings.min_frequency, show_progress=False)
    tokenizer.train_from_iterator(titles, trainer)  # sorts by falling count, then by word
    vocabulary = tokenizer.get_vocab()
    return _tokenizer(models.WordLevel({**vocabulary, UNKNOWN: len(vocabulary)}, unk_token=UNKNOWN), _WORDS)


def _train_subwords(titles: Iterator[str], settings: EncoderSettings) -> Tokenizer:
    """Byte-pair encoding over characters. The titles are held in memory, because they are read twice.

    The characters are chosen here and not by the trainer, whose own cut breaks ties by the order of a hash map. Half of the vocabulary is
    left for merges.
    """
    tokenizer = _tokenizer(models.BPE(), _RUNS)
    folded = [tokenizer.normalizer.normalize_str(title) for title in titles]
    characters = Counter()
    for title in folded:
        characters.update(title)
    usable = [character for character, count in characters.items() if count >= settings.min_frequency and category(character)[0] in "LMN"]
    alphabet = sorted(usable, key=lambda character: (-characters[character], character))[: max(1, settings.vocabulary_size // 2)]
    if not alphabet:
        return tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary_size,
        min_frequency=settings.min_frequency,
        initial_alphabet=alphabet,  # kept whatever the limit says
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(folded, trainer)
    return tokenizer


def _tokenizer(model: models.Model, pattern: str) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.NFKD(),
        # Accents and emoji variants only: the vowel signs of Thai or Hindi are marks too and must stay.
        normalizers.Replace(Regex(r"[\u0300-\u036f\ufe00-\ufe0f]+"), ""),
        normalizers.Lowercase(),
        normalizers.NFKC(),
        normalizers.Replace(Regex(r"(?<=\p{L})['’](?=\p{L})"), ""),
    ])  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    return tokenizer


def _clean(titles: Iterable[str | None]) -> Iterator[str]:
    """The same titles as valid UTF-8: a missing title is empty, a lone surrogate becomes a question mark."""
    for title in titles:
        text = title or ""
        yield text if text.isascii() else text.encode("utf-8", "replace").decode()
