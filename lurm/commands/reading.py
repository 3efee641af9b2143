"""`lurm read`: released embeddings as a Parquet file."""

import os

from lurm.commands.arguments import add_command, add_warehouse
from lurm.errors import InputError


def add(commands) -> None:
    read = add_command(
        commands, "read", "write released embeddings to a Parquet file", _read,
        "example:\n  lurm read --warehouse demo/warehouse --users u1,u2 --output vectors.parquet",
    )
    add_warehouse(read)
    read.add_argument("--as-of", metavar="DATE", help="the newest release that is not after this date (default: the current release)")
    who = read.add_mutually_exclusive_group()
    who.add_argument("--users", metavar="A,B,C", help="user ids, separated by commas (default: all users)")
    who.add_argument("--users-file", metavar="FILE", help="user ids, one a line")
    read.add_argument("--output", required=True, metavar="FILE", help="Parquet file: user_id, embedding (list of float32)")


def _read(options) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lurm import open_table

    table = open_table(options.warehouse, options.as_of)
    users = _users(options)
    schema = pa.schema([("user_id", pa.string()), ("embedding", pa.list_(pa.float32()))])
    n_rows = 0
    temporary = f"{options.output}.part"
    try:
        with pq.ParquetWriter(temporary, schema, compression="none") as writer:
            if users is None:
                for batch in table.scan(["user_id", "embedding"]):
                    writer.write_batch(batch.cast(schema))
                    n_rows += batch.num_rows
            else:
                vectors = table.vectors(users)
                offsets = pa.array(range(0, vectors.size + 1, vectors.shape[1]), pa.int32())
                embedding = pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)))
                writer.write_table(pa.table([pa.array(users, pa.string()), embedding], schema=schema))
                n_rows = len(users)
        os.replace(temporary, options.output)
    except OSError as error:
        raise InputError(f"Could not write {options.output} ({error.strerror or error}); choose another --output.") from None
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    print(f"{n_rows} users of {table.as_of}, {table.n_anchors} x {table.dim}, model {table.model_id}: {options.output}")
    return 0


def _users(options) -> list[str] | None:
    if options.users is not None:
        return [user.strip() for user in options.users.split(",") if user.strip()]
    if options.users_file is None:
        return None
    try:
        with open(options.users_file, encoding="utf-8") as file:
            return [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Expected user ids, one a line, in {options.users_file}, could not read it ({error}); check the path.") from None
