"""`lurm similar`: look-alikes of some users, on the terminal or as a Parquet file."""

from lurm.commands.arguments import add_command, add_release, open_release, read_ids
from lurm.errors import InputError
from lurm.whole_file import whole_file


def add(commands) -> None:
    similar = add_command(
        commands, "similar", "find the users nearest to some users", _similar,
        "example:\n  lurm similar --warehouse demo/warehouse --user u0000005 --k 20\n"
        "  lurm similar --warehouse demo/warehouse --users-file seeds.txt --k 100 --anchor 3 --output lookalikes.parquet",
        "Find the users nearest to some users: exact, by the cosine of whole vectors or of one anchor, in one pass over a release.",
    )
    add_release(similar)
    who = similar.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", metavar="ID", help="whose look-alikes")
    who.add_argument("--users-file", metavar="FILE", help="many users, one id a line; those with a zero vector are named and left out")
    similar.add_argument("--k", type=int, default=20, metavar="N", help="how many neighbours of each (default: 20)")
    similar.add_argument("--anchor", type=int, metavar="I", help="compare this anchor alone, counted from 0 (default: the whole vector)")
    similar.add_argument("--output", metavar="FILE", help="Parquet file: user_id, rank (from 1), neighbour_id, cosine (default: lines of text)")


def _similar(options) -> int:
    from lurm.similarity import similar

    table = open_release(options)
    users = [options.user] if options.users_file is None else read_ids(options.users_file)
    if not users:
        raise InputError(f"Expected user ids, one a line, in {options.users_file}, it has none; write at least one.")
    ids, cosines = similar(table, users, options.k, options.anchor, zero="error" if options.users_file is None else "mask")
    rows = [(user, rank, str(name), float(cosine)) for user, names, numbers in zip(users, ids, cosines, strict=True)
            for rank, (name, cosine) in enumerate(zip(names, numbers, strict=True), start=1) if name is not None]
    what = "whole vectors" if options.anchor is None else f"anchor {options.anchor}"
    if options.output is None:
        width = max((len(user) for user in users), default=0) + 2
        for user, rank, name, cosine in rows:
            print(f"{user:<{width}}{rank:>4}  {cosine:8.5f}  {name}")
    else:
        _write(rows, options.output)
    alone = [user for user, names in zip(users, ids, strict=True) if names[0] is None]
    shown = ", ".join(alone[:10]) + (f" and {len(alone) - 10} more" if len(alone) > 10 else "")
    told = f"; {len(alone)} have no neighbours, because they have no direction or nobody else has: {shown}" if alone else ""
    print(f"{len(rows)} neighbours of {len(users)} users by the cosine of {what}, release of {table.as_of}, model {table.model_id}{told}"
          f"{f': {options.output}' if options.output else ''}")
    return 0


def _write(rows: list[tuple], output: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("user_id", pa.string()), ("rank", pa.int32()), ("neighbour_id", pa.string()), ("cosine", pa.float64())])
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    with whole_file(output) as path:
        pq.write_table(pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema), path)
