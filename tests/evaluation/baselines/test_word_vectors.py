"""Word2Vec and Doc2Vec, where gensim is there; and the sentence where it is not."""

import sys

import pytest
from conftest import recovered

from lurm.errors import ConfigError
from lurm.evaluation.baselines.behaviours import behaviours_of
from lurm.evaluation.baselines.method import Budget
from lurm.evaluation.baselines.word_vectors import WordVectors, words_of


def test_words_are_lower_case_and_without_marks(tiny):
    assert words_of(behaviours_of(tiny.history))[0][:3] == [word.lower() for word in words_of(behaviours_of(tiny.history))[0][:3]]


def test_without_gensim_the_user_is_told(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "gensim", None)
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(ConfigError, match=r"Expected gensim for word2vec and doc2vec, it is not installed; pip install 'lurm\[evaluation\]'."):
        WordVectors("word2vec", Budget(), 0).fit(tiny.history)


@pytest.mark.parametrize("kind", ["word2vec", "doc2vec-dbow", "doc2vec-dm"])
def test_the_planted_preference_is_recovered(kind, tiny):
    pytest.importorskip("gensim")
    method = WordVectors(kind, Budget(), 0, kind)
    method.fit(tiny.history)
    assert recovered(method.embed(tiny.users), tiny.labels) > 0.8
