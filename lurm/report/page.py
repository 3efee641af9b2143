"""HTML that cannot be broken by what it shows, and one file with everything in it.

In: text, numbers, data. Out: a document that loads nothing: styles, scripts and data are inline, and a Content-Security-Policy names the
scripts by their hashes, so that no other script runs and no request leaves, whatever a title or a user id says.
"""

import base64
import hashlib
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path

from lurm.whole_file import whole_file

FOLDER = Path(__file__).parent
VOID = {"meta", "br", "hr", "input"}


class Html(str):
    """Text that is markup already; made by `tag` and `join`, and by charts. Every other text is escaped where it is put in."""


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element; children that are not Html are escaped, and so are attributes (`class_` is class, `data_x` is data-x; None leaves one out)."""
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"')
    if name in VOID:
        return Html(f"<{' '.join(words)}>")
    return Html(f"<{' '.join(words)}>{join(*children)}</{name}>")


def join(*parts: object) -> Html:
    """Parts one after the other; None is nothing."""
    return Html("".join(part if isinstance(part, Html) else html.escape(str(part)) for part in parts if part is not None))


def table(head: Sequence[object], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()) -> Html:
    """A table that scrolls by itself where it is wider than the page; `numbers` are columns aligned to the right."""
    def cells(name: str, row: Sequence[object]) -> Html:
        return tag("tr", *(tag(name, cell, class_="number" if place in numbers else None) for place, cell in enumerate(row)))

    return tag("div", tag("table", tag("thead", cells("th", head)), tag("tbody", *(cells("td", row) for row in rows))), class_="wide")


def data_block(name: str, data: object) -> Html:
    """Data for a script, as JSON that no text in it can end: every < is written as an escape."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{html.escape(name)}">{text}</script>')


def document(title: str, body: Html, scripts: Sequence[str] = (), compiles: bool = False) -> str:
    """A whole page. `scripts` are JavaScript, run in order after the body; raises ValueError for one that would end its own element.

    `compiles` allows these scripts, and nobody else's, to make functions of text: Plotly's drawing by WebGL does so with its own shaders.
    """
    if any("</script" in script.lower() or "<!--" in script for script in scripts):
        raise ValueError("Expected scripts without </script and <!--, which would end their element.")
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    hashes = " ".join([*(f"'sha256-{_digest(script)}'" for script in scripts), *(["'unsafe-eval'"] if compiles else [])]) or "'none'"
    policy = (f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; base-uri 'none'; "
              "form-action 'none'")
    head = join(
        tag("meta", charset="utf-8"), tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"), tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="color-scheme", content="light dark"), tag("title", title), Html(f"<style>{style}</style>"),
    )
    run = Html("".join(f"<script>{script}</script>" for script in scripts))
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}{run}</body></html>\n'


def write_page(path: str, page: str) -> int:
    """Write a page so that it is seen whole or not at all; returns its bytes. Raises InputError where it cannot be written."""
    data = page.encode("utf-8", "replace")
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
    return len(data)


def figure(value: object, digits: int = 3) -> str:
    """A number as people read it: 12,345 · 0.0321 · 1.94; a dash for nothing."""
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return "–" if value is None else str(value)
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) or value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.{digits}g}"


def bytes_of(size: int) -> str:
    """12.3 MB; powers of 1000."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1_000 or unit == "TB":
            break
        value /= 1_000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()
