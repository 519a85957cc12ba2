"""The writing lane: in order, bounded, and an error or a stall always reaches the caller."""

from __future__ import annotations

import threading
import time

import pytest

from embedstore.build.lane import Lane, StalledLane


def test_jobs_are_done_in_order_and_all_before_leaving():
    done = []
    with Lane("writer") as lane:
        for number in range(50):
            lane.put(lambda number=number: done.append(number))
    assert done == list(range(50))


def test_what_a_job_raises_is_raised_in_the_caller_and_later_jobs_are_dropped():
    done = []

    def fail() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"), Lane("writer", depth=1) as lane:
        lane.put(fail)
        for _ in range(100):
            lane.put(lambda: done.append(1))
    assert not done


def test_an_error_of_the_last_job_is_not_lost():
    def fail() -> None:
        raise ValueError("late")

    with pytest.raises(ValueError, match="late"), Lane("writer") as lane:
        lane.put(fail)


def test_a_stalled_job_ends_the_run_with_an_error_that_names_it(monkeypatch):
    monkeypatch.setattr("embedstore.build.lane.LAST_JOB", 0.1)
    stuck = threading.Event()
    try:
        with (
            pytest.raises(StalledLane, match="writer has made no progress"),
            Lane("writer", depth=1, patience=0.3) as lane,
        ):
            for _ in range(3):
                lane.put(lambda: stuck.wait(60) and None)
    finally:
        stuck.set()


def test_leaving_with_an_error_drops_what_has_not_begun():
    done = []
    lane = Lane("writer", depth=5)

    def until_left():  # however long this machine takes to leave
        end = time.monotonic() + 60
        while not lane._dropping and time.monotonic() < end:
            time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt), lane:
        lane.put(until_left)
        lane.put(lambda: done.append(1))
        raise KeyboardInterrupt
    assert not lane._thread.is_alive()
    assert not done
