"""Wrong keys are slowed, and nobody else: a clock of our own, no waiting."""

from __future__ import annotations

import asyncio

import pytest

from api.errors import RateLimited, Unauthorised
from api.keys import FREE_MISTAKES, MOST_WAITING, Keys

HERE, ELSEWHERE = "10.0.0.1", "10.0.0.2"


@pytest.fixture
def slept(monkeypatch):
    """Seconds that each waiting request had to wait; time goes on by nothing else."""
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr("api.keys.asyncio.sleep", sleep)
    monkeypatch.setattr("api.keys.monotonic", lambda: 1000.0)
    return waits


def guess(keys, key, client=HERE):
    return asyncio.run(keys.check(client, b"Bearer " + key))


def guess_wrongly(keys, times, client=HERE):
    for number in range(times):
        with pytest.raises(Unauthorised):
            guess(keys, b"wrong-%d" % number, client)


def test_every_mistake_beyond_the_first_ten_costs_a_second(slept):
    keys = Keys(["right"])
    guess_wrongly(keys, FREE_MISTAKES + 5)
    assert slept == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0])


def test_a_right_key_of_a_slowed_address_waits_too_or_guesses_would_not_be_slowed(slept):
    keys = Keys(["right"])
    guess_wrongly(keys, FREE_MISTAKES)
    guess(keys, b"right")
    assert slept == pytest.approx([1.0])
    guess(keys, b"right")  # known now
    assert len(slept) == 1


def test_who_was_let_in_before_and_who_asks_from_elsewhere_do_not_wait(slept):
    keys = Keys(["right", "other"])
    guess(keys, b"right")
    guess_wrongly(keys, FREE_MISTAKES + 1)
    waited = len(slept)
    guess(keys, b"right")
    guess(keys, b"right", ELSEWHERE)
    assert len(slept) == waited == 1


def test_no_key_at_all_is_no_guess(slept):
    keys = Keys(["right"])
    for header in (b"", b"Basic eDp5", b"Bearer", b"Bearer  ") * FREE_MISTAKES:
        with pytest.raises(Unauthorised):
            asyncio.run(keys.check(HERE, header))
    guess(keys, b"right")
    assert not slept


def test_one_machine_s_many_ipv6_addresses_count_as_one(slept):
    keys = Keys(["right"])
    for number in range(FREE_MISTAKES + 1):
        guess_wrongly(keys, 1, f"2001:db8:0:1::{number:x}")
    assert len(slept) == 1
    guess_wrongly(keys, 1, "2001:db8:0:2::1")
    assert len(slept) == 1


def test_guesses_at_once_wait_for_each_other_and_their_number_is_bounded(monkeypatch):
    monkeypatch.setattr("api.keys.monotonic", lambda: 1000.0)
    turns = []

    async def sleep(seconds):
        turns.append(seconds)
        await asyncio.Event().wait()

    monkeypatch.setattr("api.keys.asyncio.sleep", sleep)
    keys = Keys(["right"])
    guess_wrongly(keys, FREE_MISTAKES)

    async def flood():
        tasks = [
            asyncio.ensure_future(keys.check(HERE, b"Bearer %d" % number))
            for number in range(MOST_WAITING + 3)
        ]
        done, waiting = await asyncio.wait(tasks, timeout=0.2)
        assert [type(task.exception()) for task in done] == [RateLimited] * 3
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert keys._waiting == 0

    asyncio.run(flood())
    assert turns == pytest.approx([1.0 + number for number in range(MOST_WAITING)])


def test_mistakes_are_forgotten_with_time(slept, monkeypatch):
    keys = Keys(["right"])
    guess_wrongly(keys, FREE_MISTAKES)
    monkeypatch.setattr("api.keys.monotonic", lambda: 1000.0 + FREE_MISTAKES)
    guess_wrongly(keys, FREE_MISTAKES)
    assert not slept
