"""Titles to token ids: what a word is, which words are kept, and any text that can come."""

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lurm.config import EncoderSettings
from lurm.errors import ConfigError, InputError
from lurm.item_encoder import tokenizer as tokenizer_module
from lurm.item_encoder.tokenizer import encode_titles, length_at_percentile, train_tokenizer, vocabulary_size

EVERY_WORD = EncoderSettings(min_frequency=1)
SUBWORDS = EncoderSettings(tokenizer="subwords", vocabulary_size=60, min_frequency=2)


def words_of(title: str, tokenizer: Tokenizer | None = None) -> list[str]:
    """The title's tokens as text, all of them known."""
    tokenizer = tokenizer or train_tokenizer([title], EVERY_WORD)
    token_ids, _ = encode_titles(tokenizer, [title])
    return [tokenizer.id_to_token(int(token)) for token in token_ids]


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Men's CAFÉ, Naïve!", ["mens", "cafe", "naive"]),
        ("USB-C T-Shirt x-ray (stainless-steel)", ["usb-c", "t-shirt", "x-ray", "stainless", "steel"]),
        ("7.5oz 1,000 pcs. 3-in-1 v2", ["7.5oz", "1,000", "pcs", "3", "in", "1", "v2"]),
        ("无线耳机iPhone12", ["无", "线", "耳", "机", "iphone12"]),
        ("イヤホンが ﾊﾟﾅｿﾆｯｸ", ["イヤホン", "が", "パナソニック"]),
        ("６４ＧＢ ½", ["64gb", "1", "2"]),
        ("หูฟัง हिन्दी 한국어", ["หูฟัง", "हिन्दी", "한국어"]),
        ("<b>Tea</b> &amp; \x00milk\x07 😀️", ["b", "tea", "b", "amp", "milk"]),
    ],
)
def test_what_a_word_is(title, words):
    assert words_of(title) == words


def test_vocabulary_by_hand():
    """tea 3, cup 2, big 2, red 1: min_frequency 2 drops red, ties go by the alphabet, vocabulary_size 2 drops cup."""
    titles = ["Tea cup", "big tea", "TEA, cup: red", "big"]
    tokenizer = train_tokenizer(titles, EncoderSettings())
    assert [tokenizer.id_to_token(i) for i in range(vocabulary_size(tokenizer))] == ["tea", "big", "cup"]
    token_ids, offsets = encode_titles(tokenizer, ["red tea cup", "", "red", "cup big cup"])
    assert token_ids.tolist() == [0, 2, 2, 1, 2] and offsets.tolist() == [0, 2, 2, 2, 5]
    assert token_ids.dtype == np.int32 and offsets.dtype == np.int64
    assert vocabulary_size(train_tokenizer(titles, EncoderSettings(vocabulary_size=2))) == 2


def test_titles_are_cut_after_max_length_known_words():
    tokenizer = train_tokenizer(["a b c", "a b c"], EncoderSettings())
    token_ids, offsets = encode_titles(tokenizer, ["zz a zz b c", "c", ""], max_length=2)
    assert token_ids.tolist() == [0, 1, 2] and offsets.tolist() == [0, 2, 3, 3]


def test_length_at_percentile_by_hand():
    """Nineteen titles of one word and one of five: one word covers 95 % of them, five words cover all."""
    titles = ["tea"] * 19 + ["tea tea tea tea tea"]
    tokenizer = train_tokenizer(titles, EncoderSettings())
    assert length_at_percentile(tokenizer, iter(titles), 95) == 1
    assert length_at_percentile(tokenizer, iter(titles), 96) == 5
    assert length_at_percentile(tokenizer, iter(titles), 100) == 5
    assert length_at_percentile(tokenizer, iter([]), 95) == 1
    assert length_at_percentile(tokenizer, [""] * 10, 95) == 1


def made_up_titles(alphabet: str, n: int) -> list[str]:
    rng = np.random.default_rng(3)
    return ["".join(rng.choice(list(alphabet), size=rng.integers(0, 30))) for _ in range(n)]


