"""SMEN: self-supervised multi-anchor encoder network, from sparse bags of interests to a user embedding (LURM eq. 5-9).

In: SparseBags of months and of years. Out: (B, M, H), one vector of width H for each of M anchors.

    r^i = ReLU( sum_j alpha_ij log1p(count_j) We_j ),  alpha_ij = softmax over anchors of  Wa_i . Wb ReLU(We_j)       (5, 6)
    r̂^i = last state of a GRU over the periods of the calendar grid; an empty period is a zero input
    r̃^i = s * months + (1 - s) * years,  s = sigmoid(gate([months; years]))                                           (7)

Nothing in eq. 5-6 has a bias, so an empty period gives exactly 0 and no bag needs to be computed for it.

With `memory` the last of the M anchors is no recurrence but what a whole life adds up to, in the principal directions of lives
(`lurm.smen.memory_anchor`); the paper has no such anchor (docs/decisions.md says what it is good for):

    m = sum over years of sum_j log1p(count_j) Wm_j,   r̃^M = length * m / |m|

With `activity` the last N_TRACES numbers of the memory are activity traces instead (`lurm.smen.activity_traces`), each less its mean over
lives, so that who is neither busy nor idle is near nobody for that, and times its own weight.
"""

import torch
from torch import nn
from torch.nn import functional

from lurm.schema import MONTH, SCALES, YEAR
from lurm.smen.activity_traces import N_TRACES, traces_after, traces_of
from lurm.smen.batches import SparseBags
from lurm.smen.compiled import kernels_for
from lurm.smen.frozen_bags import frozen_bags
from lurm.smen.recurrence import last_states_packed, pack
from lurm.smen.weight_products import whole_vectors

Tables = dict[str, torch.Tensor]  # one for each scale


