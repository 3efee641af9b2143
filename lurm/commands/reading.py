"""`lurm read`: released embeddings as a Parquet file. `lurm join`: labels with the vector each user had at the time of the label."""

from lurm.commands.arguments import add_command, add_release, open_release, read_ids
from lurm.errors import ConfigError
from lurm.whole_file import whole_file


def add(commands) -> None:
    read = add_command(
        commands, "read", "write released embeddings to a Parquet file", _read,
        "example:\n  lurm read --warehouse demo/warehouse --users u1,u2 --output vectors.parquet",
    )
    _add_anchors(add_release(read))
    who = read.add_mutually_exclusive_group()
    who.add_argument("--users", metavar="A,B,C", help="user ids, separated by commas (default: all users)")
    who.add_argument("--users-file", metavar="FILE", help="user ids, one a line")
    read.add_argument("--output", required=True, metavar="FILE", help="Parquet file: user_id, embedding (list of float32)")
    join = add_command(
        commands, "join", "give each row of a label file the vector its user had at that time", _join,
        "example:\n  lurm join --warehouse demo/warehouse --labels labels.csv --user customer --time bought_at --output training.parquet",
        "Point-in-time join: each label gets the newest release that has seen events before its time only. Rows without one are kept with nulls.",
    )
    _add_anchors(add_release(join))
    join.add_argument("--labels", required=True, metavar="FILE", help="Parquet or CSV: a file, a folder, a glob or a URI")
    join.add_argument("--user", default="user_id", metavar="COLUMN", help="column of the user ids (default: user_id)")
    join.add_argument("--time", default="time", metavar="COLUMN", help="column of the times: timestamps, dates or ISO text; without a zone UTC "
                      "(default: time)")
    join.add_argument("--output", required=True, metavar="FILE", help="Parquet file: the columns of the labels, embedding, as_of, model_id")
    join.add_argument("--clock", choices=("event", "publication"), default="event", help="event: what a vector has seen; publication: also what had "
                      "been published by then, as a live consumer met it (default: event)")
    join.add_argument("--absent", choices=("null", "drop", "error"), default="null", help="rows without a vector: kept with nulls, left out, or "
                      "an error (default: null)")
    join.add_argument("--allow-future-model", action="store_true", help="give vectors of a model that was trained on events after the label too")
    join.add_argument("--mix-models", action="store_true", help="let rows have vectors of different models, which cannot be compared")
    join.add_argument("--prefix", default="", metavar="TEXT", help="put before the names of the columns that are added")
    join.add_argument("--memory", type=float, default=512, metavar="MB", help="what the join may hold at a time (default: 512)")
    join.add_argument("--scratch", metavar="DIR", help="where labels that do not fit lie meanwhile (default: the system's temporary folder)")


def _add_anchors(parser) -> None:
    parser.add_argument("--anchors", metavar="I,J", help="only the numbers of these anchors, counted from 0 (default: all)")


def _join(options) -> int:
    table = open_release(options)
    report = table.join(
        options.labels, options.user, options.time, clock=options.clock, anchors=_anchors(options), absent=options.absent,
        allow_future_model=options.allow_future_model, mix_models=options.mix_models, prefix=options.prefix, output=options.output,
        memory_mb=options.memory, scratch=options.scratch,
    )
    print(f"{report}: {options.output}")
    return 0


def _read(options) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lurm.joining.embedding_units import list_column

    table, users, anchors = open_release(options), _users(options), _anchors(options)
    schema = pa.schema([("user_id", pa.string()), ("embedding", pa.list_(pa.float32()))])
    n_rows = 0
    with whole_file(options.output) as path, pq.ParquetWriter(path, schema, compression="none") as writer:
        if users is None:
            for batch in table.scan(["user_id", "embedding"], anchors=anchors):
                writer.write_batch(batch.cast(schema))
                n_rows += batch.num_rows
        else:
            names, vectors = table.to_numpy(users, anchors)
            embedding = list_column(vectors.reshape(len(names), vectors.shape[1] * table.dim))
            writer.write_table(pa.table([pa.array(names, pa.string()), embedding], schema=schema))
            n_rows = len(names)
    shape = f"{table.n_anchors if anchors is None else len(anchors)} x {table.dim}"
    print(f"{n_rows} users of {table.as_of}, {shape}, model {table.model_id}: {options.output}")
    return 0


def _anchors(options) -> list[int] | None:
    if options.anchors is None:
        return None
    try:
        return [int(anchor) for anchor in options.anchors.split(",")]
    except ValueError:
        raise ConfigError(f"Expected --anchors as numbers separated by commas, got {options.anchors!r}; write for example 0,3.") from None


def _users(options) -> list[str] | None:
    if options.users is not None:
        return [user.strip() for user in options.users.split(",") if user.strip()]
    return None if options.users_file is None else read_ids(options.users_file)
