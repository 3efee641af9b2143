"""Where word vectors start: words of one topic lie near each other, whatever the spread."""

import numpy as np

from lurm.evaluation.baselines.behaviours import behaviours_of
from lurm.evaluation.baselines.sequences import title_sequences
from lurm.evaluation.baselines.word_start import semantic_vectors, word_start
from lurm.item_encoder.tokenizer import train_tokenizer


def test_words_that_one_person_meets_lie_near_each_other(tiny):
    from lurm.config import EncoderSettings

    sequences = title_sequences(tiny.history)
    tokenizer = train_tokenizer(behaviours_of(tiny.history).titles, EncoderSettings(vocabulary_size=20_000))
    rows = semantic_vectors(sequences, 4)
    number = {word: tokenizer.token_to_id(word) + 1 for word in ("apple", "drill", "novel", "scarf")}  # the first two are one kind's words

    def cosine(a: str, b: str) -> float:
        left, right = rows[number[a]], rows[number[b]]
        return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))

    assert min(cosine("apple", "drill"), cosine("novel", "scarf")) > max(cosine("apple", "novel"), cosine("drill", "scarf"))
    assert not rows[0].any() and rows.shape == (sequences.n_words, 4)


def test_the_spread_is_as_asked_and_more_directions_than_there_are_make_no_fault(tiny):
    rows = word_start(tiny.history, 8, 0.1)
    assert 0.08 < rows[1:].std() < 0.12 and np.array_equal(rows, word_start(tiny.history, 8, 0.1))
    assert np.isfinite(word_start(tiny.history, 500, 0.1)).all()
