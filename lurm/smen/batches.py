"""Bags on the model's calendar grid: from the Lives of storage to the tensors that SMEN reads.

In: monthly Lives (numpy, CSR) and, for each user or window, the month it ends at. Out: SparseBags at one scale, where each row is one
non-empty period with its position on the grid.

The grid is fixed with the model. Step 0 of the months is `grid_start`, the first month with events at training time; step 0 of the
calendar years is the year of that month. Events that turn up later for a time before the grid are counted in step 0: they are not
lost, and the grid of a trained model never moves. `rolling` years are blocks of twelve months counted back from the end, so that the
last block is always full and the first may hold fewer months. A year is the sum of its months' counts; log1p comes later.
"""

from dataclasses import dataclass, fields

import numpy as np
import scipy.sparse
import torch

from lurm.bag_of_interests import Lives

CALENDAR, ROLLING = "calendar", "rolling"


@dataclass(frozen=True)
class SparseBags:
    """The non-empty bags of B users at one scale; R rows in order of (user, step), nnz non-zeros."""

    interest_ids: torch.Tensor  # (nnz,) int64
    counts: torch.Tensor  # (nnz,) float32, raw counts > 0
    offsets: torch.Tensor  # (R+1,) int64: non-zeros of row r are offsets[r]:offsets[r+1]
    users: torch.Tensor  # (R,) int64: which user of the batch
    steps: torch.Tensor  # (R,) int64: which period of the user's grid, 0 <= step < n_steps of the user
    n_steps: torch.Tensor  # (B,) int64: periods in each user's grid, empty ones included

    def to(self, device: torch.device | str) -> "SparseBags":
        return SparseBags(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))

    def of_users(self, start: int, stop: int) -> "SparseBags":
        """The bags of users start:stop, who are counted from 0 again."""
        first, last = torch.searchsorted(self.users, torch.tensor([start, stop], device=self.users.device)).tolist()
        cells = slice(*self.offsets[[first, last]].tolist())
        offsets = self.offsets[first : last + 1] - cells.start
        rows = slice(first, last)
        return SparseBags(self.interest_ids[cells], self.counts[cells], offsets, self.users[rows] - start, self.steps[rows], self.n_steps[start:stop])

    @staticmethod
    def from_dense(counts: torch.Tensor) -> "SparseBags":
        """From (B, N, D) counts, N periods for everybody: for tests and for comparison with other implementations."""
        n_users, n_steps, n_interests = counts.shape
        users, steps = (counts > 0).any(2).nonzero(as_tuple=True)
        rows = counts[users, steps]
        lengths = (rows > 0).sum(1)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        cells = (rows > 0).nonzero(as_tuple=True)
        grid = torch.full((n_users,), n_steps, dtype=torch.int64)
        return SparseBags(cells[1], rows[cells].float(), offsets, users, steps, grid)


def month_bags(months: Lives, grid_start: int, ends: np.ndarray) -> SparseBags:
    """Monthly bags of each user up to `ends`, (B,) month numbers, exclusive; months from there on are left out."""
    months, ends = _before(months, np.asarray(ends, dtype=np.int64))
    return _on_grid(months, months.periods - grid_start, ends - grid_start)


def year_bags(months: Lives, grid_start: int, ends: np.ndarray, year_blocks: str = CALENDAR) -> SparseBags:
    """Yearly bags of each user up to `ends`, (B,) month numbers, exclusive: sums of the months."""
    months, ends = _before(months, np.asarray(ends, dtype=np.int64))
    if year_blocks == CALENDAR:
        first = grid_start // 12
        return _on_grid(months, months.periods // 12 - first, (ends - 1) // 12 - first + 1)
    n_steps = -(-(ends - grid_start) // 12)
    rows = np.diff(months.row_offsets)
    back = (np.repeat(ends, rows) - 1 - months.periods) // 12  # 0 is the block that ends at the end
    return _on_grid(months, np.repeat(n_steps, rows) - 1 - back, n_steps)


def stored_year_bags(years: Lives, grid_start: int, end: int) -> SparseBags:
    """Calendar years as they are stored (years since 1970), for users that all end at month `end`, exclusive."""
    first, last = grid_start // 12, (end - 1) // 12
    ends = np.full(len(years.user_ids), last + 1, dtype=np.int64)
    years, ends = _before(years, ends)
    return _on_grid(years, years.periods - first, ends - first)


def one_step(lives: Lives) -> SparseBags:
    """Bags of a single step of the grid: everything a user has in `lives`, summed."""
    return _on_grid(lives, np.zeros(len(lives.periods), np.int64), np.ones(lives.n_users, np.int64))


def select_rows(lives: Lives, users: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> Lives:
    """Lives of W windows: window w is rows starts[w]:stops[w] of user users[w]; a user may be taken many times."""
    lengths = stops - starts
    rows = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths) + np.arange(lengths.sum())
    cell_lengths = lives.offsets[rows + 1] - lives.offsets[rows]
    offsets = np.concatenate([[0], np.cumsum(cell_lengths)]).astype(np.int64)
    cells = np.repeat(lives.offsets[rows] - offsets[:-1], cell_lengths) + np.arange(offsets[-1])
    row_offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Lives(lives.user_ids[users], row_offsets, lives.periods[rows], offsets, lives.interest_ids[cells], lives.counts[cells])


def _before(lives: Lives, ends: np.ndarray) -> tuple[Lives, np.ndarray]:
    owners = np.repeat(np.arange(len(ends)), np.diff(lives.row_offsets))
    late = np.bincount(owners[lives.periods >= ends[owners]], minlength=len(ends))
    if not late.any():
        return lives, ends
    return select_rows(lives, np.arange(len(ends)), lives.row_offsets[:-1], lives.row_offsets[1:] - late), ends


def _on_grid(lives: Lives, steps: np.ndarray, n_steps: np.ndarray) -> SparseBags:
    """Add up the rows of a user that fall on the same step; rows are ascending in time, so such rows are neighbours."""
    users = np.repeat(np.arange(len(n_steps)), np.diff(lives.row_offsets))
    steps = np.maximum(steps, 0).astype(np.int64)
    first = np.ones(len(steps), dtype=bool)
    first[1:] = (users[1:] != users[:-1]) | (steps[1:] != steps[:-1])
    rows = np.flatnonzero(first)
    interest_ids, counts, offsets = lives.interest_ids, lives.counts, lives.offsets
    if len(rows) < len(steps):
        offsets = np.append(offsets[rows], offsets[-1])
        width = int(interest_ids.max()) + 1
        cells = (counts.astype(np.int64), interest_ids.copy(), offsets)  # copied: the next line works in place
        matrix = scipy.sparse.csr_matrix(cells, shape=(len(rows), width))
        matrix.sum_duplicates()  # sorts each row and adds up equal interests
        interest_ids, counts, offsets = matrix.indices, matrix.data, matrix.indptr
    return SparseBags(
        torch.from_numpy(interest_ids.astype(np.int64)),
        torch.from_numpy(counts.astype(np.float32)),
        torch.from_numpy(offsets.astype(np.int64)),
        torch.from_numpy(users[rows].astype(np.int64)),
        torch.from_numpy(steps[rows]),
        torch.from_numpy(np.maximum(n_steps, 1).astype(np.int64)),
    )
