"""What the quality gate asks, as plain data: one named check a row, with its limits, its severity and what it means.

`lurm.output_gate` and `lurm.input_gate` gather the figures, `lurm.audit` judges them, `lurm.limits` refuses names that are not here. A
limit is a number, the name of a setting of the gate's section, or None for no limit.
"""

from dataclasses import dataclass

BLOCK, WARN, INFO, OFF = "block", "warn", "info", "off"
SEVERITIES = (BLOCK, WARN, INFO, OFF)


@dataclass(frozen=True)
class Check:
    """Lowest and highest value of one figure. What breaks the contract with readers can neither be forced nor be made milder."""

    name: str
    figure: str
    lowest: float | str | None
    highest: float | str | None
    severity: str
    meaning: str
    contract: bool = False


def _contract(name: str, figure: str, meaning: str) -> Check:
    return Check(name, figure, 0, 0, BLOCK, meaning, contract=True)


OUTPUT_CHECKS = (
    # What readers are promised: whole files, the schema, one finite vector a user, nothing from the future.
    _contract("no_damaged_files", "damaged_files", "files whose bytes are not those that were staged"),
    _contract("files_have_the_schema", "files_of_another_schema", "files that lack a column of user_embeddings or have another type"),
    _contract("row_count_is_that_of_the_manifest", "rows_missed", "rows read, less those that the manifest lists"),
    _contract("row_count_is_that_of_the_stage", "users_missed", "rows read, less the users that embed-users counted"),
    _contract("no_null_users", "null_users", "rows without a user"),
    _contract("no_null_embeddings", "null_embeddings", "rows without a vector"),
    _contract("dimension_is_that_of_the_model", "wrong_length", "vectors whose length is not anchors x width of the model"),
    _contract("all_numbers_finite", "not_finite", "vectors with a NaN, an infinity or a hole"),
    _contract("no_duplicate_users", "duplicate_users", "rows whose user has another row"),
    _contract("no_event_from_the_future", "future_facts", "users whose last event is not before as_of"),
    _contract("activity_facts_fit", "wrong_facts", "users without an event or a month, or whose first event is after the last"),
    Check("some_users", "rows", 1, None, BLOCK, "users in the table", contract=True),
    # Limits on the table alone.
    Check("enough_users", "rows", "min_users", None, BLOCK, "users in the table"),
    Check("share_of_zero_vectors", "zero_share", 0, "max_zero_share", BLOCK, "share of vectors that are zero everywhere"),
    Check("coverage", "coverage", "min_coverage", 1, BLOCK, "users embedded, of those with an event before as_of"),
    Check("coverage_is_usual", "coverage", "usual_coverage", 1, WARN, "users embedded, of those with an event before as_of"),
    Check("vectors_differ", "mean_cosine", None, "max_mean_cosine", BLOCK, "mean cosine of two users: near 1, all vectors are nearly equal"),
    Check("effective_rank", "effective_rank", "min_effective_rank", None, BLOCK, "directions in which vectors of users spread: near 1, a collapse"),
    Check("every_anchor_lives", "weakest_anchor", "min_anchor_share", None, WARN, "mean norm of the weakest anchor, as a share of the mean anchor"),
    Check("interests_in_use", "interests_used", "min_interests_used", None, INFO, "share of the interests with an event in the newest closed month"),
    Check("no_empty_month", "empty_months", 0, 0, BLOCK, "closed months without bags between or after months with many: an export has failed"),
    # Against the version that readers have now.
    Check("release_can_be_read", "unreadable_releases", 0, 0, WARN, "the released version could not be read, so nothing was compared"),
    Check("number_of_users", "user_ratio", "min_user_ratio", None, BLOCK, "users, as a share of those of the release"),
    Check("growth_of_users", "user_ratio", None, "max_user_ratio", WARN, "users, as a share of those of the release"),
    Check("lost_users", "lost_users", 0, "max_lost_users", BLOCK, "share of the release's users who are absent now"),
    Check("few_users_lost", "lost_users", 0, "usual_lost_users", WARN, "share of the release's users who are absent now"),
    Check("users_stay_where_they_were", "same_user_cosine", "min_same_user_cosine", None, BLOCK,
          "mean cosine of a user's vector to that of the release"),
    Check("users_move_little", "same_user_cosine", "usual_same_user_cosine", None, WARN, "mean cosine of a user's vector to that of the release"),
    Check("vectors_not_shifted", "mean_shift", 0, "max_mean_shift", BLOCK, "how far the mean vector moved, in spreads of the released vectors"),
    Check("vectors_shift_little", "mean_shift", 0, "usual_mean_shift", WARN, "how far the mean vector moved, in spreads of the released vectors"),
    Check("norms_not_scaled", "norm_ratio", "min_norm_ratio", "max_norm_ratio", BLOCK, "mean norm, as a share of that of the release"),
    Check("neighbours_kept", "same_model_overlap", "min_overlap", None, BLOCK, "share of a user's 10 nearest users who were among them before"),
    Check("neighbours_mostly_kept", "same_model_overlap", "usual_overlap", None, WARN,
          "share of a user's 10 nearest users who were among them before"),
    Check("neighbours_under_a_new_model", "new_model_overlap", "usual_new_model_overlap", None, WARN,
          "share of a user's 10 nearest users who were among them under the released model"),
)

INPUT_CHECKS = (
    Check("no_empty_month", "empty_months", 0, 0, BLOCK, "closed months without events between or after months with many: an export has failed"),
    Check("items_are_of_this_catalogue", "unknown_share", 0, "max_unknown_share", BLOCK, "share of recent events whose item the catalogue lacks"),
    Check("few_unknown_items", "unknown_share", 0, "usual_unknown_share", WARN, "share of recent events whose item the catalogue lacks"),
    Check("most_events_usable", "quarantined_share", 0, "max_quarantined_share", BLOCK, "share of the log's rows in the quarantine"),
    Check("few_events_quarantined", "quarantined_share", 0, "usual_quarantined_share", WARN, "share of the log's rows in the quarantine"),
    Check("few_items_quarantined", "quarantined_items_share", 0, "usual_quarantined_share", WARN, "share of the catalogue's rows in the quarantine"),
    Check("clocks_are_right", "future_share", 0, "max_future_share", WARN, "share of the log's rows from the future of their file"),
    Check("log_is_recent", "days_since_last_event", 0, "max_days_since_last_event", WARN, "days from the last event to as_of"),
    Check("volume_of_the_last_week", "last_week", "min_volume", "max_volume", WARN, "events of the last 7 days, as a share of a week's before them"),
    Check("volume_of_the_last_day", "last_day", "min_volume", None, WARN, "events of the last day, as a share of that weekday's before it"),
    Check("few_duplicates", "duplicate_share", 0, "max_duplicate_share", WARN, "share of recent events that repeat the one before them exactly"),
)

BY_SECTION = {"gate": OUTPUT_CHECKS, "input_gate": INPUT_CHECKS}
