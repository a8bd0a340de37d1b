"""Sharing out: patients to parts of given sizes, so that every stratum they belong to is shared out alike.

Patients of the same strata are interchangeable, so what is decided is a small table: how many patients of each
combination of strata go to each part. A combination is shared out by whole numbers first; its few left-over patients
follow one by one, the rarest combination first, to the part whose strata lack most (the idea of Sechidis, Tsoumakas
and Vlahavas, ECML PKDD 2011, for single samples); then patients change places while that brings the table closer to
what was wished. Who of a combination goes where is left open by all this, and is used to share out the images too:
women have one exam or ten.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

_Counts = NDArray[np.int64]
# Of each part, so many combinations are tried for an exchange at a time; and exchanging ends after so many looks at a
# stratum of a combination. Sixty sites need a tenth of that; three thousand would otherwise exchange for half a minute.
_TRIED = 64
_LOOKS = 300_000_000
# For images: so many patients of each part are looked at in a round, so many exchanged, and so many rounds at most. It
# is for cohorts of hundreds; of many thousands, taking turns alone shares the images out.
_SAMPLED = 2048
_SWAPS = 64
_ROUNDS = 20


def whole_numbers(total: int, shares: Sequence[float]) -> list[int]:
    """Sizes of parts that add up: the largest remainders are rounded up, and no part is empty.

    Args:
        total: Patients; at least one a part.
        shares: Of each part, above 0 and adding up to 1.

    Raises:
        ValueError: There are fewer patients than parts.
    """
    if total < len(shares):
        raise ValueError(f"{total} patients for {len(shares)} parts")
    numbers = [max(int(share * total), 1) for share in shares]
    while sum(numbers) != total:
        step = 1 if sum(numbers) < total else -1
        open_parts = [part for part, number in enumerate(numbers) if step > 0 or number > 1]
        numbers[max(open_parts, key=lambda part: step * (shares[part] * total - numbers[part]))] += step
    return numbers


def apportion(
    combinations: NDArray[np.int64],
    order: NDArray[np.float64],
    strata: sparse.csr_matrix,
    sizes: Sequence[int],
) -> NDArray[np.int64]:
    """Give every patient a part.

    Args:
        combinations: `[patients]`, the combination of strata that each patient belongs to.
        order: `[patients]`, numbers by which patients of a combination are lined up: parts take turns along this line,
            so that what it is sorted by is shared out too.
        strata: `[combinations, strata]`, the weight with which each stratum counts for a combination, 0 if the
            combination does not belong to it.
        sizes: Patients of each part; they add up.

    Returns:
        `[patients]`, the place of the part in `sizes`.
    """
    patients = np.bincount(combinations, minlength=strata.shape[0]).astype(np.int64)
    table = _Table(patients, strata, np.asarray(sizes, dtype=np.int64))
    table.hand_out_whole_numbers()
    table.hand_out_the_rest()
    table.exchange()
    return _take_turns(combinations, order, table.given)


class _Table:
    """How many patients of each combination go to each part, and how far the strata are from their wish."""

    def __init__(self, patients: _Counts, strata: sparse.csr_matrix, sizes: _Counts) -> None:
        self.patients, self.sizes = patients, sizes
        weight = np.asarray(strata.max(axis=0).todense()).ravel()
        self.member = strata.astype(bool).astype(np.float64).tocsr()
        # Every combination is a stratum of its own too.
        self.member = sparse.hstack([self.member, sparse.identity(len(patients))], format="csr")
        self.weight = np.concatenate([weight, np.ones(len(patients))])
        self.given = np.zeros((len(patients), len(sizes)), dtype=np.int64)
        self.lack = (self.member.T @ patients)[:, None] * (sizes / sizes.sum())[None, :]

    def _give(self, combination: int, part: int, number: int) -> None:
        self.given[combination, part] += number
        row = slice(self.member.indptr[combination], self.member.indptr[combination + 1])
        self.lack[self.member.indices[row], part] -= number

    def hand_out_whole_numbers(self) -> None:
        # In whole numbers, so that no rounding of floats makes a part larger than its size.
        self.given = self.patients[:, None] * self.sizes[None, :] // self.sizes.sum()
        self.lack -= self.member.T @ self.given

    def hand_out_the_rest(self) -> None:
        left = self.patients - self.given.sum(axis=1)
        free = self.sizes - self.given.sum(axis=0)
        for combination in np.lexsort((np.arange(len(left)), self.patients)):
            row = slice(self.member.indptr[combination], self.member.indptr[combination + 1])
            strata = self.member.indices[row]
            for _ in range(left[combination]):
                wanted = np.where(free > 0, self.weight[strata] @ self.lack[strata], -np.inf)
                part = int(wanted.argmax())
                self._give(combination, part, 1)
                free[part] -= 1

    def exchange(self) -> None:
        """Let two patients of two parts change places while the weighted squares of all lacks get smaller."""
        parts = len(self.sizes)
        pairs = [(one, other) for one in range(parts) for other in range(parts) if one < other]
        for _ in range(1 + _LOOKS // (1 + self.member.nnz * len(pairs))):
            changed = [self._exchange_once(one, other) for one, other in pairs]
            if not any(changed):
                return

    def _exchange_once(self, one: int, other: int) -> bool:
        # A patient that leaves `one` for `other` lowers the squares by twice this, less twice the weights it touches.
        pull = self.member @ (self.weight * (self.lack[:, other] - self.lack[:, one]))
        here, there = (np.flatnonzero(self.given[:, part]) for part in (one, other))
        here = here[np.argsort(-pull[here], kind="stable")[:_TRIED]]
        there = there[np.argsort(pull[there], kind="stable")[:_TRIED]]
        if not (len(here) and len(there)):
            return False
        first, second = self.member[here], self.member[there]
        common = (first.multiply(self.weight) @ second.T).toarray()
        touched = (first @ self.weight)[:, None] + (second @ self.weight)[None, :] - 2 * common
        gain = pull[here][:, None] - pull[there][None, :] - touched
        row, column = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[row, column] <= 1e-9:
            return False
        for combination, source, target in ((here[row], one, other), (there[column], other, one)):
            self._give(int(combination), source, -1)
            self._give(int(combination), target, 1)
        return True


def even_out(
    parts: NDArray[np.int64],
    combinations: NDArray[np.int64],
    images: sparse.csr_matrix,
    sizes: Sequence[int],
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """Let patients of the same combination change places while the images of all strata are shared out better.

    Args:
        parts: `[patients]`, the place of the part in `sizes`.
        combinations: `[patients]`; the table of combinations and parts stays as it is.
        images: `[patients, strata]`, how many images of a stratum each patient has.
        sizes: Patients of each part: the shares that are wished.
        random: Chooses who is looked at.

    Returns:
        `[patients]`, the new places.
    """
    parts, shares = parts.copy(), np.asarray(sizes) / sum(sizes)
    counts = np.stack([np.asarray(images[parts == part].sum(axis=0)).ravel() for part in range(len(sizes))], axis=1)
    lack = counts.sum(axis=1, keepdims=True) * shares[None, :] - counts
    pairs = [(one, other) for one in range(len(sizes)) for other in range(len(sizes)) if one < other]
    for _ in range(_ROUNDS):
        changed = [_swap_twins(parts, combinations, images, lack, pair, random) for pair in pairs]
        if not any(changed):
            break
    return parts


def _swap_twins(
    parts: NDArray[np.int64],
    combinations: NDArray[np.int64],
    images: sparse.csr_matrix,
    lack: NDArray[np.float64],
    pair: tuple[int, int],
    random: np.random.Generator,
) -> bool:
    one, other = pair
    first, second = _twins(combinations, np.flatnonzero(parts == one), np.flatnonzero(parts == other), random)
    if not len(first):
        return False
    moved = (images[first] - images[second]).tocsr()
    cost = np.asarray(moved.multiply(moved).sum(axis=1)).ravel()
    changed = False
    for _ in range(min(len(first), _SWAPS)):
        gain = moved @ (lack[:, other] - lack[:, one]) - cost
        best = int(gain.argmax())
        if gain[best] <= 1e-9:
            break
        change = moved[best].toarray().ravel()
        lack[:, one] += change
        lack[:, other] -= change
        parts[first[best]], parts[second[best]] = other, one
        cost[best] = np.inf
        changed = True
    return changed


def _twins(
    combinations: NDArray[np.int64],
    here: NDArray[np.int64],
    there: NDArray[np.int64],
    random: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of patients of one combination from two parts, drawn by chance."""
    lines = []
    for who in (here, there):
        line = random.permutation(who)[:_SAMPLED]
        line = line[np.argsort(combinations[line], kind="stable")]
        start = np.searchsorted(combinations[line], combinations[line])
        lines.append((line, combinations[line] * _SAMPLED + np.arange(len(line)) - start))
    _, first, second = np.intersect1d(lines[0][1], lines[1][1], assume_unique=True, return_indices=True)
    return lines[0][0][first], lines[1][0][second]


def _take_turns(combinations: _Counts, order: NDArray[np.float64], given: _Counts) -> _Counts:
    """Parts of patients along the line of each combination, evenly spread."""
    cells = given.ravel()
    combination, part = np.divmod(np.repeat(np.arange(cells.size), cells), given.shape[1])
    number = np.arange(cells.sum()) - np.repeat(np.cumsum(cells) - cells, cells)
    turn = (number + 0.5) / np.repeat(cells, cells)
    # Of parts whose turn is the same, another one goes first in each combination.
    first = (part + combination) % given.shape[1]
    result = np.empty(len(combinations), dtype=np.int64)
    result[np.lexsort((order, combinations))] = part[np.lexsort((first, turn, combination))]
    return result
