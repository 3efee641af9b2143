"""The trained item encoder on disk and at work: a folder in, embeddings of titles out.

The folder holds the weights (safetensors), the tokenizer in the tokenizers library's own JSON, and info.json with the settings needed to
encode (max_length, dim, vocabulary_size), the caller's own entries and the SHA-256 of both files. info.json is replaced last and in one
step, and the other files are named by their content: whoever is killed in between leaves the previous encoder readable.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from lurm.errors import StoreError
from lurm.item_encoder.model import ItemEncoder
from lurm.item_encoder.tokenizer import encode_titles
from lurm.training import load_tensors, save_tensors

# Products of matrices take the last rows, and very few, by other code, which rounds otherwise: batches have whole multiples of this many, so that
# there are no last rows.
WHOLE_ROWS = 96


def save_encoder(directory: Path, encoder: ItemEncoder, tokenizer: Tokenizer, info: dict) -> None:
    """Write the encoder; `info` is plain data for JSON and must say max_length, which later encoding needs."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    data = tokenizer.to_str().encode("utf-8")
    digest = hashlib.sha256(data).hexdigest()
    name = f"tokenizer-{digest[:16]}.json"
    unfinished = directory / f"unfinished-{os.getpid()}-{name}"
    unfinished.write_bytes(data)
    os.replace(unfinished, directory / name)
    shape = {"vocabulary_size": encoder.vocabulary_size, "dim": encoder.dim, "max_length": int(info["max_length"])}
    save_tensors(directory, encoder.state_dict(), {**info, **shape, "tokenizer": {"file": name, "sha256": digest}})
    for stale in directory.glob("tokenizer-*.json"):
        if stale.name != name:
            stale.unlink(missing_ok=True)


def load_encoder(directory: Path) -> tuple[ItemEncoder, Tokenizer, dict]:
    """Encoder (in eval mode, on the CPU), tokenizer and info.

    Raises StoreError when a file is damaged and MissingInputError when there is none.
    """
    directory = Path(directory)
    tensors, info = load_tensors(directory)
    try:
        expected = info["tokenizer"]["sha256"]
        data = (directory / info["tokenizer"]["file"]).read_bytes()
        encoder = ItemEncoder(info["vocabulary_size"], info["dim"])
    except (KeyError, OSError) as error:
        raise StoreError(f"Expected an item encoder in {str(directory)!r}, but {error} is missing; run train-encoder again.") from None
    if hashlib.sha256(data).hexdigest() != expected:
        raise StoreError(
            f"Expected an intact tokenizer in {str(directory)!r}, but the SHA-256 of {info['tokenizer']['file']} differs; "
            "delete the folder and run train-encoder again."
        )
    encoder.load_state_dict(tensors)
    return encoder.eval(), Tokenizer.from_str(data.decode("utf-8")), info


@torch.no_grad()
def encode(
    encoder: ItemEncoder,
    tokenizer: Tokenizer,
    titles: Sequence[str],
    max_length: int,
    batch_size: int = 4_096,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Embeddings of n titles, (n, dim) float32: unit norm, or all zero where no word of the title is known.

    Call it with many titles (10^4 and more) at a time; a title's embedding does not depend on its neighbours, on one thread of a CPU to the bit.
    """
    encoder = encoder.to(device).eval()
    token_ids, offsets = encode_titles(tokenizer, titles, max_length)
    embeddings = np.empty((len(titles), encoder.dim), dtype=np.float32)
    for start in range(0, len(titles), batch_size):
        bounds = offsets[start : start + batch_size + 1]
        n_rows = len(bounds) - 1
        bounds = np.pad(bounds, (0, -n_rows % WHOLE_ROWS), mode="edge")  # titles without words
        tokens = torch.from_numpy(token_ids[bounds[0] : bounds[-1]].astype(np.int64))
        vectors = encoder(tokens.to(device), torch.from_numpy(bounds - bounds[0]).to(device))
        embeddings[start : start + n_rows] = vectors[:n_rows].cpu().numpy()
    return embeddings
