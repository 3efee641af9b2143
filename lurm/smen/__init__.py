"""SMEN, the user encoder: `model` (equations 5-9), `batches` and `windows` (its inputs), `fitting` (training), `inference` (embedding)."""

from lurm.smen.batches import SparseBags
from lurm.smen.model import SMEN, ProjectionHead

__all__ = ["SMEN", "ProjectionHead", "SparseBags"]
