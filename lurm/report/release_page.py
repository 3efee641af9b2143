"""The report of a release as one page: what it is, the map of interests, the anchors, the gate, the trainings, the costs.

In: `Released`. Out: the page as text, and how many interests it names. All that is shown is put together here; how it is gathered and drawn
is said in the modules it comes from.
"""

import importlib.resources
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lurm.errors import MissingInputError
from lurm.logs import hide_secrets
from lurm.report.anchors import NormCounts, anchor_weights, count_norms, entropy, shares_of_use, strongest_interests
from lurm.report.chain import Released
from lurm.report.charts import histogram, line_chart, meter
from lurm.report.interest_counts import InterestCounts, kept_counts
from lurm.report.interest_map import UMAP, kept_layout
from lurm.report.interest_names import InterestNames, kept_names
from lurm.report.map_data import colour_of, map_data
from lurm.report.page import FOLDER, Html, bytes_of, data_block, document, figure, join, table, tag
from lurm.report.release_facts import NOT_JUDGED, PASSED, ReleaseFacts, Verdict, gather, worst
from lurm.runs import rows_of, skipped
from lurm.smen.inference import load_model

MIN_USERS = 20
STRONGEST, BARS, SHOWN_MOVES = 8, 40, 12
OUTCOMES = {PASSED: "passed", NOT_JUDGED: "not judged", "info": "note", "warn": "warning", "block": "blocked"}


@dataclass(frozen=True)
class ReleaseView:
    """Everything the page shows."""

    released: Released
    facts: ReleaseFacts
    counts: InterestCounts
    names: InterestNames
    alpha: np.ndarray  # (D, M)
    layout: np.ndarray  # (D, 2)
    method: str
    norms: NormCounts
    min_users: int
    note: str

    @property
    def shown(self) -> np.ndarray:
        return self.counts.shown(self.min_users)


def look(released: Released, min_users: int = MIN_USERS, layout: str = UMAP) -> ReleaseView:
    """Compute what the page shows: one pass over the bags and one over the vectors, both streamed."""
    bags, note = released.month_bags()
    counts = kept_counts(released.store, bags, released.space["n_interests"], released.as_of)
    smen, _ = load_model(released.store.get_artifact("models", released.table.model_id))
    places, method = kept_layout(released.store, released.model["space_id"], layout)
    norms = count_norms(released.table.scan(["embedding"]), released.table.n_anchors)
    return ReleaseView(released, gather(released), counts, kept_names(released), anchor_weights(smen), places, method, norms, min_users, note)


def release_page(view: ReleaseView) -> str:
    """The page, a whole HTML document."""
    sections = [_map(view), _anchors(view), _gate(view), _trainings(view), _costs(view), _tables(view), _history(view)]
    body = join(_header(view), tag("main", *sections), _footer(view), data_block(
        "map-data", map_data(view.layout, view.counts, view.alpha, view.names, view.min_users)))
    title = f"lurm · release {view.released.row['epoch']} of {view.released.as_of}"
    return document(title, body, [_plotly(), (FOLDER / "map.js").read_text(encoding="utf-8")], compiles=True)


