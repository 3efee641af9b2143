"""The GRU over the calendar grid: last state per user and anchor, at the price of the non-silent part of a life.

In: bag embeddings of the non-empty periods. Out: the state after the last period of each user's grid. The result is that of a plain
GRU run over every period from step 0 with zero inputs for empty ones (a test holds it to that); five things make it cheap:
the state after k leading zero inputs is the same for everybody and computed once; sequences are packed, longest first, so that no
padding is computed; a silent period costs the state's product alone, because that of a zero input is zero; on a CPU a step is compiled loops over
as many users as fit into the cache, who go through their lives together (`lurm.smen.loops`); and the backward pass is written out, because autograd
over slices of one large tensor fills a gradient of the whole tensor at every step (measured: 2.5 of 2.8 seconds of a training step with nn.GRU on a
CPU).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from lurm.smen.batches import SparseBags
from lurm.smen.compiled import loops_for
from lurm.smen.weight_products import FEWEST_ROWS, Columns, by_torch, loop_columns

ROWS_AT_A_TIME = 640  # of the compiled loops: what a product writes is still in the cache when it is read
STEPS_OF_A_THREAD = 8  # fewer take less time than the thread
NOTHING = np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class Packing:
    """The order in which a batch of bags goes through the recurrence: time is outermost and the longest life comes first.

    Time 0 of a user is his first non-empty period; from there to the end of his grid he runs, in silence where a period is empty. Neither padding
    nor silence has a place among the inputs.
    """

    places: torch.Tensor  # (R,) int64: of every row of the bags among the inputs, by time and rank
    ranks: torch.Tensor  # (R,) int64: of the user of every input, 0 is the longest life
    filled: list[int]  # inputs at each time
    running: list[int]  # users that still run at each time
    first: torch.Tensor  # (B,) int64: first non-empty step of each user; of users without rows the end of the grid
    active: torch.Tensor  # (A,) int64: users with rows, longest first


class StepWeights(NamedTuple):
    """A GRU's weights, transposed, because one kind of product is much quicker than the other."""

    input: torch.Tensor  # (H, 3H): reset, update, candidate
    state: torch.Tensor  # (H, 3H)
    bias: torch.Tensor  # (4H): of reset, update, candidate and the state's part of the candidate
    columns: Columns | None  # for loops, where they are quicker than torch


def pack(bags: SparseBags) -> Packing:
    """The packing of a batch of bags."""
    n_users, device = len(bags.n_steps), bags.n_steps.device
    first = bags.n_steps.clone()
    first.scatter_reduce_(0, bags.users, bags.steps, "amin")
    remaining = bags.n_steps - first  # periods from the first non-empty one to the end
    by_length = torch.argsort(remaining, descending=True, stable=True)
    active = by_length[: int((remaining > 0).sum())]
    if not len(active):
        return Packing(bags.users.new_zeros(0), bags.users.new_zeros(0), [], [], first, active)
    running = torch.bincount(remaining[active] - 1).flip(0).cumsum(0).flip(0)
    rank = torch.empty_like(by_length).scatter_(0, by_length, torch.arange(n_users, device=device))
    times, ranks = bags.steps - first[bags.users], rank[bags.users]
    order = torch.argsort(times * n_users + ranks)
    places = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=device))
    return Packing(places, ranks[order], torch.bincount(times, minlength=len(running)).tolist(), running.tolist(), first, active)


def last_states(gru: nn.GRU, inputs: torch.Tensor, bags: SparseBags) -> torch.Tensor:
    """State of the GRU after the last period of every user's grid, for each anchor by itself: (B, M, H) float32.

    inputs (R, M, H) are the rows of `bags`; the state before step 0 is 0, and every period without a row is a zero input.
    """
    packing = pack(bags)
    order = torch.empty_like(packing.places).scatter_(0, packing.places, torch.arange(len(packing.places), device=packing.places.device))
    return last_states_packed(gru, inputs[order], packing)


def last_states_packed(gru: nn.GRU, packed: torch.Tensor, packing: Packing, silent: torch.Tensor | None = None) -> torch.Tensor:
    """The same from inputs that lie in their places already, (R, M, H); `silent` are the states of silence, of as many steps as it takes."""
    n_anchors, dim = packed.shape[1:]
    with torch.autocast(packed.device.type, enabled=False):  # long recurrences stay in float32
        if silent is None:
            silent = states_of_silence(gru, int(packing.first.max()) if len(packing.first) else 0)
        states = nn.functional.embedding(packing.first, silent)[:, None].expand(-1, n_anchors, -1)
        if not packing.running:
            return states
        start = states[packing.active].reshape(-1, dim)
        last = _recur(gru, packed.float().reshape(-1, dim), start, packing)
        return states.index_copy(0, packing.active, last.view(-1, n_anchors, dim))


