import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryomorph.errors import InputError
from cryomorph.particles.loader import epoch_batches, prefetch

sizes = st.integers(5, 60)


def all_ranks(particles, batch_size, processes, *, seed=0, epoch=0):
    return [
        epoch_batches(particles, batch_size, seed=seed, epoch=epoch, rank=rank, processes=processes)
        for rank in range(processes)
    ]


@given(sizes, st.integers(1, 20), st.integers(1, 5), st.integers(0, 3))
@settings(deadline=None)
def test_every_row_comes_exactly_once_an_epoch(particles, batch_size, processes, epoch):
    ranks = all_ranks(particles, batch_size, processes, epoch=epoch)
    rows = np.concatenate([batch for batches in ranks for batch in batches])
    assert sorted(rows) == list(range(particles))
    assert rows.dtype == np.int64
    for rank, batches in enumerate(ranks):
        assert all(row % processes == rank for batch in batches for row in batch)


@given(sizes, st.integers(1, 20), st.integers(1, 5))
@settings(deadline=None)
def test_all_processes_make_the_same_number_of_batches_of_about_the_same_size(particles, batch_size, processes):
    ranks = all_ranks(particles, batch_size, processes)
    lengths = [len(batch) for batches in ranks for batch in batches]
    assert len({len(batches) for batches in ranks}) == 1
    assert max(lengths) <= max(batch_size, 1 if processes == 1 else 2)
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= 1


def test_order_depends_on_seed_and_epoch_and_on_nothing_else():
    order = [np.concatenate(epoch_batches(50, 8, seed=s, epoch=e)).tolist() for s in (0, 1) for e in (0, 1)]
    assert len({tuple(rows) for rows in [*order, list(range(50))]}) == 5
    np.random.seed(3)  # noqa: NPY002 - the global state must not matter
    again = [np.concatenate(epoch_batches(50, 8, seed=s, epoch=e)).tolist() for s in (0, 1) for e in (0, 1)]
    assert again == order


def test_first_batches_of_different_epochs_hold_different_rows():
    first = [frozenset(epoch_batches(1000, 10, seed=0, epoch=epoch)[0].tolist()) for epoch in range(5)]
    assert len(set(first)) == 5


@dataclass
class Stack:
    """Gives out the rows themselves; keeps track of who asked when."""

    fails_at: int = -1
    asked: list[int] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def batch(self, rows):
        if self.fails_at in rows:
            raise InputError(f"row {self.fails_at} is broken")
        self.asked.append(int(rows[0]))
        self.threads.add(threading.get_ident())
        return rows


def test_batches_come_in_their_order():
    batches = [np.array([i, 100 + i]) for i in range(20)]
    got = list(prefetch(Stack(), batches))
    np.testing.assert_array_equal(got, batches)
    assert list(prefetch(Stack(), [])) == []


def test_one_batch_is_read_ahead_in_another_thread():
    stack = Stack()
    stream = prefetch(stack, [np.array([i]) for i in range(5)])
    assert next(stream)[0] == 0
    stream.close()  # waits for the reader
    assert stack.asked == [0, 1]
    assert threading.get_ident() not in stack.threads


@pytest.mark.parametrize("broken", [0, 1, 4])
def test_an_unreadable_batch_is_reported_after_those_before_it(broken):
    stream = prefetch(Stack(fails_at=broken), [np.array([i]) for i in range(5)])
    assert [next(stream)[0] for _ in range(broken)] == list(range(broken))
    with pytest.raises(InputError, match=f"row {broken} is broken"):
        next(stream)
