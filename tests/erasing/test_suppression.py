"""The suppression list: keyed hashes only, one key for ever, obeyed or refused but never silently ignored."""

import json
import stat
from pathlib import Path

import pytest
from published import publish_day

from lurm.erasing.suppression import check_erasures_ended, hashes_of, listed, suppress, suppressed, suppression_key, unfinished_erasures, unsuppress
from lurm.errors import ConfigError, MissingInputError, StoreError
from lurm.store import Store

USER = "erika-mustermann-07"


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.delenv("LURM_SUPPRESSION_KEY", raising=False)
    store = Store(str(tmp_path / "warehouse"))
    publish_day(store, "2022-01-01", ["a", "b"])
    return store


def key_file(store: Store) -> Path:
    return Path(f"{store.root}.suppression-key")


def test_without_a_list_nobody_is_suppressed_and_no_key_is_asked_for(store):
    assert len(suppressed(store)) == 0 and listed(store) == {} and not key_file(store).exists()


def test_persons_are_kept_as_hashes_under_a_key_beside_the_warehouse(store):
    suppress(store, hashes_of(store, [USER, "17"]), "e1")
    assert stat.S_IMODE(key_file(store).stat().st_mode) == 0o600 and len(key_file(store).read_text()) == 64
    text = Path(store.path("suppression", "list.json")).read_text()
    assert USER not in text and '"17"' not in text and key_file(store).read_text() not in text
    persons = suppressed(store)
    assert USER in persons and "17" in persons and "18" not in persons
    suppress(store, hashes_of(store, [USER, "18"]), "e2")
    assert sorted(facts["erasure"] for facts in listed(store).values()) == ["e1", "e1", "e2"], "who is on it already stays as he is"
    assert "18" in suppressed(Store(store.uri))


def test_the_key_of_the_environment_comes_first(store, monkeypatch):
    monkeypatch.setenv("LURM_SUPPRESSION_KEY", "0123456789abcdef")
    suppress(store, hashes_of(store, [USER]), "e1")
    assert not key_file(store).exists() and USER in suppressed(store)
    monkeypatch.setenv("LURM_SUPPRESSION_KEY", "short")
    with pytest.raises(ConfigError, match="at least 16 characters in LURM_SUPPRESSION_KEY, got 5"):
        suppressed(store)


def test_with_another_key_or_none_it_is_refused(store, monkeypatch):
    """A list under a lost key would recognise nobody, and everybody would come back."""
    suppress(store, hashes_of(store, [USER]), "e1")
    monkeypatch.setenv("LURM_SUPPRESSION_KEY", "another key, also long")
    for asked in (lambda: suppressed(store), lambda: hashes_of(store, ["x"]), lambda: unsuppress(store, [USER])):
        with pytest.raises(ConfigError, match="made with, got another"):
            asked()
    monkeypatch.delenv("LURM_SUPPRESSION_KEY")
    kept = key_file(store).read_bytes()
    key_file(store).unlink()
    with pytest.raises(MissingInputError, match="found neither; bring back the file"):
        suppressed(store)
    key_file(store).write_bytes(b"cut")
    with pytest.raises(ConfigError, match="at least 16 characters in .*suppression-key, got 3"):
        suppressed(store)
    key_file(store).write_bytes(kept)
    assert USER in suppressed(store)


def test_a_remote_warehouse_needs_the_environment(store, monkeypatch):
    store.is_local = False
    with pytest.raises(MissingInputError, match="LURM_SUPPRESSION_KEY is not set"):
        suppression_key(store, create=True)
    monkeypatch.setenv("LURM_SUPPRESSION_KEY", "0123456789abcdef")
    assert suppression_key(store) == b"0123456789abcdef"


def test_consent_anew(store):
    suppress(store, hashes_of(store, [USER, "17"]), "e1")
    assert unsuppress(store, [USER, "nobody"]) == 1 and unsuppress(store, [USER]) == 0
    assert USER not in suppressed(store) and "17" in suppressed(store)
    assert unsuppress(store, ["17"]) == 1 and len(suppressed(store)) == 0 and unsuppress(store, ["17"]) == 0


def test_a_damaged_list_is_one_sentence(store):
    store.write_bytes(store.path("suppression", "list.json"), b'{"persons": ')
    with pytest.raises(StoreError, match="Expected JSON in suppression/list.json"):
        suppressed(store)


def test_an_unfinished_erasure_is_seen_by_its_name(store):
    assert unfinished_erasures(store) == []
    check_erasures_ended(store)
    store.write_bytes(store.path("erasures", "one.json"), json.dumps({}).encode())
    check_erasures_ended(store)
    store.write_bytes(store.path("erasures", "two.begun.json"), b"{}")
    assert unfinished_erasures(store) == ["two"]
    with pytest.raises(StoreError, match="two has begun and not ended"):
        check_erasures_ended(store)