class SMEN(nn.Module):
    """The encoder. D interests, M anchors, width H; one GRU for all anchors and, unless told otherwise, for both scales.

    n_recurrent of the anchors are the paper's; with `memory` the last one is the memory, whose weights Wm (D, H), or with `activity`
    (D, H - N_TRACES), no gradient touches. Raises ValueError for activity without a memory or in a vector too short for it.
    """

    def __init__(
        self,
        n_interests: int,
        n_anchors: int = 10,
        dim: int = 128,
        scales: tuple[str, ...] = SCALES,
        shared_gru: bool = True,
        sparse: bool = False,
        memory: bool = False,
        activity: bool = False,
    ):
        if activity and (not memory or dim <= N_TRACES):
            raise ValueError(f"Expected a memory of more than {N_TRACES} numbers for activity, got memory={memory}, dim={dim}.")
        super().__init__()
        self.n_interests, self.n_anchors, self.dim, self.scales, self.shared_gru = n_interests, n_anchors, dim, tuple(scales), shared_gru
        self.n_recurrent = n_anchors - memory
        self.memory_scale = (YEAR if YEAR in self.scales else MONTH) if memory else None
        self.activity_scale = (MONTH if MONTH in self.scales else YEAR) if activity else None
        self.interest_embedding = nn.Embedding(n_interests, dim, sparse=sparse)  # We (D, H)
        self.anchors = nn.Parameter(torch.empty(self.n_recurrent, dim))  # Wa (M, H), or (M - 1, H) beside a memory
        if memory:
            self.register_buffer("memory", torch.zeros(n_interests, dim - N_TRACES * activity))  # Wm
            self.register_buffer("memory_length", torch.ones(()))
        if activity:
            self.register_buffer("activity_means", torch.zeros(N_TRACES))
            self.register_buffer("activity_weights", torch.ones(N_TRACES))
        self.key_projection = nn.Linear(dim, dim, bias=False)  # Wb (H, H)
        self.gru = nn.GRU(dim, dim, batch_first=True)
        if len(self.scales) == 2:
            if not shared_gru:
                self.year_gru = nn.GRU(dim, dim, batch_first=True)
            self.gate = nn.Linear(2 * dim, dim)
        initialise(self, torch.Generator().manual_seed(0))

    def forward(self, months: SparseBags | None, years: SparseBags | None, alpha: torch.Tensor | None = None,
                silent: Tables | None = None) -> torch.Tensor:  # fmt: skip
        """User embeddings (B, M, H). What is the same for all users may be given by who has it already: `alpha` (D, n_recurrent), the table of
        anchor weights, and `silent`, for each scale the states after 0, 1, .. silent periods, as many as a grid can begin with."""
        recurrent = self.recurrent(months, years, alpha, silent)
        bags = {MONTH: months, YEAR: years}
        return self.with_memory(recurrent, {scale: self.sums_of(scale, bags[scale]) for scale in self.scales})

    def recurrent(self, months: SparseBags | None, years: SparseBags | None, alpha: torch.Tensor | None = None,
                  silent: Tables | None = None) -> torch.Tensor:  # fmt: skip
        """The paper's anchors alone, (B, n_recurrent, H): what training looks at."""
        states = {}
        for scale, bags in ((MONTH, months), (YEAR, years)):
            if scale in self.scales:
                packing = pack(bags)
                inputs = self.bag_embedding(bags, alpha, packing.places)
                states[scale] = last_states_packed(self.gru_of(scale), inputs, packing, silent[scale] if silent else None)
        return self.fuse(states)

    def n_sums(self, scale: str) -> int:
        """Numbers of a user that the memory adds up over the periods of a scale, beside the recurrence: m, traces, both or none."""
        return (self.memory.shape[1] if scale == self.memory_scale else 0) + (N_TRACES if scale == self.activity_scale else 0)

    def sums_of(self, scale: str, bags: SparseBags) -> torch.Tensor:
        """(B, n_sums) of whole lives: m, then the traces."""
        parts = [self.memory_sums(bags)] if scale == self.memory_scale else []
        parts += [traces_of(bags, scale)] if scale == self.activity_scale else []
        return torch.cat(parts, dim=1) if parts else self.anchors.new_zeros(len(bags.n_steps), 0)

    def sums_after(self, scale: str, before: torch.Tensor, bags: SparseBags) -> torch.Tensor:
        """(B, n_sums) after one more period, which `bags` hold, from what they were before it."""
        width = self.memory.shape[1] if scale == self.memory_scale else 0
        parts = [before[:, :width] + self.memory_sums(bags)] if width else []
        parts += [traces_after(before[:, width:], bags, scale)] if scale == self.activity_scale else []
        return torch.cat(parts, dim=1) if parts else before

    def memory_sums(self, bags: SparseBags) -> torch.Tensor:
        """m (B, width of Wm) of the users of a batch: the sum of their rows, oldest first."""
        rows = self.memory_of_rows(bags)
        return rows.new_zeros(len(bags.n_steps), rows.shape[1]).index_add_(0, bags.users, rows)

    def memory_of_rows(self, bags: SparseBags) -> torch.Tensor:
        """(R, width of Wm): what each row adds to m."""
        return functional.embedding_bag(bags.interest_ids, self.memory, bags.offsets, mode="sum", per_sample_weights=torch.log1p(bags.counts),
                                        include_last_offset=True)  # fmt: skip

    def with_memory(self, recurrent: torch.Tensor, sums: Tables) -> torch.Tensor:
        """(B, M, H) from the paper's anchors and the sums of each scale (B, n_sums): m becomes a direction of one length for everybody, zero
        for who has done nothing; traces are centred and weighted."""
        if self.memory_scale is None:
            return recurrent
        parts = [functional.normalize(sums[self.memory_scale][:, : self.memory.shape[1]], dim=1) * self.memory_length]
        if self.activity_scale:
            parts.append((sums[self.activity_scale][:, -N_TRACES:] - self.activity_means) * self.activity_weights)
        return torch.cat([recurrent, torch.cat(parts, dim=1)[:, None]], dim=1)

    def gru_of(self, scale: str) -> nn.GRU:
        return self.gru if self.shared_gru or scale == MONTH or len(self.scales) == 1 else self.year_gru

    def fuse(self, states: dict[str, torch.Tensor]) -> torch.Tensor:
        """User embeddings (B, M, H) from the last states (B, M, H) of each scale (eq. 7)."""
        if len(states) == 1:
            return next(iter(states.values()))
        shape = states[MONTH].shape
        months, years = (whole_vectors(states[scale].flatten(0, 1)) for scale in (MONTH, YEAR))
        share = torch.sigmoid(self.gate(torch.cat([months, years], dim=1)))
        return torch.lerp(years, months, share.to(years.dtype))[: shape[0] * shape[1]].view(shape)

    def anchor_weights(self, interest_ids: torch.Tensor) -> torch.Tensor:
        """alpha (n, n_recurrent) of n interests; each row sums to 1 over the anchors (eq. 6)."""
        return self._weights_of(self.interest_embedding(interest_ids))

    def bag_embedding(self, bags: SparseBags, alpha: torch.Tensor | None = None, places: torch.Tensor | None = None) -> torch.Tensor:
        """r (R, M, H) of every row (eq. 5), in the order of the rows, or with row r at places[r], a permutation of them."""
        values = torch.log1p(bags.counts)
        if alpha is not None and not torch.is_grad_enabled():
            frozen = frozen_bags(alpha, self.interest_embedding.weight, bags.interest_ids, values, bags.offsets, places)
            if frozen is not None:
                return frozen
        used, cells = torch.unique(bags.interest_ids, return_inverse=True)
        vectors = self.interest_embedding(used)  # (U, H): each interest once, however many bags hold it
        weights = self._weights_of(vectors) if alpha is None else alpha[used]
        return _bag_embeddings(weights, vectors, cells, values, bags.offsets, places)

    def _weights_of(self, vectors: torch.Tensor) -> torch.Tensor:
        keys = self.key_projection(functional.relu(vectors))
        return torch.softmax((keys @ self.anchors.T).float(), dim=1)


