"""A user's explanation with names: what `lurm explain` prints, as text and as plain data.

In: a release and a user id. Out: `Explained`. Interests that fewer than `min_users` users have stay without a name, for a rare interest
with its words can say who somebody is.
"""

from dataclasses import dataclass

import numpy as np
import torch

from lurm.bag_of_interests import concatenate, read_lives
from lurm.errors import MissingInputError
from lurm.manifest import Snapshot
from lurm.periods import end_month
from lurm.report.chain import Released
from lurm.report.explanation import Explanation, explain
from lurm.report.interest_counts import InterestCounts, kept_counts
from lurm.report.interest_names import InterestNames, kept_names
from lurm.schema import MONTH
from lurm.smen.inference import load_model


@dataclass(frozen=True)
class Explained:
    """An explanation, and what is needed to tell it."""

    released: Released
    user_id: str
    explanation: Explanation
    counts: InterestCounts
    names: InterestNames
    min_users: int
    difference: float  # largest difference of an anchor's length to the published vector: 0 but for rounding if the bags are as they were
    note: str

    def label(self, place: int) -> str:
        """The name of one of the user's interests, by its position in the explanation."""
        interest = int(self.explanation.interests[place])
        hidden = f"interest {interest} (fewer than {self.min_users} users)"
        return self.names.name(interest) if self.is_shown(place) else hidden

    def is_shown(self, place: int) -> bool:
        return bool(self.counts.users[self.explanation.interests[place]] >= self.min_users)

    def events(self) -> np.ndarray:
        """(J,) events of each interest, counted once: in the months where the model has them, else in the years."""
        first = self.explanation.periods[0][0]
        return self.explanation.counts[[scale == first for scale, _ in self.explanation.periods]].sum(axis=0)

    def anchors_by_length(self) -> list[int]:
        return np.argsort(-self.explanation.norms, kind="stable").tolist()

    def share_explained(self, anchor: int) -> float:
        """What the contributions add up to, as a share of the length above silence; 1 where there is nothing to explain."""
        above = self.explanation.norms[anchor] - self.explanation.silence[anchor]
        return float(self.explanation.contributions[anchor].sum() / above) if abs(above) > 1e-9 else 1.0


def explain_user(released: Released, user_id: str, min_users: int) -> Explained:
    """Explain a user's published vector.

    Raises UnknownUserError for a user the release does not hold, MissingInputError where his bags are not kept any more.
    """
    published = released.table.vectors([user_id])[0].reshape(released.table.n_anchors, -1)
    bags, note = released.month_bags()
    his = Snapshot(bags.table, bags.version, tuple(
        file for file in bags.files if (file.first_key or "") <= user_id and (file.last_key is None or user_id <= file.last_key)), bags.root)
    lives = [by_scale[MONTH] for by_scale, _ in read_lives(released.store, his, users=[user_id])] if his.files else []
    lives = [life for life in lives if len(life.periods)]
    if not lives:
        raise MissingInputError(f"Expected bags of user {user_id!r} before {released.as_of}, found none; they were counted anew or removed since "
                                "this release: explain a later one.")
    torch.set_num_threads(1)  # matrices of one user: more threads would only wait for each other
    smen, info = load_model(released.store.get_artifact("models", released.table.model_id))
    explanation = explain(smen, info, concatenate(lives), end_month(released.as_of))
    # Lengths, for a published vector may have been rotated into the space of another model.
    difference = float(np.abs(np.linalg.norm(published, axis=1) - explanation.norms).max())
    counts = kept_counts(released.store, bags, released.space["n_interests"], released.as_of)
    return Explained(released, user_id, explanation, counts, kept_names(released), min_users, difference, note)


def as_data(explained: Explained) -> dict:
    """All numbers as plain data for JSON; `name` is None for an interest that too few users have."""
    found, events = explained.explanation, explained.events()
    of_interests, of_periods = found.of_interests(), found.of_periods()

    def of_interest(anchor: int, place: int) -> dict:
        without = found.without[anchor, place]
        parts = [
            {"scale": scale, "period": name, "events": int(found.counts[period, place]),
             "contribution": float(found.contributions[anchor, period, place])}
            for period, (scale, name) in enumerate(found.periods) if found.counts[period, place]
        ]
        return {"interest_id": int(found.interests[place]), "name": explained.label(place) if explained.is_shown(place) else None,
                "events": int(events[place]), "contribution": float(of_interests[anchor, place]),
                "without": None if np.isnan(without) else float(without), "periods": parts}

    anchors = []
    for anchor in range(len(found.norms)):
        order = np.argsort(-np.abs(of_interests[anchor]), kind="stable")
        anchors.append({
            "anchor": anchor, "length": float(found.norms[anchor]), "silence": float(found.silence[anchor]), "gap": float(found.gap[anchor]),
            "interests": [of_interest(anchor, int(place)) for place in order],
            "periods": [{"scale": scale, "period": name, "contribution": float(of_periods[anchor, period])}
                        for period, (scale, name) in enumerate(found.periods)],
        })
    row = explained.released.row
    return {"user_id": explained.user_id, "as_of": row["as_of"], "epoch": row["epoch"], "model_id": row["model_id"],
            "min_users": explained.min_users, "difference_to_published": explained.difference, "note": explained.note, "anchors": anchors}


def as_text(explained: Explained, top: int) -> str:
    """A table for the terminal: every anchor by its length, with its strongest interests, months and years."""
    found, events, row = explained.explanation, explained.events(), explained.released.row
    of_interests, of_periods = found.of_interests(), found.of_periods()
    lines = [
        f"user {explained.user_id}, release {row['epoch']} of {row['as_of']}, {row['model_id']}",
        f"length {np.linalg.norm(found.norms):.3f}, {int(events.sum())} events of {len(found.interests)} interests in "
        f"{sum(scale == found.periods[0][0] for scale, _ in found.periods)} {found.periods[0][0]}s; computed again from the bags, "
        f"the lengths differ by at most {explained.difference:.1g}",
        f"contributions add up to an anchor's length above silence, to within {np.abs(found.gap).max():.1g}; 'without' is how much shorter",
        "the anchor would be, had the user never touched the interest", *([explained.note] if explained.note else []),
    ]
    width = max(len(explained.label(place)) for place in range(len(found.interests)))
    for anchor in explained.anchors_by_length():
        above = found.norms[anchor] - found.silence[anchor]
        lines += ["", f"anchor {anchor}: length {found.norms[anchor]:.3f}, of which silence {found.silence[anchor]:+.3f}"]
        for place in found.strongest(anchor, top):
            part, without = of_interests[anchor, place], found.without[anchor, place]
            share = f"{part / above:>6.0%}" if abs(above) > 1e-9 else "     –"
            told = "      –" if np.isnan(without) else f"{without:+7.3f}"
            lines.append(f"  {part:+7.3f} {share}  {explained.label(place):<{min(width, 60)}}  {events[place]:>5} events  without {told}")
        for scale in dict.fromkeys(scale for scale, _ in found.periods):
            chosen = [place for place, (of_scale, _) in enumerate(found.periods) if of_scale == scale]
            best = sorted(chosen, key=lambda place: -abs(of_periods[anchor, place]))[:top]
            told = ", ".join(f"{found.periods[place][1]} {of_periods[anchor, place]:+.3f}" for place in sorted(best))
            lines.append(f"  {scale + 's':<7} {of_periods[anchor, chosen].sum():+.3f}: {told}")
    return "\n".join(lines)
