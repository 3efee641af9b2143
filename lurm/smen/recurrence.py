"""The GRU over the calendar grid: last state per user and anchor, at the price of the non-silent part of a life.

In: bag embeddings of the non-empty periods. Out: the state after the last period of each user's grid. The result is that of a plain
GRU run over every period from step 0 with zero inputs for empty ones (a test holds it to that); three things make it cheap:
the state after k leading zero inputs is the same for everybody and computed once; sequences are packed, longest first, so that no
padding is computed; and the backward pass is written out, because autograd over slices of one large tensor fills a gradient of the
whole tensor at every step (measured: 2.5 of 2.8 seconds of a training step with nn.GRU on a CPU).
"""

import torch
from torch import nn

from lurm.smen.batches import SparseBags

FEWEST_ROWS = 16  # of a matrix product, see _affine


def last_states(gru: nn.GRU, inputs: torch.Tensor, bags: SparseBags) -> torch.Tensor:
    """State of the GRU after the last period of every user's grid, for each anchor by itself: (B, M, H) float32.

    inputs (R, M, H) are the rows of `bags`; the state before step 0 is 0, and every period without a row is a zero input.
    """
    n_anchors, dim = inputs.shape[1:]
    n_users, device = len(bags.n_steps), inputs.device
    first = bags.n_steps.clone()  # of users without rows: the end of the grid
    first.scatter_reduce_(0, bags.users, bags.steps, "amin")
    remaining = bags.n_steps - first  # periods from the first non-empty one to the end
    with torch.autocast(device.type, enabled=False):  # long recurrences stay in float32
        silent = states_of_silence(gru, int(first.max()) if n_users else 0)
        states = nn.functional.embedding(first, silent)[:, None].expand(-1, n_anchors, -1)
        by_length = torch.argsort(remaining, descending=True, stable=True)
        active = by_length[: int((remaining > 0).sum())]
        if not len(active):
            return states
        # Time is outermost, the longest life first: slot = users in all earlier times + rank of the user.
        running = torch.bincount(remaining[active] - 1).flip(0).cumsum(0).flip(0)  # users that still run at each time
        before = running.cumsum(0) - running
        rank = torch.empty_like(by_length).scatter_(0, by_length, torch.arange(n_users, device=device))
        slots = before[bags.steps - first[bags.users]] + rank[bags.users]
        packed = inputs.new_zeros(int(running.sum()), n_anchors, dim, dtype=torch.float32).index_copy(0, slots, inputs.float())
        sizes = (running * n_anchors).tolist()
        start = states[active].reshape(-1, dim)
        last = _recur(gru, packed.view(-1, dim), start, sizes)
        return states.index_copy(0, active, last.view(-1, n_anchors, dim))


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
    for size in sizes:
        now = slice(first, first + size)
        gates = saved[0][now] if saved else inputs.new_empty(size, 3 * dim)
        _affine(bias_in, inputs[now], weight_in, gates)
        of_state = _affine(bias_state, state[:size], weight_state, gates.new_empty(size, 3 * dim))
        both = gates[:, : 2 * dim]
        both.add_(of_state[:, : 2 * dim]).sigmoid_()
        reset, update, candidate = gates.split(dim, dim=1)
        candidate.addcmul_(reset, of_state[:, 2 * dim :]).tanh_()
        if saved:
            saved[1][now] = of_state[:, 2 * dim :]
            saved[2][now] = state[:size]
        state[:size] = torch.lerp(candidate, state[:size], update)
        first += size
    return state


def _affine(bias: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """rows @ weight.T + bias. Few rows are padded: a product of 1 to 6 rows takes another kernel on a CPU, which rounds differently, and a
    state must not depend on how many users were advanced together."""
    if len(rows) >= FEWEST_ROWS:
        return torch.addmm(bias, rows, weight.T, out=out)
    padded = nn.functional.pad(rows, (0, 0, 0, FEWEST_ROWS - len(rows)))
    return out.copy_(torch.addmm(bias, padded, weight.T)[: len(rows)])