def states_of_silence(gru: nn.GRU, n_steps: int) -> torch.Tensor:
    """(n_steps + 1, H): row k is the state after k zero inputs."""
    start = gru.weight_hh_l0.new_zeros(1, gru.hidden_size)
    if n_steps == 0:
        return start
    if torch.is_grad_enabled():
        return torch.cat([start, gru(start.new_zeros(1, n_steps, gru.input_size))[0][0]])
    nobody = torch.zeros(0, dtype=torch.int64, device=start.device)
    kept = tuple(start.new_empty(n_steps, width * start.shape[1]) for width in (3, 1, 1))
    last = _forward(start[:0], start, step_weights(gru), Packing(nobody, nobody, [0] * n_steps, [1] * n_steps, nobody, nobody), kept)
    return torch.cat([kept[2], last])


def step_weights(gru: nn.GRU) -> StepWeights:
    """The weights of a GRU as its steps use them."""
    return _as_used(gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0)


def next_states(weights: StepWeights, inputs: torch.Tensor, users: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """One step of B users, for inference: inputs (R, M, H) of `users`, (R,) ascending, the others are silent; states (B, M, H) before it give
    those after it, (B, M, H) float32."""
    if not len(states):
        return states
    dim, nobody = states.shape[2], users[:0]
    step = Packing(nobody, users, [len(users)], [len(states)], nobody, nobody)
    return _forward(inputs.reshape(-1, dim), states.reshape(-1, dim), weights, step).view(states.shape)


def _recur(gru: nn.GRU, inputs: torch.Tensor, start: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Last states (A x M, H) of the sequences of A users; inputs (R x M, H) in their places."""
    weights = (gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (inputs, start, *weights)):
        return _Recurrence.apply(inputs, start, *weights, packing)
    return _forward(inputs, start, _as_used(*weights), packing)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(context, inputs, start, weight_in, weight_state, bias_in, bias_state, packing):
        n_states = sum(packing.running) * len(start) // packing.running[0]
        saved = tuple(inputs.new_empty(n_states, width * start.shape[1]) for width in (3, 1, 1))
        last = _forward(inputs, start, _as_used(weight_in, weight_state, bias_in, bias_state), packing, saved)
        context.save_for_backward(inputs, weight_in, weight_state, *saved)
        context.packing = packing
        return last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        inputs, weight_in, weight_state, gates, proposed, previous = context.saved_tensors
        packing, dim = context.packing, gradient.shape[1]
        n_anchors = len(gradient) // packing.running[0]
        d_state, d_inputs = gradient.clone(memory_format=torch.contiguous_format), torch.empty_like(inputs)
        # Of the four parts of a step (candidate, reset, update, the state's part of the candidate) the input has the first three, the state the last.
        by_part = torch.cat([weight_in[2 * dim :], weight_in[: 2 * dim]])
        d_in, d_weight_state, d_bias = torch.zeros_like(by_part), torch.zeros_like(weight_state), weight_in.new_zeros(4 * dim)
        loops, at_once = _loops_and_users(d_state, packing, n_anchors, torch.get_num_threads())
        room = d_state.new_empty(at_once * n_anchors, 4 * dim)
        stop, last = len(gates), len(packing.ranks)
        for users, filled in zip(reversed(packing.running), reversed(packing.filled), strict=True):
            begin, ranks = stop - users * n_anchors, packing.ranks[last - filled : last]
            for start, size, place, n_given in _pieces(users, ranks, at_once):
                now = slice(begin + start * n_anchors, begin + (start + size) * n_anchors)
                d = d_state[start * n_anchors : (start + size) * n_anchors]
                d_parts = _gate_gradients(loops, d, gates[now], proposed[now], previous[now], room[: len(d)])
                of_given = d_parts[:, : 3 * dim]
                if n_given < size:
                    of_given = _of_users(of_given.contiguous(), n_anchors)[ranks[place : place + n_given] - start].view(-1, 3 * dim)
                given = slice((last - filled + place) * n_anchors, (last - filled + place + n_given) * n_anchors)
                torch.mm(of_given, by_part, out=d_inputs[given])
                d_in.addmm_(of_given.T, inputs[given])
                d_weight_state.addmm_(d_parts[:, dim:].T, previous[now])
                d_bias += d_parts.sum(0)
                d.addmm_(d_parts[:, dim:], weight_state)
            stop, last = begin, last - filled
        d_weight_in, d_bias_in = torch.cat([d_in[dim:], d_in[:dim]]), torch.cat([d_bias[dim : 3 * dim], d_bias[:dim]])
        return d_inputs, d_state, d_weight_in, d_weight_state, d_bias_in, d_bias[dim:], None


def _gate_gradients(loops, d_state, gates, proposed, previous, room) -> torch.Tensor:
    """Gradients (S, 4H) of candidate, reset, update and the state's part of the candidate, before their nonlinearity, in `room`; of d_state (S, H),
    that of the state after a step, what goes straight to the state before is left."""
    if loops is not None:
        loops.gate_gradients(*(part.numpy() for part in (d_state, gates, proposed, previous, room)))
        return room
    (reset, update, candidate), (d_candidate, d_reset, d_update, d_proposed) = gates.chunk(3, dim=1), room.chunk(4, dim=1)
    torch.mul(d_state * (1 - update), 1 - candidate * candidate, out=d_candidate)
    torch.mul(d_candidate * proposed, reset * (1 - reset), out=d_reset)
    torch.mul(d_state * (previous - candidate), update * (1 - update), out=d_update)
    torch.mul(d_candidate, reset, out=d_proposed)
    d_state *= update
    return room


def _loops_and_users(state: torch.Tensor, packing: Packing, n_anchors: int, threads: int) -> tuple[ModuleType | None, int]:
    """The compiled loops, if they can be taken, and how many users go through a step at a time, if so many threads multiply together."""
    loops, users = loops_for(state), packing.running[0]
    return loops, users if loops is None else min(users, max(1, ROWS_AT_A_TIME * threads // n_anchors))


def _pieces(users: int, ranks: torch.Tensor, at_once: int) -> list[tuple[int, int, int, int]]:
    """(first user, users, first input, inputs) of equal parts of at most `at_once` users; ranks are the users of the inputs, ascending."""
    if users <= at_once:
        return [(0, users, 0, len(ranks))]
    size = -(-users // -(-users // at_once))
    starts = list(range(0, users, size))
    edges = [*np.searchsorted(ranks.numpy(), starts).tolist(), len(ranks)]
    return [(start, min(size, users - start), edges[piece], edges[piece + 1] - edges[piece]) for piece, start in enumerate(starts)]


def _as_used(weight_in, weight_state, bias_in, bias_state) -> StepWeights:
    dim = weight_in.shape[0] // 3
    bias = torch.cat([bias_in[: 2 * dim] + bias_state[: 2 * dim], bias_in[2 * dim :], bias_state[2 * dim :]])
    transposed = (weight.detach().T.contiguous() for weight in (weight_in, weight_state))
    return StepWeights(*transposed, bias.detach(), loop_columns(weight_in, weight_state))


def _forward(inputs, start, weights, packing, saved=None):
    """The recurrence of torch.nn.GRU; `saved` takes gates (N, 3H), the state's part of the candidate (N, H), the state before (N, H).

    So many users as fit into the cache go through all their steps together, side by side with others where each product is one thread's.
    """
    state, n_users = start.detach().clone(memory_format=torch.contiguous_format), packing.running[0]
    n_anchors, in_loops = len(start) // n_users, weights.columns is not None and loops_for(start) is not None
    threads = torch.get_num_threads() if in_loops and len(packing.running) >= STEPS_OF_A_THREAD else 1
    loops, at_once = _loops_and_users(state, packing, n_anchors, 1 if in_loops else torch.get_num_threads())
    size = -(-n_users // max(-(-n_users // at_once), min(threads, n_users)))
    begins = list(range(0, n_users, size))
    edges = _edges(packing, begins)
    some = _some_in_loops if in_loops else _some_by_steps
    through_life = partial(some, loops, inputs, state, weights, packing, saved, size, edges)
    with _side_by_side(min(len(begins), threads)) as each:
        list(each(through_life, range(len(begins))))
    return state


def _some_in_loops(loops, inputs, state, weights, packing, saved, size, edges, part) -> None:
    """Users of a part, `size` of them, through all their steps."""
    kept = (NOTHING,) * 3 if saved is None else tuple(part_of.numpy() for part_of in saved)
    loops.steps(
        inputs.detach().numpy(), packing.ranks.numpy(), edges[part], edges[part + 1], np.array(packing.running), part * size, size,
        len(state) // packing.running[0], *weights.columns, weights.bias.numpy(), state.numpy(), *kept,
    )  # fmt: skip


@torch.no_grad()  # in every thread
def _some_by_steps(loops, inputs, state, weights, packing, saved, size, edges, part) -> None:
    """The same by torch's products."""
    n_anchors, begin, first, step = len(state) // packing.running[0], part * size, 0, _step if loops is None else partial(_compiled_step, loops)
    rooms = tuple(state.new_empty(max(FEWEST_ROWS, size * n_anchors), 3 * state.shape[1]) for _ in range(2))  # what the products write
    for users, start, stop in zip(packing.running, edges[part].tolist(), edges[part + 1].tolist(), strict=True):
        if users <= begin:
            return
        rows = slice(begin * n_anchors, min(begin + size, users) * n_anchors)
        kept = None if saved is None else tuple(part_of[first + rows.start : first + rows.stop] for part_of in saved)
        some = inputs[start * n_anchors : stop * n_anchors]
        step(some, packing.ranks[start:stop] - begin, state[rows], n_anchors, weights, rooms, kept)
        first += users * n_anchors


def _edges(packing: Packing, begins: list[int]) -> np.ndarray:
    """(parts + 1, times) int64: where the inputs of each part begin at each time, users from begins[part] on; the last row is where they end."""
    ends = np.cumsum(packing.filled)
    if len(begins) == 1:
        return np.stack([ends - packing.filled, ends])
    n_users = packing.running[0]
    times = np.repeat(np.arange(len(ends)), packing.filled)
    wanted = np.arange(len(ends)) * n_users + np.array([*begins, n_users])[:, None]
    return np.searchsorted(times * n_users + packing.ranks.numpy(), wanted)


@contextmanager
def _side_by_side(n_threads: int) -> Iterator[Callable]:
    """A map by n_threads."""
    if n_threads == 1:
        yield map
        return
    with ThreadPoolExecutor(n_threads) as pool:
        yield pool.map


def _step(given, ranks, state, n_anchors, weights, rooms, kept) -> None:
    """One step in torch's functions: `state` (users x M, H) becomes the state after it; given (len(ranks) x M, H) are the inputs there are."""
    dim, n_rows, bias = state.shape[1], len(state), weights.bias
    gates = rooms[0][:n_rows] if kept is None else kept[0]
    if len(given) < n_rows:
        of_given = by_torch(given, weights.input, given.new_empty(len(given), 3 * dim))
        _of_users(gates.zero_(), n_anchors).index_copy_(0, ranks, _of_users(of_given, n_anchors))
    else:
        by_torch(given, weights.input, gates)
    of_state = by_torch(state, weights.state, rooms[1][:n_rows])
    both, candidate = gates[:, : 2 * dim], gates[:, 2 * dim :]
    both.add_(of_state[:, : 2 * dim]).add_(bias[: 2 * dim]).sigmoid_()
    reset, update = both.split(dim, dim=1)
    proposed = of_state[:, 2 * dim :].add_(bias[3 * dim :])
    candidate.add_(bias[2 * dim : 3 * dim]).addcmul_(reset, proposed).tanh_()
    if kept is not None:
        kept[1].copy_(proposed)
        kept[2].copy_(state)
    state.copy_(torch.lerp(candidate, state, update))


def _compiled_step(loops, given, ranks, state, n_anchors, weights, rooms, kept) -> None:
    """The same with the compiled loops."""
    of_given, of_state = by_torch(given, weights.input, rooms[0][: len(given)]), by_torch(state, weights.state, rooms[1][: len(state)])
    silence, kept = np.zeros(rooms[0].shape[1], np.float32), (NOTHING,) * 3 if kept is None else tuple(part.numpy() for part in kept)
    loops.gates(of_given.numpy(), silence, ranks.numpy(), n_anchors, of_state.numpy(), weights.bias.numpy(), state.numpy(), *kept)


def _of_users(rows: torch.Tensor, n_anchors: int) -> torch.Tensor:
    """(users x M, W) as (users, M x W)."""
    return rows.view(-1, n_anchors * rows.shape[1])
