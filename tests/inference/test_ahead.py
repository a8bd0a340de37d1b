"""The next items are worked out while the present ones are used, in order, and no further ahead than was asked."""

import threading

import pytest

from densityclip.inference.ahead import map_ahead


def test_the_next_item_is_worked_out_while_the_caller_holds_the_one_before():
    begun = [threading.Event() for _ in range(4)]

    def work(item: int) -> int:
        begun[item].set()
        return item

    for item in map_ahead(work, range(4), most=2):
        # Without a thread that works ahead this waits for ever.
        assert all(event.wait(timeout=60) for event in begun[item : item + 3])


def test_no_more_is_taken_than_may_wait():
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    results = map_ahead(lambda item: item, items(), most=3)
    assert next(results) == 0
    assert len(taken) == 4
    assert list(results) == list(range(1, 100))


def test_an_error_comes_in_its_place_after_what_was_done_before_it():
    found = []
    with pytest.raises(ZeroDivisionError):
        found.extend(map_ahead(lambda item: 1 / item, [1, 2, 0, 4], most=4))
    results = map_ahead(lambda item: 1 / item, [1, 2, 0, 4], most=4)
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_caller_that_stops_early_leaves_no_thread_at_work():
    done, first = [], threading.Event()

    def work(item: int) -> int:
        if item:
            first.wait(timeout=60)
        done.append(item)
        return item

    results = map_ahead(work, range(50), most=20)
    assert next(results) == 0
    first.set()
    results.close()
    assert len(done) <= 21
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
