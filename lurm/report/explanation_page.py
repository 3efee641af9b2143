"""A user's explanation as a page: for each anchor the interests, months and years that carry it.

In: `Explained`. Out: the page as text; it holds no script at all.
"""

import numpy as np

from lurm.periods import month_name, month_number
from lurm.report.charts import columns, meter
from lurm.report.explained_user import Explained
from lurm.report.map_data import colour_of
from lurm.report.page import Html, document, figure, join, table, tag
from lurm.schema import MONTH


def explanation_page(explained: Explained, top: int) -> str:
    """The page, a whole HTML document, with `top` interests for each anchor."""
    found, row = explained.explanation, explained.released.row
    events = explained.events()
    hidden = sum(not explained.is_shown(place) for place in range(len(found.interests)))
    tiles = [
        ("Length of the vector", f"{np.linalg.norm(found.norms):.2f}", f"{len(found.norms)} anchors"),
        ("Events", figure(int(events.sum())), f"of {len(found.interests)} interests"),
        ("Explained", f"{1 - np.abs(found.gap).max() / max(float(found.norms.max()), 1e-9):.2%}", "what the parts add up to"),
        ("Computed again", f"{explained.difference:.0e}", "largest difference to the published lengths"),
    ]
    header = tag(
        "header", tag("p", "One user's vector, explained", class_="eyebrow"), tag("h1", explained.user_id),
        tag("p", f"Release {row['epoch']} of {row['as_of']}, ", tag("code", row["model_id"]), ". This page is about one person: keep it so.",
            class_="lead"),
        tag("dl", *(tag("div", tag("dt", name), tag("dd", value, tag("small", small))) for name, value, small in tiles), class_="tiles"),
    )
    about = tag(
        "section", tag("h2", "What carries each anchor"),
        tag("p", "The parts of the interests add up to the length of the anchor above what silence would give; so do the parts of months and years. "
            "Within a month they are exact; over time they are gradients averaged on the way from no events to these. ‘Without’ is how much "
            "shorter the anchor would be had the user never touched the interest: interests replace each other, so these need not add up."),
        tag("p", f"{hidden} of the {len(found.interests)} interests have fewer than {explained.min_users} users and stay without a name.",
            class_="quiet") if hidden else None,
        tag("p", explained.note, class_="warn") if explained.note else None,
        tag("div", *(_anchor(explained, anchor, top) for anchor in explained.anchors_by_length()), class_="grid"),
    )
    rows = [(explained.label(place), figure(int(events[place])), f"{part:.3f}")
            for place, part in sorted(enumerate(np.abs(found.of_interests()).sum(axis=0)), key=lambda pair: -pair[1])]
    every = tag("section", tag("details", tag("summary", f"All {len(rows)} interests"),
                               table(("interest", "events", "parts in all anchors, by size"), rows, numbers=(1, 2))))
    footer = tag("footer", tag("p", "Contributions: within a month eq. 5 of the model, exactly; over time integrated gradients through the "
                               "recurrence and the gate, towards each anchor's own direction."))
    return document(f"lurm · {explained.user_id}", join(header, tag("main", about, every), footer))


def _anchor(explained: Explained, anchor: int, top: int) -> Html:
    found = explained.explanation
    parts, without, events = found.of_interests()[anchor], found.without[anchor], explained.events()
    largest = float(np.abs(parts).max()) or 1.0
    rows = []
    for place in found.strongest(anchor, top):
        told = f"{events[place]} events" + ("" if np.isnan(without[place]) else f"; without {without[place]:+.3f}")
        rows.append(tag("li", tag("span", explained.label(place), tag("br"), tag("span", told, class_="quiet")),
                        meter(abs(parts[place]) / largest, negative=parts[place] < 0), tag("span", f"{parts[place]:+.3f}")))
    silence = f"silence {found.silence[anchor]:+.2f}"
    return tag(
        "div", tag("h3", tag("span", class_="dot"), f"Anchor {anchor}", tag("span", f"length {found.norms[anchor]:.2f} · {silence}", class_="quiet")),
        tag("ul", *rows, class_="rows parts"), *_periods(explained, anchor), class_="card", style=f"--dot:{colour_of(anchor)}",
    )


def _periods(explained: Explained, anchor: int) -> list[Html]:
    found, parts = explained.explanation, explained.explanation.of_periods()[anchor]
    charts = []
    for scale in dict.fromkeys(scale for scale, _ in found.periods):
        of_scale = {name: float(parts[place]) for place, (one, name) in enumerate(found.periods) if one == scale}
        names = list(of_scale)
        if scale == MONTH:  # silent months are shown as such
            names = [month_name(number) for number in range(month_number(names[0]), month_number(names[-1]) + 1)]
        values = [of_scale.get(name, 0.0) for name in names]
        charts += [tag("p", f"{scale.capitalize()}s: {sum(values):+.3f}", class_="quiet"),
                   columns(values, names, f"Parts of anchor {anchor} by {scale}", 64.0 if scale == MONTH else 52.0)]
    return charts
