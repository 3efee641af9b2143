"""Where word vectors start: latent semantic analysis of the history itself, in place of vectors from a large corpus.

In: the title sequences of a history. Out: (n_words, d) float32, row 0 zero. PTUM, NRMS, NAML and HAN start from word vectors that were trained on
a large corpus; none is a dependency here, and from scratch a few thousand users teach their word vectors little. So all neural methods start
from the same vectors: the right singular vectors of the matrix (user and month) x word, log(1 + count) x idf, rows of length 1, times the roots
of the singular values, so that words lie near each other that one person meets in one month.
"""

import numpy as np
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.preprocessing import normalize

from lurm.evaluation.baselines.fitted import fitted
from lurm.evaluation.baselines.method import History
from lurm.evaluation.baselines.sequences import TitleSequences, title_sequences

SEED, PASSES = 0, 5


def word_start(history: History, dim: int, spread: float) -> np.ndarray:
    """(n_words, dim) float32 whose numbers have the standard deviation `spread`; made once a history and dim."""
    rows = fitted(history, ("word start", dim), lambda: semantic_vectors(title_sequences(history), dim))
    return rows * spread


def semantic_vectors(sequences: TitleSequences, dim: int) -> np.ndarray:
    """(n_words, dim) float32 with a standard deviation of 1; directions that a tiny history does not have are noise of that size."""
    behaviours = sequences.behaviours
    months = behaviours.months - behaviours.months.min()
    _, documents = np.unique(behaviours.owners * (int(months.max()) + 1) + months, return_inverse=True)
    words = sequences.words[behaviours.items + 1]
    real = words > 0
    rows = np.repeat(documents, real.sum(axis=1))
    counts = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, words[real])), shape=(int(documents.max()) + 1, sequences.n_words))
    holders = np.bincount(counts.indices, minlength=sequences.n_words)  # each word once a row: the constructor adds up equal cells
    weighted = sparse.csr_matrix((np.log1p(counts.data), counts.indices, counts.indptr), counts.shape)
    weighted = normalize(weighted @ sparse.diags_array(np.log((1 + counts.shape[0]) / (1 + holders)) + 1))
    found = np.random.default_rng(SEED).normal(size=(sequences.n_words, dim))
    width = min(dim, min(weighted.shape) - 1)
    if width >= 1:
        svd = TruncatedSVD(width, n_iter=PASSES, random_state=SEED).fit(weighted)
        vectors = svd.components_.T * np.sqrt(svd.singular_values_)
        found[:, :width] = vectors / max(float(vectors.std()), 1e-12)
    found[0] = 0
    return found.astype(np.float32)
