"""lurm: a full-life-cycle user embedding batch service.

Importing this package loads nothing but the standard library; `open_table` brings numpy, pyarrow and deltalake with it.
"""

__version__ = "0.1.0"


def open_table(uri: str, as_of: str | None = None, *, model: str | None = None, epoch: int | None = None, visible_at=None,
               today: str | None = None):
    """Open the released user embeddings of a warehouse; see `lurm.embedding_table.open_table`."""
    from lurm.embedding_table import open_table as open_embedding_table

    return open_embedding_table(uri, as_of, model=model, epoch=epoch, visible_at=visible_at, today=today)
