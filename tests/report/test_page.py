"""Pages: text stays text, data stays data, nothing is loaded."""

import base64
import hashlib
import json
import re

import pytest

from lurm.errors import InputError
from lurm.report.page import Html, bytes_of, data_block, document, figure, join, table, tag, write_page

HOSTILE = "<script>alert(1)</script></script><img src=x onerror=alert(2)>\"'&\u2028"


def test_text_and_attributes_are_escaped_and_markup_is_not():
    assert tag("p", "<b>", tag("i", "x"), None, class_="a\"b", data_k=1, id=None) == '<p class="a&quot;b" data-k="1">&lt;b&gt;<i>x</i></p>'
    assert join("<", Html("<br>"), 3) == "&lt;<br>3" and tag("br") == "<br>"
    assert "<script" not in table((HOSTILE,), [(HOSTILE,)], numbers=(0,)) and table(("a",), [("b",)]).count("<tr>") == 2


def test_no_text_in_data_can_end_its_element():
    block = data_block("d", {"title": HOSTILE, "n": 1})
    inside = re.fullmatch(r'<script type="application/json" id="d">(.*)</script>', block, re.DOTALL).group(1)
    assert not set("<>&\u2028") & set(inside) and json.loads(inside) == {"title": HOSTILE, "n": 1}
    with pytest.raises(ValueError):
        data_block("d", [float("nan")])


def test_a_document_names_its_scripts_by_their_hashes():
    page = document(HOSTILE, tag("p", HOSTILE), ["let a = 1;"], compiles=True)
    digest = base64.b64encode(hashlib.sha256(b"let a = 1;").digest()).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page).group(1).replace("&#x27;", "'")
    assert f"default-src 'none'; script-src 'sha256-{digest}' 'unsafe-eval'; " in policy
    assert "http" not in policy and "*" not in policy and "unsafe-inline" not in policy.split("style-src")[0]
    assert page.count("<script") == 1 and 'name="viewport" content="width=device-width' in page
    assert "script-src 'none';" in document("t", tag("p", "x")).replace("&#x27;", "'")
    with pytest.raises(ValueError, match="would end their element"):
        document("t", tag("p", "x"), ["'</SCRIPT>'"])


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    assert write_page(str(tmp_path / "a.html"), "ä\ud800") == 3 and (tmp_path / "a.html").read_bytes() == "ä?".encode()
    with pytest.raises(InputError, match="Could not write .*choose another --output"):
        write_page(str(tmp_path / "none" / "a.html"), "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError):
        write_page(str(tmp_path / "folder"), "x")
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.endswith(".part")] == []


def test_numbers_as_people_read_them():
    told = [figure(value) for value in (None, 12345, 0.03214, 1234567.8, 2.0, float("nan"), "inf", 0.0)]
    assert told == ["–", "12,345", "0.0321", "1,234,568", "2", "nan", "inf", "0"]
    assert [bytes_of(size) for size in (0, 999, 1_000, 123_456, 41_000_000, 5 * 10**15)] == ["0 B", "999 B", "1.0 kB", "123 kB", "41.0 MB", "5000 TB"]