def _plotly() -> str:
    """The script that draws the map, as the plotly package brings it."""
    try:
        return (importlib.resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    except (ModuleNotFoundError, FileNotFoundError):
        raise MissingInputError("Expected the plotly package, whose script draws the map, found none; install it: pip install 'lurm[run]'.") from None


def _header(view: ReleaseView) -> Html:
    released, row, figures = view.released, view.released.row, view.facts.figures
    grave = worst(view.facts.verdicts)
    words = {PASSED: "passed the quality gate", NOT_JUDGED: "no report of the gate is kept", "block": "released by force",
             "warn": "passed with warnings", "info": "passed with notes"}[grave]
    badge = tag("span", words, class_=f"badge {'none' if grave == NOT_JUDGED else grave}")
    coverage = figures.get("coverage")
    tiles = [
        ("Users", figure(released.table.n_users), f"{released.table.n_anchors} anchors × {released.table.dim} numbers each"),
        ("Events seen before", released.as_of, f"model trained before {released.table.trained_as_of or 'a date not kept'}"),
        ("Coverage", "–" if coverage is None else f"{coverage:.1%}", "users embedded, of those with events"),
        ("Interests", figure(released.space["n_interests"]), f"{int(view.shown.sum()):,} with at least {view.min_users} users"),
        ("Events", figure(int(view.counts.events.sum())), "in the bags of these users"),
        ("Effective rank", figure(figures.get("effective_rank")), f"of {released.table.n_anchors * released.table.dim} numbers"),
    ]
    links = [("The map", "map-of-interests"), ("Anchors", "anchors"), ("Quality gate", "gate"), ("Training", "training"), ("Cost", "cost"),
             ("Tables", "tables"), ("History", "history")]
    return tag(
        "header", tag("p", "User embeddings", class_="eyebrow"),
        tag("h1", f"Release {row['epoch']} of ", tag("span", released.as_of, class_="whole")),
        tag("p", badge, f" Released {row['released_at']:%Y-%m-%d %H:%M} UTC as version {row['table_version']} of the table, by ",
            tag("code", released.table.model_id), ".", class_="lead"),
        tag("p", "The model of this release was trained on events at or after its date: its vectors must not be used to predict what it has seen.",
            class_="block") if released.table.future_model else None,
        tag("p", f"Released in spite of the gate: {view.facts.forced}", class_="block") if view.facts.forced else None,
        tag("dl", *(tag("div", tag("dt", name), tag("dd", value, tag("small", small))) for name, value, small in tiles), class_="tiles"),
        tag("nav", *(tag("a", name, href=f"#{place}") for name, place in links), aria_label="Sections"),
    )


def _map(view: ReleaseView) -> Html:
    n_all, n_hidden = len(view.shown), int((~view.shown).sum())
    anchors = [
        tag("button", tag("span", class_="dot", style=f"--dot:{colour_of(anchor)}"), _anchor_name(view, anchor), type="button", data_anchor=anchor,
            aria_pressed="false") for anchor in range(view.alpha.shape[1])
    ]
    (first, last), (before, until) = view.counts.recent_months, view.counts.earlier_months
    scale = tag("span", "a quarter", tag("i"), f"four times the events: {first} to {last} against {before} to {until}", class_="scale")
    how = "neighbours lie together (UMAP)" if view.method == UMAP else "along the two principal directions"
    controls = tag(
        "div",
        tag("label", tag("span", "Search"), tag("input", type="search", id="map-search", placeholder="a word of a name or a title",
                                                autocomplete="off", spellcheck="false")),
        tag("span", "", id="map-found", class_="quiet", role="status", aria_live="polite"),
        tag("span", tag("button", "By anchor", type="button", data_mode="anchor", aria_pressed="true"),
            tag("button", "By growth", type="button", data_mode="growth", aria_pressed="false"), class_="together", role="group",
            aria_label="Colour of the points"),
        class_="controls",
    )
    zoom = tag("div", tag("button", "+", type="button", id="map-in", aria_label="Closer"),
               tag("button", "−", type="button", id="map-out", aria_label="Farther"),
               tag("button", "all", type="button", id="map-whole", aria_label="The whole map"), class_="zoom")
    hidden = (f" {n_hidden:,} of {n_all:,} interests have fewer than {view.min_users} users: they are grey points without name, titles or counts."
              if n_hidden else f" All {n_all:,} interests have at least {view.min_users} users.")
    return tag(
        "section", tag("h2", "The map of interests"),
        tag("p", f"Every point is one of {n_all:,} interests: a cluster of items that the same people use. It is named by the words that tell it "
            f"from the others, sized by its users; {how}.{hidden}"),
        controls, tag("ul", id="map-hits"),
        tag("div", zoom, tag("div", id="map", role="img", aria_label=f"Map of {n_all} interests"), tag("div", id="map-card", hidden="hidden"),
            class_="map"),
        tag("div", *anchors, scale, id="map-legend", class_="legend", data_mode="anchor"),
        tag("p", view.note, class_="warn") if view.note else None, id="map-of-interests",
    )


def _anchors(view: ReleaseView) -> Html:
    use, model = shares_of_use(view.alpha, view.counts.events), view.released.model
    strongest = strongest_interests(view.alpha, view.counts.users, view.min_users, STRONGEST)
    quantiles, (bars, end) = view.norms.quantiles([0.1, 0.5, 0.9]), view.norms.histograms(BARS)
    n_anchors, most = len(use), math.log(max(2, len(use)))
    per_interest = model.get("health", {}).get("interest_entropy")
    cards = []
    for anchor in range(n_anchors):
        rows = [tag("li", tag("span", view.names.name(interest)), meter(float(view.alpha[interest, anchor])),
                    tag("span", f"{view.alpha[interest, anchor]:.0%}")) for interest in strongest[anchor]]
        low, middle, high = quantiles[anchor]
        cards.append(tag(
            "div", tag("h3", tag("span", class_="dot"), f"Anchor {anchor}", tag("span", f"{use[anchor]:.1%} of events", class_="quiet")),
            tag("ul", *rows, class_="rows parts") if rows else tag("p", "No interest with enough users.", class_="quiet"),
            histogram(bars[anchor].tolist(), end, f"Users by the length of anchor {anchor}: a tenth below {low:.2f}, half below {middle:.2f}, nine "
                      f"tenths below {high:.2f}"),
            tag("p", f"Length over users: {low:.2f} · {middle:.2f} · {high:.2f} (10, 50, 90 %)", class_="quiet"),
            tag("button", "Show on the map", type="button", data_anchor=anchor, data_jump="yes", aria_pressed="false"),
            class_="card", style=f"--dot:{colour_of(anchor)}",
        ))
    for anchor in range(n_anchors, len(bars)):  # the memory: every interest flows into it
        cards.append(tag(
            "div", tag("h3", tag("span", class_="dot"), f"Anchor {anchor}", tag("span", "memory", class_="quiet")),
            tag("p", "What a whole life adds up to, in the principal directions of lives: its direction differs between users, its length does not."),
            tag("p", f"Length: {quantiles[anchor][1]:.2f}", class_="quiet"), class_="card", style=f"--dot:{colour_of(anchor)}",
        ))
    mean = f" An interest alone spreads with {per_interest:.2f}." if per_interest is not None else ""
    return tag(
        "section", tag("h2", "Anchors"),
        tag("p", "Each anchor looks at users through some of the interests. The bars say how much of an interest the anchor takes; the histogram "
            "says how users differ in it: near zero it says nothing of them."),
        tag("p", f"Entropy of the anchors' use: {entropy(use):.2f} of {most:.2f} nats (at 0 one anchor would take everything).{mean}",
            class_="quiet"),
        tag("div", *cards, class_="grid"), id="anchors",
    )


def _gate(view: ReleaseView) -> Html:
    facts = view.facts
    drift = [verdict for verdict in facts.verdicts if verdict.drift]
    findings = [verdict for verdict in facts.verdicts if verdict.outcome not in (PASSED, NOT_JUDGED)]
    passed = sum(verdict.outcome == PASSED for verdict in facts.verdicts)
    if not facts.verdicts:
        judged = tag("p", "The report of the gate is not kept in this warehouse.", class_="quiet")
    elif findings:
        judged = _checks(findings)
    else:
        judged = tag("p", f"All {passed} checks that had something to judge passed.")
    against = facts.compared_with
    if isinstance(against, dict):
        words = f"Against release {against['epoch']} of {against['as_of']} ({against['n_users']:,} users, {against['model_id']})"
        words += "; another model, so only what needs no common space is compared." if against["model_id"] != view.released.table.model_id else "."
        compared = join(tag("p", words), _checks(drift))
    else:
        compared = tag("p", "There was no earlier release to compare with.", class_="quiet")
    inputs = facts.inputs
    told = tag("p", "No report of the input gate is kept for this date.", class_="quiet") if inputs is None else tag(
        "p", "Input gate: ", "every check passed." if not inputs["findings"] else
        "; ".join(f"{finding['severity']}: {finding['name']} is {figure(finding['value'])}" for finding in inputs["findings"]) + ".")
    every = tag("details", tag("summary", f"All {len(facts.verdicts)} checks"), _checks(facts.verdicts)) if facts.verdicts else None
    return tag("section", tag("h2", "Quality gate"), judged, told, tag("h3", "Drift against the release before"), compared, every, id="gate")


def _checks(verdicts: Sequence[Verdict]) -> Html:
    rows = []
    for verdict in verdicts:
        state = "none" if verdict.outcome == NOT_JUDGED else verdict.outcome
        rows.append((tag("span", OUTCOMES[verdict.outcome], class_=state), join(verdict.name.replace("_", " "), tag("br"),
                     tag("span", verdict.meaning, class_="quiet")), figure(verdict.value), _limits(verdict)))
    return table(("", "check", "found", "allowed"), rows, numbers=(2, 3))


def _limits(verdict: Verdict) -> str:
    low, high = verdict.lowest, verdict.highest
    if low is None and high is None:
        return "–"
    if low is None or high is None:
        return f"≤ {figure(high)}" if low is None else f"≥ {figure(low)}"
    return figure(low) if low == high else f"{figure(low)} to {figure(high)}"


def _trainings(view: ReleaseView) -> Html:
    released = view.released
    health = released.model.get("health", {})
    objective = released.space.get("objective", [])
    cards = [
        _training("Item encoder", released.encoder["encoder_id"], released.encoder.get("history", {}),
                  f"{figure(released.encoder.get('n_words'))} words, {figure(released.encoder.get('n_pairs'))} pairs of items"),
        tag("div", tag("h3", "Interests"), tag("p", tag("code", released.model["space_id"])),
            line_chart([("held", list(range(1, len(objective) + 1)), objective)], "Mean cosine of items to their centroid, by iteration"),
            tag("p", f"Mean cosine to the centroid by iteration; {figure(released.space.get('held_out_cosine'))} for items that were held out.",
                class_="quiet"), class_="card"),
        _training("SMEN", released.table.model_id, released.model.get("history", {}),
                  f"effective rank {figure(health.get('effective_rank'))}, entropy of use {figure(health.get('usage_entropy'))}"),
    ]
    return tag("section", tag("h2", "Training"), tag("p", "Item encoder, interests and SMEN are one chain: none fits another's."),
               tag("div", *cards, class_="grid"), id="training")


def _training(name: str, artifact_id: str, history: dict, words: str) -> Html:
    losses, steps, held_out = history.get("losses", []), history.get("evaluation_steps", []), history.get("evaluations", [])
    best = history.get("best_step")
    chart = line_chart([("trained", list(range(1, len(losses) + 1)), losses), ("held", steps, held_out)],
                       f"Loss of {name} by step: training grey, held out in colour", mark=best if losses else None)
    lowest = f"; lowest held-out loss {min(held_out):.3f} at step {best}" if held_out else ""
    return tag("div", tag("h3", name), tag("p", tag("code", artifact_id)), chart, tag("p", f"{words}{lowest}.", class_="quiet"), class_="card")


def _costs(view: ReleaseView) -> Html:
    record = view.facts.run
    if record is None:
        return tag("section", tag("h2", "Seconds and cost"), tag("p", "The record of the run that made this release is not kept.", class_="quiet"),
                   id="cost")
    stages = {name: figures for name, figures in record["stages"].items() if "seconds" in figures}
    longest = max((figures["seconds"] for figures in stages.values()), default=1) or 1
    rows = [
        (name, meter(figures["seconds"] / longest), f"{figures['seconds']:,.1f}", "skipped" if skipped(figures) else figure(rows_of(figures)),
         figure(figures.get("peak_mb")))
        for name, figures in stages.items()
    ]
    spent = record.get("cost") or {}
    words = [f"{figure(spent.get('core_hours'))} core-hours on {figure(spent.get('cores'))} cores"]
    if spent.get("core_hours_per_million_users"):
        words.append(f"{figure(spent['core_hours_per_million_users'])} core-hours for a million users")
    if spent.get("price_per_million_users"):
        words.append(f"a price of {figure(spent['price_per_million_users'])} for a million users")
    return tag("section", tag("h2", "Seconds and cost"), tag("p", "Run ", tag("code", record["run_id"]), f": {'; '.join(words)}."),
               table(("stage", "", "seconds", "rows", "peak MB"), rows, numbers=(2, 3, 4)), id="cost")


def _tables(view: ReleaseView) -> Html:
    sizes = view.facts.sizes
    rows = [(join(size.name, tag("br"), tag("span", size.summary, class_="quiet hide-narrow")), figure(size.files), figure(size.rows),
             bytes_of(size.bytes)) for size in sizes]
    total = bytes_of(sum(size.bytes for size in sizes))
    return tag("section", tag("h2", "Tables"), tag("p", f"Newest version of each table in {hide_secrets(view.released.store.uri)}: {total} in all."),
               table(("table", "files", "rows", "size"), rows, numbers=(1, 2, 3)), id="tables")


def _history(view: ReleaseView) -> Html:
    moves = view.released.history[::-1]
    rows = [(figure(row["epoch"]), row["as_of"], tag("code", row["model_id"]), figure(row["n_users"]), f"{row['released_at']:%Y-%m-%d %H:%M}",
             row["reason"]) for row in moves[:SHOWN_MOVES]]
    more = f" The newest {SHOWN_MOVES} of {len(moves)}." if len(moves) > SHOWN_MOVES else ""
    return tag("section", tag("h2", "History"), tag("p", f"Every move of the pointer that readers follow, newest first.{more}"),
               table(("epoch", "date", "model", "users", "moved", "why"), rows, numbers=(3,)), id="history")


def _footer(view: ReleaseView) -> Html:
    return tag("footer", tag("p", f"Names and titles come from the catalogue and are shown for interests that at least {view.min_users} users have. "
                             "The page holds no user id, loads nothing from anywhere, and can be kept as a file."))


def _anchor_name(view: ReleaseView, anchor: int) -> str:
    best = strongest_interests(view.alpha[:, [anchor]], view.counts.users, view.min_users, 1)[0]
    return f"{anchor}: {view.names.name(best[0])}" if best else f"{anchor}"
