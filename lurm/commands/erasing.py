"""`lurm erase`, `lurm suppression` and `lurm audit`: persons who want to be gone, and what the table tells about those who are there."""

import json

from lurm.commands.arguments import add_command, add_wait, add_warehouse, read_ids
from lurm.errors import ConfigError, InputError
from lurm.whole_file import whole_file

ABOUT = """Remove persons from a warehouse: from every table, every old version, staged runs, exports and records, down to the bytes of the files.

They are put on the suppression list, so that no later reading of the log, run or backfill brings them back, and the proof is kept in
erasures/<id>.json: what was written again, and a scan of every file that found nothing. An id is the text that the log has; another spelling is
another id. Released versions stay readable, without the persons. The key of the list comes from LURM_SUPPRESSION_KEY, or for a local warehouse
from the file <warehouse>.suppression-key, which is made once and must be kept.

exit code: 0 when nothing is left (with --dry-run: always), 1 when a scan still finds something, 2 for a mistake"""
EXAMPLE = """example:
  lurm erase --warehouse /data/lurm --users gone.txt --dry-run
  lurm erase --warehouse /data/lurm --users gone.txt --wait 3600
  lurm erase --warehouse /data/lurm --verify --users gone.txt
  lurm erase --warehouse /data/lurm --verify 20220105T031500123-0a1b2c"""
SUPPRESSION_EXAMPLE = "example:\n  lurm suppression list --warehouse /data/lurm\n  lurm suppression remove --warehouse /data/lurm --user u17"
AUDIT_EXAMPLE = "example:\n  lurm audit privacy --warehouse /data/lurm --attributes people.csv --column gender --user-column customer"
LAST = ""  # --verify without an id


def add(commands) -> None:
    erase = add_command(commands, "erase", "remove persons, from every version, and keep them out", _erase, EXAMPLE, about=ABOUT)
    _add_users(add_wait(add_warehouse(erase)))
    erase.add_argument("--dry-run", action="store_true", help="say what would be removed, remove nothing")
    erase.add_argument("--verify", nargs="?", const=LAST, metavar="ID", help="only scan again: for the persons of this proof by their hashes, of the "
                       "last proof without an id, or with --users for these ids")
    erase.add_argument("--resume", metavar="ID", help="finish an erasure that was killed, without the list of ids")

    group = add_command(commands, "suppression", "who must not come back: show the list, or take persons off it", None, SUPPRESSION_EXAMPLE)
    kinds = group.add_subparsers(metavar="WHAT", required=True)
    add_warehouse(add_command(kinds, "list", "show the hashes on the suppression list, since when and by which erasure", _list, SUPPRESSION_EXAMPLE))
    remove = add_command(
        kinds, "remove", "take persons off the list, because they have consented anew", _remove, SUPPRESSION_EXAMPLE,
        about="Take persons off the suppression list, because they have consented anew. Nothing comes back by that: what was erased is gone, and\n"
              "events count again from the next file of the log on; those in files that were read before, only if the whole log is read again.",
    )
    _add_users(add_wait(add_warehouse(remove)))

    audits = add_command(commands, "audit", "measure what a table tells about the persons in it", None, AUDIT_EXAMPLE)
    privacy = add_command(
        audits.add_subparsers(metavar="AUDIT", required=True), "privacy", "what the embeddings give away", _privacy, AUDIT_EXAMPLE,
        about="How well a linear probe recovers an attribute of the users from their embeddings (AUC and accuracy on users it did not see, beside\n"
              "chance), and how many interests fewer than k users have. Without --attributes only the interests are counted.",
    )
    add_warehouse(privacy)
    privacy.add_argument("--attributes", metavar="FILE", help="Parquet or CSV with an attribute of users")
    privacy.add_argument("--column", metavar="NAME", help="the attribute: some classes, at most 50")
    privacy.add_argument("--user-column", default="user_id", metavar="NAME", help="the users' ids (default: user_id)")
    privacy.add_argument("--as-of", metavar="DATE", help="the newest release that is not after this date (default: the current release)")
    privacy.add_argument("-k", type=int, default=20, metavar="N", help="interests with fewer users are rare (default: 20)")
    privacy.add_argument("--folds", type=int, default=5, metavar="N", help="of the users, to measure on those not seen (default: 5)")
    privacy.add_argument("--sample", type=int, default=20_000, metavar="N", help="users to measure on, chosen by hash (default: 20000)")
    privacy.add_argument("--json", metavar="FILE", help="write the figures there too")


def _add_users(parser) -> None:
    parser.add_argument("--users", metavar="FILE", help="ids, one a line")
    parser.add_argument("--user", action="append", default=[], metavar="ID", help="one id; may be given many times")


def _erase(options) -> int:
    from lurm.erasing import erasure

    store, users = _warehouse(options), _users(options)
    if options.verify is not None:
        return _verify(options, store, users)
    if options.resume:
        if users or options.dry_run:
            raise ConfigError("Expected --resume without ids, because the erasure knows its persons; leave --users, --user and --dry-run out.")
        return _print_proof(store, erasure.resume(store, options.resume, options.wait))
    if options.dry_run:
        _print_plan(erasure.plan(store, users))
        return 0
    return _print_proof(store, erasure.erase(store, users, options.wait))


