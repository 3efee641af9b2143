"""The one contrastive loss, NT-Xent (normalised temperature-scaled cross-entropy), of the item encoder and of SMEN.

In: n positive pairs as two matrices of embeddings. Out: one number. Among the 2n embeddings of the batch each has one positive,
its partner, and 2n - 2 negatives, all the others:

    loss = 1/2n  sum_i  -log( exp(cos(z_i, z_p(i)) / tau) / sum_{k != i} exp(cos(z_i, z_k) / tau) )

The positive stays in the denominator, the item itself does not (LURM eq. 3 and SimCLR, Chen et al. 2020, eq. 1).
"""

import torch
import torch.distributed as dist
from torch.nn import functional


def nt_xent(
    left: torch.Tensor,
    right: torch.Tensor,
    temperature: float,
    left_ids: torch.Tensor | None = None,
    right_ids: torch.Tensor | None = None,
    gather: bool = True,
) -> torch.Tensor:
    """Scalar NT-Xent of pairs (left[i], right[i]), averaged over the 2n terms; computed in float32.

    left, right: (n, d), any length of vector. left_ids, right_ids: (n,) int64, what each row is an embedding of: rows that are the
    same thing as the anchor row or as its positive are no negatives and leave its denominator; the positive itself always stays.
    When torch.distributed runs and `gather` is true, the rows of all processes are negatives (n must be equal on all), and each process
    averages over its own 2n terms: the mean over processes is the loss of the whole batch, and so is the mean of their gradients.
    An evaluation that every process makes on the same pairs says gather=False, or each pair would be its own negative.
    """
    n = left.shape[0]
    with torch.autocast(left.device.type, enabled=False):
        own = functional.normalize(torch.cat([left.float(), right.float()]), dim=1)  # (2n, d)
        everyone, first = _gather(own, gather)
        logits = own @ everyone.T / temperature  # (2n, 2n x processes)
        rows = torch.arange(2 * n, device=own.device)
        itself, positive = rows + first, (rows + n) % (2 * n) + first
        excluded = torch.zeros_like(logits, dtype=torch.bool)
        if left_ids is not None and right_ids is not None:
            own_ids = torch.cat([left_ids, right_ids])
            all_ids = _gather(own_ids, gather)[0]
            excluded = (own_ids[:, None] == all_ids) | (all_ids[positive][:, None] == all_ids)
            excluded[rows, positive] = False
        excluded[rows, itself] = True
        return functional.cross_entropy(logits.masked_fill(excluded, -torch.inf), positive)


def _gather(own: torch.Tensor, gather: bool) -> tuple[torch.Tensor, int]:
    """Rows of all processes in order of their rank, and the number of the first row of this one."""
    if not (gather and dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return own, 0
    return _GatherRows.apply(own), dist.get_rank() * own.shape[0]


class _GatherRows(torch.autograd.Function):
    """all_gather whose backward adds up what every process's loss wants of these rows."""

    @staticmethod
    def forward(context, own: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]
