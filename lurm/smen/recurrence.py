"""The GRU over the calendar grid: last state per user and anchor, at the price of the non-silent part of a life.

In: bag embeddings of the non-empty periods. Out: the state after the last period of each user's grid. The result is that of a plain
GRU run over every period from step 0 with zero inputs for empty ones (a test holds it to that); three things make it cheap:
the state after k leading zero inputs is the same for everybody and computed once; sequences are packed, longest first, so that no
padding is computed; and the backward pass is written out, because autograd over slices of one large tensor fills a gradient of the
whole tensor at every step (measured: 2.5 of 2.8 seconds of a training step with nn.GRU on a CPU).
"""

from dataclasses import dataclass

import torch
from torch import nn

from lurm.smen.batches import SparseBags

FEWEST_ROWS = 16  # of a matrix product, see _product


@dataclass(frozen=True)
class Packing:
    """Where the rows of a batch of bags go, so that no padding is computed: time is outermost and the longest life comes first.

    Slot = users in all earlier times + rank of the user; between his first non-empty period and the end of his grid a user has a slot for
    every period, zero where it is empty.
    """

    slots: torch.Tensor  # (R,) int64: of every row of the bags
    n_slots: int
    first: torch.Tensor  # (B,) int64: first non-empty step of each user; of users without rows the end of the grid
    active: torch.Tensor  # (A,) int64: users with rows, longest first
    running: list[int]  # users that still run at each time


def pack(bags: SparseBags) -> Packing:
    """The packing of a batch of bags."""
    n_users, device = len(bags.n_steps), bags.n_steps.device
    first = bags.n_steps.clone()
    first.scatter_reduce_(0, bags.users, bags.steps, "amin")
    remaining = bags.n_steps - first  # periods from the first non-empty one to the end
    by_length = torch.argsort(remaining, descending=True, stable=True)
    active = by_length[: int((remaining > 0).sum())]
    if not len(active):
        return Packing(bags.users.new_zeros(0), 0, first, active, [])
    running = torch.bincount(remaining[active] - 1).flip(0).cumsum(0).flip(0)
    before = running.cumsum(0) - running
    rank = torch.empty_like(by_length).scatter_(0, by_length, torch.arange(n_users, device=device))
    slots = before[bags.steps - first[bags.users]] + rank[bags.users]
    return Packing(slots, int(running.sum()), first, active, running.tolist())


def last_states(gru: nn.GRU, inputs: torch.Tensor, bags: SparseBags) -> torch.Tensor:
    """State of the GRU after the last period of every user's grid, for each anchor by itself: (B, M, H) float32.

    inputs (R, M, H) are the rows of `bags`; the state before step 0 is 0, and every period without a row is a zero input.
    """
    packing = pack(bags)
    packed = inputs.new_zeros(packing.n_slots, *inputs.shape[1:], dtype=torch.float32)
    return last_states_packed(gru, packed.index_copy(0, packing.slots, inputs.float()) if packing.n_slots else packed, packing)


def last_states_packed(gru: nn.GRU, packed: torch.Tensor, packing: Packing) -> torch.Tensor:
    """The same from inputs that lie in their slots already, (n_slots, M, H)."""
    n_anchors, dim = packed.shape[1:]
    with torch.autocast(packed.device.type, enabled=False):  # long recurrences stay in float32
        silent = states_of_silence(gru, int(packing.first.max()) if len(packing.first) else 0)
        states = nn.functional.embedding(packing.first, silent)[:, None].expand(-1, n_anchors, -1)
        if not packing.n_slots:
            return states
        start = states[packing.active].reshape(-1, dim)
        last = _recur(gru, packed.float().view(-1, dim), start, [users * n_anchors for users in packing.running])
        return states.index_copy(0, packing.active, last.view(-1, n_anchors, dim))


def states_of_silence(gru: nn.GRU, n_steps: int) -> torch.Tensor:
    """(n_steps + 1, H): row k is the state after k zero inputs."""
    start = gru.weight_hh_l0.new_zeros(1, gru.hidden_size)
    if n_steps == 0:
        return start
    if torch.is_grad_enabled():
        return torch.cat([start, gru(start.new_zeros(1, n_steps, gru.input_size))[0][0]])
    states = [start]  # step by step, so that row k is the same number however many rows are asked for
    for _ in range(n_steps):
        states.append(next_states(gru, start.new_zeros(1, gru.input_size), states[-1]))
    return torch.cat(states)