def _verify(options, store, users: list[str]) -> int:
    from lurm.erasing import erasure
    from lurm.errors import MissingInputError

    if users and options.verify != LAST:
        raise ConfigError("Expected an id of a proof or ids of users, got both; leave one of them out.")
    if users:
        return _print_scan(erasure.verify_users(store, users), f"{len(set(users))} ids")
    known = erasure.proofs(store)
    if not known:
        raise MissingInputError(f"Expected the proof of an erasure in {store.uri}, there is none; `lurm erase` makes one.")
    chosen = options.verify or known[-1]
    return _print_scan(erasure.verify(store, chosen), f"the persons of {chosen}, by their hashes")


def _print_plan(found: dict) -> None:
    print(f"{'would be removed':<20}{'files':>8}{'rows':>14}")
    for name, figures in found["tables"].items():
        print(f"{name:<20}{figures['files']:>8}{figures['rows']:>14,}")
    if found["exports"]:
        print(f"exports             {', '.join(found['exports'])}")
    _print_not_found(found["not_found"])


def _print_not_found(users: list[str]) -> None:
    if users:
        shown = ", ".join(users[:10]) + (f" and {len(users) - 10} more" if len(users) > 10 else "")
        print(f"not found: {shown}; another spelling is another id")


def _print_proof(store, proof: dict) -> int:
    told = "" if proof["persons_found"] == proof["n_persons"] else "; no table holds the others: another spelling is another id"
    print(f"erasure {proof['erasure']}: {proof['n_persons']} persons, {proof['persons_found']} of them were there{told}")
    print(f"{'table':<18}{'rows removed':>14}{'written again':>15}{'deleted':>9}{'bytes before':>15}{'after':>13}  version")
    for name, figures in proof["tables"].items():
        if figures.get("files_deleted") or figures.get("log_files_changed"):
            print(f"{name:<18}{figures['rows_removed']:>14,}{figures.get('files_written_again', 0):>15}{figures['files_deleted']:>9}"
                  f"{figures['bytes_before']:>15,}{figures['bytes_after']:>13,}  {figures['version_before']} -> {figures['version_after']}")
    for words, names in (("exports deleted, make them again", proof["exports_deleted"]), ("texts changed", proof["texts_changed"])):
        if names:
            print(f"{words}: {', '.join(names)}")
    print(f"scanned {proof['rescan']['files']} files, {proof['rescan']['bytes']:,} bytes: {proof['rescan']['found']} traces")
    _print_traces(proof["rescan"]["traces"])
    print("what an erasure cannot reach:")
    for sentence in proof["remains"]:
        print(f"  - {sentence}")
    print(f"proof: erasures/{proof['erasure']}.json in {store.uri}")
    return 1 if proof["rescan"]["found"] else 0


def _print_scan(looked, of_whom: str) -> int:
    print(f"scanned {looked.files} files, {looked.bytes:,} bytes for {of_whom}: {len(looked.traces)} traces")
    _print_traces(looked.traces)
    if looked.unread:
        print(f"not searched, because bytes cannot be held against hashes: {len(looked.unread)} files, first {looked.unread[0]}; name ids (--users)")
    return 1 if looked.traces else 0


def _print_traces(traces) -> None:
    for path, what in traces:
        print(f"  {path}: {what}")


def _list(options) -> int:
    from lurm.erasing.suppression import listed

    persons = listed(_warehouse(options))
    for name, facts in persons.items():
        print(f"{name}  since {facts['since']}  erasure {facts['erasure']}")
    print(f"{len(persons)} persons are suppressed")
    return 0


def _remove(options) -> int:
    from lurm.erasing.suppression import unsuppress
    from lurm.lease import lease

    store, users = _warehouse(options), _users(options)
    if not users:
        raise InputError("Expected at least one id of a user, got none; name one with --user, or a file with one a line with --users.")
    with lease(store, "suppression", options.wait):
        n_removed = unsuppress(store, users)
    print(f"{n_removed} of {len(set(users))} persons were on the list and are not any more")
    return 0


def _privacy(options) -> int:
    from lurm import privacy

    if (options.attributes is None) != (options.column is None):
        raise ConfigError("Expected --attributes together with --column, got one of them; name the file and the attribute in it.")
    report = privacy.audit_privacy(options.warehouse, options.as_of, options.attributes, options.column, options.user_column, options.k,
                                   options.folds, options.sample)
    print(privacy.as_text(report))
    if options.json:
        with whole_file(options.json, "--json") as path, open(path, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    return 0


def _warehouse(options):
    from lurm.store import Store

    store = Store(options.warehouse)
    if not store.exists("tables"):
        raise InputError(f"Expected a warehouse at {store.uri}, found none; `lurm run` makes one.")
    return store


def _users(options) -> list[str]:
    users = [user.strip() for user in options.user if user.strip()]
    if options.users is not None:
        users += read_ids(options.users)
    return users