class ProjectionHead(nn.Module):
    """v = ReLU([W1_1 r^1, .., W1_M r^M]), h = W2 ReLU(v + mix(v)), mix = W3 over the anchors; used in training only (eq. 8, 9)."""

    def __init__(self, n_anchors: int, dim: int):
        super().__init__()
        self.per_anchor = nn.Parameter(torch.empty(n_anchors, dim, dim))  # W1_i, each (H out, H in)
        self.mix = nn.Parameter(torch.empty(n_anchors, n_anchors))  # W3 (M, M)
        self.output = nn.Linear(n_anchors * dim, n_anchors * dim, bias=False)  # W2 (MH, MH)
        initialise_head(self, torch.Generator().manual_seed(0))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, M, H) -> (B, M x H)."""
        hidden = functional.relu(torch.einsum("bmi,moi->bmo", embeddings, self.per_anchor))
        mixed = torch.einsum("lm,bmh->blh", self.mix, hidden)
        return self.output(functional.relu(hidden + mixed).flatten(1))


def _bag_embeddings(
    weights: torch.Tensor, vectors: torch.Tensor, cells: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor,
    places: torch.Tensor | None = None,
) -> torch.Tensor:
    """(R, M, H): row r is the ReLU of the sum over its non-zeros c of values[c] * outer(weights[cells[c]], vectors[cells[c]]).

    weights (U, M), vectors (U, H), cells (nnz,) int64 into U, values (nnz,). Rows of about the same length are padded to the next power
    of two and multiplied in one batch: at most half of the work is padding. With `places` row r comes to places[r].
    """
    lengths = offsets.diff()
    if places is None:
        places = torch.arange(len(lengths), device=offsets.device)
    if (kernels := kernels_for(vectors)) is not None and weights.dtype == vectors.dtype:
        return kernels.trained_bags(weights, vectors, cells, values, offsets, places)
    order, parts, width, done = [], [], 1, 0
    while done < len(lengths):
        rows = ((lengths <= width) & (lengths > width // 2 if width > 1 else lengths <= 1)).nonzero().squeeze(1)
        if len(rows):
            position = torch.arange(width, device=offsets.device)
            real = position < lengths[rows, None]
            index = torch.where(real, offsets[rows, None] + position, 0)  # (rows, width) into the non-zeros
            interests = cells[index]
            scale = values[index] * real
            left = functional.embedding(interests, weights) * scale[..., None]  # (rows, width, M)
            parts.append(torch.bmm(left.transpose(1, 2), functional.embedding(interests, vectors).to(left.dtype)))
            order.append(places[rows])
            done += len(rows)
        width *= 2
    empty = vectors.new_zeros(len(lengths), weights.shape[1], vectors.shape[1], dtype=weights.dtype)
    # Scattering forwards makes the backward pass a gather, the fast one of the two.
    return functional.relu(empty.index_copy(0, torch.cat(order), torch.cat(parts))) if parts else empty


@torch.no_grad()
def initialise(smen: SMEN, generator: torch.Generator, centroids: torch.Tensor | None = None) -> None:
    """Fill all weights from the generator, or We from the interests' centroids (D, H).

    Rows of We get length sqrt(H) (numbers around 1). Anchors must differ from the start: with small weights every alpha is 1/M and all
    anchors learn the same; where the keys share a mean direction one anchor takes everything. So anchors are orthogonal to the mean
    key and to each other, and scaled to logits with a standard deviation of 1 over the interests. GRU biases start at 0: what a
    state says comes from events, not from constants.
    """
    dim = smen.dim
    vectors = smen.interest_embedding.weight
    drawn = torch.randn(vectors.shape, generator=generator)
    if centroids is not None:
        drawn = torch.as_tensor(centroids, dtype=torch.float32, device="cpu")
    vectors.copy_(functional.normalize(drawn, dim=1) * dim**0.5)
    smen.key_projection.weight.copy_(_orthogonal(dim, generator))
    keys = smen.key_projection(functional.relu(vectors[:50_000]))
    mean_key = functional.normalize(keys.mean(0, keepdim=True), dim=1)
    anchors = torch.randn(smen.n_recurrent, dim, generator=generator).to(keys.device)
    anchors -= anchors @ mean_key.T @ mean_key
    if smen.n_recurrent < dim:
        anchors = torch.linalg.qr(anchors.T)[0].T
    spread = (keys @ anchors.T).std(0, correction=0)
    smen.anchors.copy_(anchors / torch.where(spread > 1e-6, spread, torch.ones_like(spread))[:, None])
    bound = dim**-0.5
    for layer in (smen.gru, getattr(smen, "year_gru", None), getattr(smen, "gate", None)):
        for name, weight in layer.named_parameters() if layer is not None else ():
            weight.zero_() if "bias" in name else weight.copy_(torch.rand(weight.shape, generator=generator) * 2 * bound - bound)


@torch.no_grad()
def initialise_head(head: ProjectionHead, generator: torch.Generator) -> None:
    """Fill the head's weights from the generator, scaled to keep the size of what passes through."""
    for weight in (head.per_anchor, head.mix, head.output.weight):
        weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5)


def _orthogonal(dim: int, generator: torch.Generator) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0]


@torch.no_grad()
def anchor_entropy(smen: SMEN, interest_weights: torch.Tensor | None = None) -> tuple[float, float]:
    """(entropy of the anchors' use, mean entropy of alpha per interest), in nats; both lie in [0, ln M].

    Use is the mean of alpha over interests, weighted when weights (D,) are given. Use near 0: one anchor takes everything.
    Use and mean both at ln M: the anchors do not differ.
    """
    vectors = smen.interest_embedding.weight
    weights = torch.ones(len(vectors), device=vectors.device) if interest_weights is None else interest_weights.to(vectors.device).float()
    alpha = smen.anchor_weights(torch.arange(len(vectors), device=vectors.device)).double()
    share = (weights / weights.sum()).double()
    return float(torch.special.entr(share @ alpha).sum()), float(share @ torch.special.entr(alpha).sum(1))
