"""What Airflow is told about a database that is a file of SQLite: a savepoint takes the lock for writing before it reads.

Airflow looks for a module of this name and takes what it defines for its own. In SQLite a transaction that began by reading can't wait for
the lock when it comes to write: if another process is writing, it fails at once with "database is locked", whatever the timeout, because
the two would wait for each other. `airflow backfill create` begins so, in a savepoint, while the scheduler writes every second.
"""

from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.engine import Connection, Engine


def create_metadata_engine(sql_alchemy_conn: str, *, engine_args: dict[str, Any], connect_args: dict[str, Any]) -> Engine:
    """Airflow's engine, as Airflow makes it, and the lock."""
    engine = create_engine(sql_alchemy_conn, connect_args=connect_args, **engine_args, future=True)
    event.listen(engine, "savepoint", _lock_first)
    return engine


def _lock_first(connection: Connection, name: str) -> None:
    if not connection.connection.in_transaction:  # a transaction that wrote already has the lock
        connection.exec_driver_sql("BEGIN IMMEDIATE")