@pytest.mark.parametrize("mode", ["words", "subwords"])
def test_same_titles_same_tokenizer(mode):
    """Many tokens of equal frequency, and still one result, whatever the order of the titles."""
    titles = made_up_titles("abcdefghij       无线耳机音乐", 400)
    chosen = replace(SUBWORDS, tokenizer=mode)
    digests = {hashlib.sha256(train_tokenizer(order, chosen).to_str().encode()).hexdigest() for order in (titles, titles, titles[::-1])}
    assert len(digests) == 1


def test_subwords_cut_text_without_spaces():
    titles = ["无线耳机", "无线鼠标", "无线音箱", "蓝牙耳机", "蓝牙音箱"] * 3
    tokenizer = train_tokenizer(titles, SUBWORDS)
    assert words_of("蓝牙无线", tokenizer) == ["蓝牙", "无线"]
    assert words_of("无线猫", tokenizer) == ["无线"]  # a character never seen is dropped
    token_ids, _ = encode_titles(tokenizer, titles)
    assert token_ids.max() < vocabulary_size(tokenizer)


def test_subwords_keep_thai_marks_and_respect_the_size():
    tokenizer = train_tokenizer(["หูฟังไร้สาย"] * 3, SUBWORDS)
    assert "".join(words_of("หูฟัง", tokenizer)) == "หูฟัง"
    rare = [chr(0x4E00 + i) for i in range(500)] * 2  # more characters than the vocabulary has room for
    assert vocabulary_size(train_tokenizer(rare, SUBWORDS)) <= 60


@pytest.mark.parametrize("mode", ["words", "subwords"])
def test_any_text_is_fine(mode):
    tokenizer = train_tokenizer(["big red tea cup"] * 5, replace(SUBWORDS, tokenizer=mode))
    nothing = ["", None, "...!?", "\x00\x07", "😀🎧", "\ud800", "\u0301" * 100]
    huge = [character * 100_000 for character in ("x", "x-", "1,", "<", "無", "'")]
    token_ids, offsets = encode_titles(tokenizer, nothing + huge)
    assert offsets[-1] == len(token_ids) == 0 and len(offsets) == len(nothing) + len(huge) + 1
    token_ids, offsets = encode_titles(tokenizer, ["tea " * 25_000], max_length=7)
    assert offsets.tolist() == [0, 7]
    assert encode_titles(tokenizer, [])[1].tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from("aBzé0.9,-'’_ <\x00\t耳が"), max_size=25), min_size=1, max_size=20))
def test_the_short_way_for_ascii_equals_the_library(titles):
    tokenizer = train_tokenizer([*titles, "a-b 1.5 z"], EVERY_WORD)
    usual = encode_titles(tokenizer, titles)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_module, "_ASCII_PAYS_FROM", 0)
        short = encode_titles(tokenizer, titles)
    assert usual[0].tolist() == short[0].tolist() and usual[1].tolist() == short[1].tolist()


def test_a_tokenizer_survives_its_own_json():
    titles = made_up_titles("abc  xyz-'.1", 100)
    tokenizer = train_tokenizer(titles, EncoderSettings())
    again = Tokenizer.from_str(tokenizer.to_str())
    assert vocabulary_size(again) == vocabulary_size(tokenizer)
    assert encode_titles(again, titles)[0].tolist() == encode_titles(tokenizer, titles)[0].tolist()


def test_the_most_frequent_words_come_first():
    titles = made_up_titles("abcd   ", 300)
    tokenizer = train_tokenizer(titles, EncoderSettings())
    counts = Counter(" ".join(titles).split())
    ranked = [counts[tokenizer.id_to_token(i)] for i in range(vocabulary_size(tokenizer))]
    assert ranked == sorted(ranked, reverse=True) and ranked[-1] >= 2


@pytest.mark.parametrize("mode", ["words", "subwords"])
def test_an_empty_vocabulary_is_an_error(mode):
    with pytest.raises(InputError, match="encoder.min_frequency = 2 times, found none"):
        train_tokenizer(["?!", ""] * 3, EncoderSettings(tokenizer=mode))
    with pytest.raises(ConfigError, match="expects words or subwords, got 'letters'"):
        train_tokenizer(["tea"], EncoderSettings(tokenizer="letters"))
