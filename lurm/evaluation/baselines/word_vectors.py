"""Word2Vec and Doc2Vec of users, by gensim: a user is a document, all titles in order of time.

In: the titles of a user before the cut. Out: frozen vectors (B, 128). word2vec: the mean of the skip-gram vectors of a user's words. doc2vec: the
vector of the document itself, distributed bag of words (dbow) or distributed memory (dm), as learned with the users of the history.

Settings: 128 dimensions, window 5, 5 negatives, words that occur three times or more, 10 passes (word2vec) and 20 (doc2vec), one thread,
so that a seed gives the same vectors. gensim is not a dependency of the service: the extra `evaluation` brings it.
"""

from collections.abc import Sequence

import numpy as np

from lurm.errors import ConfigError
from lurm.evaluation.baselines.behaviours import Behaviours, behaviours_of, rows_for
from lurm.evaluation.baselines.method import Budget, History
from lurm.evaluation.baselines.word_counts import documents_of

DIM, WINDOW, MIN_COUNT, NEGATIVES = 128, 5, 3, 5
PASSES = {"word2vec": 10, "doc2vec-dbow": 20, "doc2vec-dm": 20}
SPLIT = str.maketrans({character: " " for character in ".,;:!?()[]{}\"'/\\|<>&+*=#~`"})


class WordVectors:
    """Frozen. kind: word2vec, doc2vec-dbow, doc2vec-dm."""

    def __init__(self, name: str, budget: Budget, seed: int, kind: str = "word2vec", passes: int | None = None, window: int = WINDOW):
        self.name, self.budget, self.seed, self.kind = name, budget, seed, kind
        self.passes, self.window = passes or PASSES[kind], window
        self.details: dict = {}

    def fit(self, history: History) -> None:
        self._behaviours = behaviours_of(history)
        documents = words_of(self._behaviours)
        settings = {"vector_size": DIM, "window": self.window, "min_count": min(MIN_COUNT, max(1, len(documents) // 20)), "negative": NEGATIVES,
                    "sample": 1e-4, "workers": 1, "seed": self.seed + 1, "epochs": self.passes}  # fmt: skip
        self._matrix = (mean_word_vectors if self.kind == "word2vec" else document_vectors)(documents, settings, self.kind)
        self.details = {"width": DIM, **{name: settings[name] for name in ("window", "min_count", "negative", "epochs")}}

    def embed(self, users: Sequence[str]) -> np.ndarray:
        return rows_for(self._behaviours, users, self._matrix)


def words_of(behaviours: Behaviours) -> list[list[str]]:
    """(U,) lower-cased words of all titles of a user."""
    return [document.lower().translate(SPLIT).split() for document in documents_of(behaviours)]


def mean_word_vectors(documents: list[list[str]], settings: dict, kind: str) -> np.ndarray:
    """(U, 128): zeros for a user without a known word."""
    model = _gensim().Word2Vec(documents, sg=1, **settings)
    rows = np.zeros((len(documents), DIM), np.float32)
    for place, words in enumerate(documents):
        known = [model.wv.key_to_index[word] for word in words if word in model.wv.key_to_index]
        if known:
            rows[place] = model.wv.vectors[known].mean(axis=0)
    return rows


def document_vectors(documents: list[list[str]], settings: dict, kind: str) -> np.ndarray:
    """(U, 128): the documents' own vectors."""
    doc2vec = _gensim().doc2vec
    tagged = [doc2vec.TaggedDocument(words, [place]) for place, words in enumerate(documents)]
    model = doc2vec.Doc2Vec(tagged, dm=int(kind == "doc2vec-dm"), **settings)
    return np.stack([model.dv[place] for place in range(len(documents))]).astype(np.float32)


def _gensim():
    try:
        import gensim.models
    except ImportError:
        raise ConfigError("Expected gensim for word2vec and doc2vec, it is not installed; pip install 'lurm[evaluation]'.") from None
    return gensim.models
