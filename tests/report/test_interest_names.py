"""Names of interests: words that tell, by hand and on the planted catalogue."""

import numpy as np
import pytest
from small_release import HOSTILE, N_INTERESTS, RARE, SECRET

from lurm.report import interest_names
from lurm.report.interest_names import InterestNames, distinctive_tokens, kept_names, name_interests


def test_the_planted_words_come_back(small, released):
    names = kept_names(released)
    assert len(names.words) == len(names.titles) == N_INTERESTS
    for interest in range(2, RARE):
        assert names.words[interest][0] == f"topic{chr(97 + interest)}" and names.name(interest).startswith("topic")
        assert "shiny" not in names.words[interest], "a word of nine in twelve interests says little"
    assert names.words[RARE][:2] == ["cabin", SECRET] or names.words[RARE][:2] == [SECRET, "cabin"]
    assert names.titles[1] == HOSTILE, "titles as they are: escaping is the page's business"
    assert names.titles[2][0] == "topicc shiny thing 0", "the one that most users know"
    assert kept_names(released) == names


def test_log_odds_by_hand():
    # Two interests of two titles each: token 0 in all, token 1 only in the first, token 2 in one title of the second.
    token_ids, offsets = np.array([0, 1, 0, 1, 0, 2, 0]), np.array([0, 2, 4, 6, 7])
    chosen = distinctive_tokens(token_ids, offsets, np.array([0, 0, 1, 1]), np.ones(3, bool), 2, 2)
    assert chosen[0, 0] == 1
    # inside 2 of 4, prior 50 * 2/7; outside 0 of 3: log((2+p)/(4+50-2-p)) - log(p/(3+50-p)) > 0. Token 0: inside 2, outside 2 of 3: below 0.
    p = 50 * 2 / 7
    assert np.log((2 + p) / (52 - p)) - np.log(p / (53 - p)) > 0
    assert chosen[0, 1] == -1, "what is as frequent elsewhere names nothing"
    assert 2 not in chosen[1], "one title of several is not enough"
    assert chosen[1, 0] == 0


def test_a_word_said_twice_in_a_title_counts_once_and_silent_tokens_never():
    once = distinctive_tokens(np.array([1, 1, 1, 0, 0]), np.array([0, 3, 4, 5]), np.array([0, 0, 1]), np.ones(2, bool), 2, 2)
    assert 1 not in once[0], "only one of two titles holds it"
    silent = distinctive_tokens(np.array([1, 1, 0]), np.array([0, 1, 2, 3]), np.array([0, 0, 1]), np.array([True, False]), 2, 1)
    assert silent.tolist() == [[-1], [0]]


def test_words_that_name_nothing():
    words = ["the", "a", "4", "12", "usb-c", "犬", "x2", "tea", "of", "7.5mm"]
    assert [word for word in words if interest_names._speaks(word)] == ["usb-c", "犬", "x2", "tea", "7.5mm"]


def test_variants_long_titles_and_interests_without_titles():
    assert interest_names._without_variants(iter(["shoe", "shoes", "run", "lace", "red"])) == ["shoe", "run", "lace"]
    titles = ["a" * 200, "b  b\n b", "b b b", None, ""]
    kept = interest_names._known_titles(titles, np.array([9, 5, 4, 3, 2]), np.array([0, 1, 1, 1, 1]), 3)
    assert kept == [["a" * 89 + "…"], ["b b b"], []]
    names = InterestNames([[], ["x", "y"]], [[], []])
    assert names.name(0) == "interest 0" and names.name(1) == "x · y"


def test_a_sample_of_a_large_catalogue_names_too(small, released, monkeypatch):
    monkeypatch.setattr(interest_names, "MAX_TITLES", 20)
    snapshot, assigned = interest_names._catalogue(released), small.store.snapshot("item_interests")
    titles, n_users, interests = interest_names.read_titles(released, snapshot, assigned)
    assert 0 < len(titles) == len(n_users) == len(interests) < len(small.titles)
    assert all(small.interests[small.titles.index(title)] == interest for title, interest in zip(titles, interests, strict=True))


@pytest.mark.parametrize("n_interests", [1, 3])
def test_no_titles_at_all(released, n_interests):
    from lurm.item_encoder.inference import load_encoder

    _, tokenizer, _ = load_encoder(released.store.get_artifact("encoders", "encoder-small"))
    empty = np.zeros(0, np.int64)
    names = name_interests([], empty, empty, tokenizer, n_interests)
    assert names.words == [[]] * n_interests and names.titles == [[]] * n_interests
