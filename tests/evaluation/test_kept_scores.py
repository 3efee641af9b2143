"""Kept arrays come back as they were, or not at all."""

import numpy as np
import pytest
from scipy import sparse
from small_evaluation import Words

from lurm.errors import InputError
from lurm.evaluation.kept_scores import KeptScores, code_of, pack_features, pack_text, unpack_features, unpack_text


def test_arrays_come_back_and_are_forgotten_by_method(tmp_path):
    kept = KeptScores(tmp_path)
    assert kept.read("a/b", "k") is None
    features = sparse.csr_matrix(np.eye(3, dtype=np.float32))
    kept.write("a/b", "k", {**pack_features(features), "details": pack_text({"n": np.int64(3), "why": "x"})})
    kept.write("c", "k", pack_features(np.ones((2, 2), np.float32)))
    read = kept.read("a/b", "k")
    assert (unpack_features(read) != features).nnz == 0 and unpack_text(read["details"]) == {"n": 3, "why": "x"}
    assert [file.relative_to(tmp_path).as_posix() for file in sorted(tmp_path.rglob("*.*"))] == ["a_b/k.npz", "c/k.npz"]
    kept.forget("a/b")
    assert kept.read("a/b", "k") is None and unpack_features(kept.read("c", "k")).tolist() == [[1, 1], [1, 1]]


def test_half_a_file_is_none_and_a_folder_that_cannot_be_is_told(tmp_path):
    kept = KeptScores(tmp_path)
    kept.write("a", "k", {"x": np.arange(1_000)})
    file = tmp_path / "a" / "k.npz"
    file.write_bytes(file.read_bytes()[:500])
    assert kept.read("a", "k") is None
    (tmp_path / "b").write_text("in the way")
    with pytest.raises(InputError, match="choose another --directory"):
        kept.write("b", "k", {"x": np.arange(3)})


def test_code_is_known_by_its_module():
    assert len(code_of(Words())) == 8 and code_of(Words()) == code_of(Words()) != code_of(KeptScores)
