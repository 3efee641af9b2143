"""The page of one user: what it shows, and that a user id cannot become markup."""

import re
from dataclasses import replace

from small_release import N_ANCHORS, SECRET

from lurm.report.explained_user import explain_user
from lurm.report.explanation_page import explanation_page


def test_every_anchor_and_no_rare_name(released):
    page = explanation_page(explain_user(released, "u000", 20), 5)
    assert all(f"Anchor {anchor}" in page for anchor in range(N_ANCHORS))
    assert SECRET not in page and "fewer than 20 users" in page and "2020-01" in page
    assert "<script" not in page and "script-src &#x27;none&#x27;" in page
    assert not re.search(r'(?:src|href)="(?!#)', page)


def test_a_hostile_user_id_is_text(released):
    explained = replace(explain_user(released, "u001", 20), user_id="</title><script>alert(1)</script>\"'")
    page = explanation_page(explained, 3)
    assert "<script" not in page and "</title><script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
