"""`lurm report` and `lurm explain`: a release, or one user's vector, made visible."""

import json

from lurm.commands.arguments import add_command, add_warehouse
from lurm.errors import InputError

MIN_USERS = 20


def add(commands) -> None:
    report = add_command(
        commands, "report", "write one self-contained page about a release: the map of interests, anchors, gate, costs", _report,
        "examples:\n  lurm report --warehouse demo/warehouse\n  lurm report --warehouse demo/warehouse --as-of 2022-01-01 --min-users 50 "
        "--output release.html",
        about="Write one HTML page about the release that readers get: what it is, the map of interests, the anchors, the quality gate, drift,\n"
              "trainings, seconds and cost, sizes. The page needs no network and holds no user id. Names and titles of an interest are shown\n"
              "only if enough users have it.",
    )
    add_warehouse(report)
    report.add_argument("--as-of", metavar="DATE", help="the newest release that is not after this date (default: the current release)")
    report.add_argument("--output", default="report.html", metavar="FILE", help="default: report.html")
    _add_min_users(report)
    report.add_argument("--layout", choices=("umap", "pca"), default="umap",
                        help="how the map is laid out; umap takes minutes for 10^5 interests, once for an interest space (default: umap)")
    explain = add_command(
        commands, "explain", "say which interests and months carry each anchor of a user's vector", _explain,
        "examples:\n  lurm explain --warehouse demo/warehouse --user u0000001\n  lurm explain --warehouse demo/warehouse --user u0000001 "
        "--output u0000001.html\n  lurm explain --warehouse demo/warehouse --user u0000001 --json",
        about="Say which interests and months carry each anchor of a user's vector. Contributions add up to the length of the anchor's part, above\n"
              "what silence would give: exactly within a month, by integrated gradients over time. The answer is about one person: keep it so.",
    )
    add_warehouse(explain)
    explain.add_argument("--user", required=True, metavar="ID", help="the user's id, as in the log")
    explain.add_argument("--as-of", metavar="DATE", help="the newest release that is not after this date (default: the current release)")
    explain.add_argument("--output", metavar="FILE", help="write a page too")
    explain.add_argument("--json", action="store_true", help="print everything as JSON")
    explain.add_argument("--top", type=int, default=5, metavar="N", help="interests and months shown for each anchor (default: 5)")
    _add_min_users(explain)


def _add_min_users(parser) -> None:
    parser.add_argument("--min-users", type=int, default=MIN_USERS, metavar="K",
                        help=f"name an interest only if at least so many users have it (default: {MIN_USERS})")


def _report(options) -> int:
    _check_at_least_one("--min-users", options.min_users)
    from lurm.report.chain import open_release
    from lurm.report.page import bytes_of, write_page
    from lurm.report.release_page import look, release_page

    view = look(open_release(options.warehouse, options.as_of), options.min_users, options.layout)
    size = write_page(options.output, release_page(view))
    n_shown = int(view.shown.sum())
    print(f"release {view.released.row['epoch']} of {view.released.as_of}: {options.output}, {bytes_of(size)}; {n_shown:,} of {len(view.shown):,} "
          f"interests are named, {len(view.shown) - n_shown:,} have fewer than {view.min_users} users")
    return 0


def _explain(options) -> int:
    _check_at_least_one("--min-users", options.min_users)
    _check_at_least_one("--top", options.top)
    from lurm.report.chain import open_release
    from lurm.report.explained_user import as_data, as_text, explain_user
    from lurm.report.explanation_page import explanation_page
    from lurm.report.page import write_page

    explained = explain_user(open_release(options.warehouse, options.as_of), options.user, options.min_users)
    if options.output:
        write_page(options.output, explanation_page(explained, options.top))
    print(json.dumps(as_data(explained), indent=1, ensure_ascii=False) if options.json else as_text(explained, options.top))
    return 0


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"Expected {name} to be at least 1, got {value}; leave it out for the default.")