def next_states(gru: nn.GRU, inputs: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """One step of S sequences: inputs (S, H) and states (S, H) give the states after it, (S, H) float32; for inference."""
    return _forward(inputs, states, gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0, [len(inputs)])


def _recur(gru: nn.GRU, inputs: torch.Tensor, start: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Last states (S, H) of S packed sequences; inputs (sum of sizes, H), sizes[t] = sequences that still run at time t, descending."""
    weights = (gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (inputs, start, *weights)):
        return _Recurrence.apply(inputs, start, *weights, sizes)
    return _forward(inputs, start, *weights, sizes)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(context, inputs, start, weight_in, weight_state, bias_in, bias_state, sizes):
        saved = tuple(inputs.new_empty(len(inputs), width * start.shape[1]) for width in (3, 1, 1))
        last = _forward(inputs, start, weight_in, weight_state, bias_in, bias_state, sizes, saved)
        context.save_for_backward(inputs, weight_in, weight_state, *saved)
        context.sizes = sizes
        return last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        inputs, weight_in, weight_state, gates, proposed, previous = context.saved_tensors
        dim = gradient.shape[1]
        d_state, d_inputs = gradient.clone(), torch.empty_like(inputs)
        d_weight_in, d_weight_state = torch.zeros_like(weight_in), torch.zeros_like(weight_state)
        d_bias_in, d_bias_state = weight_in.new_zeros(3 * dim), weight_in.new_zeros(3 * dim)
        stop = len(inputs)
        for size in reversed(context.sizes):
            now = slice(stop - size, stop)
            reset, update, candidate = gates[now].split(dim, dim=1)
            d = d_state[:size]
            d_gates = gates.new_empty(size, 3 * dim)
            d_reset, d_update, d_candidate = d_gates.split(dim, dim=1)
            torch.mul(d * (1 - update), 1 - candidate * candidate, out=d_candidate)
            torch.mul(d * (previous[now] - candidate), update * (1 - update), out=d_update)
            torch.mul(d_candidate * proposed[now], reset * (1 - reset), out=d_reset)
            torch.mm(d_gates, weight_in, out=d_inputs[now])
            d_weight_in.addmm_(d_gates.T, inputs[now])
            d_bias_in += d_gates.sum(0)
            d_candidate *= reset  # from here on: gradients of the state's own part
            d_weight_state.addmm_(d_gates.T, previous[now])
            d_bias_state += d_gates.sum(0)
            d *= update
            d.addmm_(d_gates, weight_state)
            stop -= size
        return d_inputs, d_state, d_weight_in, d_weight_state, d_bias_in, d_bias_state, None


def _forward(inputs, start, weight_in, weight_state, bias_in, bias_state, sizes, saved=None):
    """The recurrence of torch.nn.GRU; `saved` takes gates (N, 3H), the state's part of the candidate (N, H), the state before (N, H)."""
    state, dim, first = start.detach().clone(), start.shape[1], 0
    weight_in, weight_state = weight_in.T.contiguous(), weight_state.T.contiguous()  # one kind of product is much quicker than the other
    bias = torch.cat([bias_in[: 2 * dim] + bias_state[: 2 * dim], bias_in[2 * dim :]])
    widest = max(sizes, default=0)
    room, of_room = inputs.new_empty(widest if saved is None else 0, 3 * dim), inputs.new_empty(widest, 3 * dim)
    for size in sizes:
        now = slice(first, first + size)
        gates = _product(inputs[now], weight_in, room[:size] if saved is None else saved[0][now])
        of_state = _product(state[:size], weight_state, of_room[:size])
        both, candidate = gates[:, : 2 * dim], gates[:, 2 * dim :]
        both.add_(of_state[:, : 2 * dim]).add_(bias[: 2 * dim]).sigmoid_()
        reset, update = both.split(dim, dim=1)
        proposed = of_state[:, 2 * dim :].add_(bias_state[2 * dim :])
        candidate.add_(bias[2 * dim :]).addcmul_(reset, proposed).tanh_()
        if saved is not None:
            saved[1][now] = proposed
            saved[2][now] = state[:size]
        state[:size] = torch.lerp(candidate, state[:size], update)
        first += size
    return state


def _product(rows: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """rows @ weight. Few rows are padded: a product of 1 to 6 rows takes another kernel on a CPU, which rounds differently, and a state must
    not depend on how many users were advanced together."""
    if len(rows) >= FEWEST_ROWS:
        return torch.mm(rows, weight, out=out)
    padded = nn.functional.pad(rows, (0, 0, 0, FEWEST_ROWS - len(rows)))
    return out.copy_(torch.mm(padded, weight)[: len(rows)])
