"""Persons: found by id or by keyed hash alike, in columns, texts and rows; prefixes, numbers and other spellings are somebody else."""

import hashlib
import hmac
import json

import numpy as np
import pyarrow as pa
import pytest

from lurm.erasing.persons import ERASED, Persons, keyed_hash, texts_in, texts_of

KEY = b"a key of a test, long enough"
IDS = ("user-0001", "17", 'zoë "the cat" smith', "a@b.example")


def by_ids(*users: str) -> Persons:
    return Persons(frozenset(users))


def by_hashes(*users: str) -> Persons:
    return Persons(hashes=frozenset(keyed_hash(KEY, user) for user in users), key=KEY)


def test_the_hash_is_hmac_sha_256_written_out():
    """RFC 2104: H(key xor 5c.. || H(key xor 36.. || text)), with keys filled up to a block of 64 bytes."""
    block = KEY.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + b"user-0001").digest()
    assert keyed_hash(KEY, "user-0001") == hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner).hexdigest()
    assert keyed_hash(KEY, "ü") == hmac.new(KEY, "ü".encode(), "sha256").hexdigest()
    assert keyed_hash(b"another", "user-0001") != keyed_hash(KEY, "user-0001")


@pytest.mark.parametrize("make", [by_ids, by_hashes])
def test_values_of_a_column(make):
    persons = make(*IDS)
    values = pa.chunked_array([["user-0001", "user-00010", None], ["17", "User-0001", "user-0001 ", "user-0001"]])
    assert persons.mask(values).tolist() == [True, False, False, True, False, False, True], "another spelling is another id"
    assert persons.mask(values.chunk(0)).tolist() == [True, False, False]
    assert len(persons) == 4 and "17" in persons and None not in persons and "" not in persons and 17 not in persons
    assert make().mask(values).sum() == 0 and persons.mask(pa.array([], pa.string())).tolist() == []


@pytest.mark.parametrize("make", [by_ids, by_hashes])
def test_words_of_a_text(make):
    persons = make("user-0001", "17")
    for text in ("lost user-0001, user-2", "user-0001.", '{"error": "user-0001"}', "<p>user-0001</p>", "a/user-0001/b", "users=user-0001;"):
        assert persons.named_in(text) and "user-0001" not in persons.hide(text) and ERASED in persons.hide(text), text
    for text in ("user-00010", "xuser-0001", "user-0001-2", "17 users", "", "user"):
        assert not persons.named_in(text) and persons.hide(text) == text, text
    assert persons.hide("Expected user-0001, got 17.") == "Expected (erased), got 17.", "a short id is everywhere: only whole values count"


def test_an_id_that_is_no_word_is_found_by_its_text():
    persons = by_ids('zoë "the cat" smith')
    assert persons.named_in('we lost zoë "the cat" smith, sadly') and not persons.named_in('zoë "the cat" smithers')
    assert persons.hide('lost zoë "the cat" smith.') == "lost (erased)."


@pytest.mark.parametrize("make", [by_ids, by_hashes])
def test_rows_kept_as_json(make):
    persons = make(*IDS)
    for row in ({"user": "user-0001"}, {"user": " 17 "}, {"n": 17}, {"a": {"b": ["a@b.example"]}}, {"note": "says user-0001"},
                {"user": 'zoë "the cat" smith'}):
        assert persons.in_row(json.dumps(row)) and persons.in_row(json.dumps(row, ensure_ascii=False)), row
    for row in ({"user": "user-00010"}, {"user": "170"}, {"n": 171}, {"ok": True}, {}):
        assert not persons.in_row(json.dumps(row)), row
    assert persons.in_row('{"user": "user-0001", "ite'), "a row that was cut"


def test_texts_of_files():
    tree = {"a": ["x", 17, None, True], "stats": json.dumps({"min": "user-0001"})}
    assert set(texts_in(tree)) == {"a", "x", "stats", tree["stats"], "min", "user-0001"}
    assert "17" in set(texts_in(tree, numbers=True)) and "True" not in set(texts_in(tree, numbers=True))
    assert set(texts_of(json.dumps({"u": "ü"}).encode())) == {"u", "ü"}, "as it is meant, not as it is escaped"
    assert set(texts_of(b'{"a": "b"}\n{"c": "d"}\n')) == {"a", "b", "c", "d"}
    assert list(texts_of(b"plain")) == ["plain"] and texts_of(np.float32(1.5).tobytes() + b"\xff\xfe") is None


def test_hiding_keeps_json_what_it_is():
    tree = {"error": "no user-0001 here", "n": 10001, "user-0001": [1, None], "list": ["user-0001"]}
    assert by_ids("user-0001", "10001").hide_tree(tree) == {"error": "no (erased) here", "n": 10001, "(erased)": [1, None], "list": ["(erased)"]}


def test_a_key_is_in_no_log():
    assert KEY.decode() not in repr(by_hashes("user-0001")) + str(by_hashes("user-0001"))


def test_names_of_files():
    for path in ("exports/user-0001/ids.parquet", "reports/user-0001.html", "user-0001.tar.gz"):
        assert by_ids("user-0001").named_in_path(path) and by_hashes("user-0001").named_in_path(path), path
    assert by_ids("user-0001").named_in_path("reports/explain-user-0001-2022.html")
    assert not by_ids("user-0001").named_in_path("reports/user-00012.html") and not by_ids("17").named_in_path("runs/17.json")
