"""Every ticket of the queue ends: with its embeddings, an error, or because it was cancelled."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from api.embed_queue import EmbedQueue
from api.errors import EmbeddingFailed, NotReady, QueueFull, TimedOut
from api.metrics import Metrics
from embedstore import Recipe, key_of
from embedstore.backbones.backbone import Embedded
from embedstore.build.plan import Item
from embedstore.errors import MissingWeights

RECIPE = Recipe(backbone="one-hot-mrna", view="mrna", width=4, weights=None)
OTHER = Recipe(backbone="one-hot-dna", view="dna", width=4, weights=None)
SOON = 60.0  # seconds that a busy machine never needs; nothing waits for them to pass


class Model:
    """Gives every token the length of its text; can be held still, and made to fail."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.free = threading.Event()
        self.free.set()
        self.busy = threading.Event()
        self.fails: dict[str, BaseException] = {}

    def __call__(self, recipe, items):
        self.busy.set()
        assert self.free.wait(SOON)
        self.batches.append([item.text for item in items])
        for item in items:
            if item.text in self.fails:
                raise self.fails[item.text]
        lengths = np.array([item.count for item in items], np.int64)
        rows = np.repeat(lengths, lengths).astype(np.float16)[:, None].repeat(4, axis=1)
        mean = lengths.astype(np.float32)[:, None].repeat(4, axis=1)
        return Embedded(rows, lengths, mean, None, np.ones(len(items), np.bool_))


def item(text):
    return Item(key_of(text), text, len(text), len(text))


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def make(model):
    made = []

    def start(**options):
        options = {"max_queued_tokens": 1000, "batch_tokens": 10, **options}
        made.append(EmbedQueue(model, Metrics(), **options))
        return made[-1]

    yield start
    model.free.set()
    for queue in made:
        queue.close(SOON)


def held(queue, model, text="x"):
    """A ticket that runs, and stands still."""
    model.free.clear()
    model.busy.clear()
    ticket = queue.submit(RECIPE, [item(text)], rows=False)
    assert model.busy.wait(SOON)
    return ticket


def test_rows_and_means_are_each_text_s_own(make):
    ticket = make().submit(RECIPE, [item("a"), item("bbb")], rows=True)
    found = ticket.result(SOON)
    assert found[key_of("bbb")].tokens.shape == (3, 4)
    assert (found[key_of("bbb")].tokens == 3).all()
    assert (found[key_of("a")].mean == 1).all()


def test_means_alone_hold_no_rows(make):
    found = make().submit(RECIPE, [item("a"), item("bbb")], rows=False).result(SOON)
    assert {each.tokens for each in found.values()} == {None}


def test_what_waits_runs_together_up_to_the_tokens_of_a_batch(make, model):
    queue = make()
    held(queue, model)
    texts = ["a" * 4, "b" * 4, "c" * 4, "d" * 30, "e"]
    tickets = [queue.submit(RECIPE, [item(text)], rows=False) for text in texts]
    assert queue.waiting == (5, 43)
    model.free.set()
    for ticket in tickets:
        ticket.result(SOON)
    assert model.batches[1:] == [["aaaa", "bbbb"], ["cccc"], ["d" * 30], ["e"]]
    assert queue.waiting == (0, 0)


def test_a_view_that_two_requests_want_runs_once(make, model):
    queue = make()
    held(queue, model)
    first = queue.submit(RECIPE, [item("abc")], rows=False)
    second = queue.submit(RECIPE, [item("abc"), item("de")], rows=True)
    model.free.set()
    assert second.result(SOON)[key_of("abc")].tokens.shape == (3, 4)
    assert (first.result(SOON)[key_of("abc")].mean == 3).all()
    assert Counter(text for batch in model.batches for text in batch)["abc"] == 1


def test_rows_wanted_after_a_view_began_for_its_mean_run_again(make, model):
    queue = make()
    first = held(queue, model, "abc")
    second = queue.submit(RECIPE, [item("abc")], rows=True)
    model.free.set()
    assert first.result(SOON)[key_of("abc")].tokens is None
    assert second.result(SOON)[key_of("abc")].tokens.shape == (3, 4)


def test_a_full_queue_refuses_all_of_a_request_and_takes_the_next_that_fits(make, model):
    queue = make(max_queued_tokens=10)
    held(queue, model)
    waiting = queue.submit(RECIPE, [item("a" * 8)], rows=False)
    with pytest.raises(QueueFull) as refused:
        queue.submit(OTHER, [item("b"), item("c" * 5)], rows=False)
    assert refused.value.retry_after >= 1
    assert queue.waiting == (1, 8)
    fits = queue.submit(RECIPE, [item("d" * 2)], rows=False)
    model.free.set()
    assert waiting.result(SOON) and fits.result(SOON)
    ran = {text for batch in model.batches for text in batch}
    assert ran == {"x", "a" * 8, "d" * 2}


def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits(make):
    ticket = make(max_queued_tokens=2).submit(RECIPE, [item("abcdef")], rows=False)
    assert ticket.result(SOON)


def test_an_exception_reaches_the_requests_of_its_sequence_alone(make, model):
    queue = make(batch_tokens=100)
    held(queue, model)
    model.fails["bad"] = RuntimeError("boom")
    texts = ["a", "bb", "bad", "cccc", "ddddd"]
    tickets = {text: queue.submit(RECIPE, [item(text)], rows=False) for text in texts}
    both = queue.submit(RECIPE, [item("a"), item("bad")], rows=False)
    model.free.set()
    for text in set(texts) - {"bad"}:
        assert (tickets[text].result(SOON)[key_of(text)].mean == len(text)).all()
    for ticket in (tickets["bad"], both):
        with pytest.raises(EmbeddingFailed, match=key_of("bad")):
            ticket.result(SOON)
    assert queue.submit(RECIPE, [item("after")], rows=False).result(SOON)  # the thread lives


def test_our_own_error_is_passed_on_as_it_is(make, model):
    model.fails["a"] = MissingWeights("none", "find some")
    with pytest.raises(MissingWeights):
        make().submit(RECIPE, [item("a")], rows=False).result(SOON)
    assert model.batches == [["a"]]


def test_a_batch_that_cannot_be_handed_out_fails_and_hangs_nobody(make, model):
    queue = make()
    queue._embed = lambda recipe, items: object()  # no embeddings at all
    with pytest.raises(EmbeddingFailed):
        queue.submit(RECIPE, [item("a")], rows=False).result(SOON)
    queue._embed = model
    assert queue.submit(RECIPE, [item("a")], rows=False).result(SOON)


def test_out_of_memory_halves_batches_for_good(make, model):
    class OutOfMemoryError(RuntimeError):
        pass

    queue = make(batch_tokens=8)

    def embed(recipe, items):
        if sum(each.cost for each in items) > 4:
            raise OutOfMemoryError
        return model(recipe, items)

    queue._embed = embed
    held(queue, model)
    tickets = [queue.submit(RECIPE, [item(text * 2)], rows=False) for text in "abcdefgh"]
    model.free.set()
    for ticket in tickets:
        ticket.result(SOON)
    assert model.batches[1:] == [["aa", "bb"], ["cc", "dd"], ["ee", "ff"], ["gg", "hh"]]


def test_a_cancelled_ticket_frees_its_place_and_is_never_run(make, model):
    queue = make(max_queued_tokens=5)
    held(queue, model)
    gone = queue.submit(RECIPE, [item("aaaaa")], rows=False)
    gone.cancel()
    assert queue.waiting == (0, 0)
    stays = queue.submit(RECIPE, [item("bbbbb")], rows=False)
    model.free.set()
    assert stays.result(SOON)
    assert ["aaaaa"] not in model.batches


def test_cancelled_tickets_leave_nothing_behind_while_the_model_is_busy(make, model):
    queue = make()
    first = held(queue, model)
    for number in range(50):
        queue.submit(RECIPE, [item("a" * (number + 2))], rows=True).cancel()
    assert queue.waiting == (0, 0)
    assert not queue._lines[RECIPE.name].waiting
    model.free.set()
    assert first.result(SOON)
    assert len(model.batches) == 1


def test_rows_of_a_view_that_runs_for_its_mean_need_room(make, model):
    queue = make(max_queued_tokens=4)
    first = held(queue, model, "abc")
    waiting = queue.submit(RECIPE, [item("wxy")], rows=False)
    with pytest.raises(QueueFull):
        queue.submit(RECIPE, [item("abc")], rows=True)
    model.free.set()
    assert first.result(SOON) and waiting.result(SOON)


def test_what_another_request_wants_too_survives_a_cancellation(make, model):
    queue = make()
    held(queue, model)
    gone, stays = (queue.submit(RECIPE, [item("abc")], rows=False) for _ in range(2))
    gone.cancel()
    model.free.set()
    assert stays.result(SOON)
    assert gone.future.cancelled()


def test_waiting_too_long_is_an_error_and_frees_the_place(make, model):
    queue = make()
    held(queue, model)
    ticket = queue.submit(RECIPE, [item("abc")], rows=False)
    with pytest.raises(TimedOut):
        ticket.result(0.01)
    assert queue.waiting == (0, 0)


def test_closing_finishes_what_waits_and_takes_nothing_more(make, model):
    queue = make()
    first = held(queue, model)
    waiting = queue.submit(RECIPE, [item("abc")], rows=False)
    closing = threading.Thread(target=queue.close, args=(SOON,))
    closing.start()
    while queue.open:
        time.sleep(0.001)
    with pytest.raises(NotReady):
        queue.submit(RECIPE, [item("late")], rows=False)
    model.free.set()
    closing.join(SOON)
    assert first.result(0) and waiting.result(0)


def test_what_is_not_done_when_closing_ends_fails_and_is_not_left_hanging(make, model):
    queue = make()
    first = held(queue, model)
    waiting = queue.submit(RECIPE, [item("abc")], rows=False)
    queue.close(0.01)
    for ticket in (first, waiting):
        with pytest.raises(NotReady):
            ticket.result(0)
    model.free.set()  # the model's late answer troubles nobody


def test_closing_fails_a_view_that_runs_for_its_mean_and_waits_for_its_rows(make, model):
    queue = make()
    means = held(queue, model, "abc")
    rows = queue.submit(RECIPE, [item("abc")], rows=True)
    queue.close(0.01)
    for ticket in (means, rows):
        with pytest.raises(NotReady):
            ticket.result(0)
    model.free.set()


def test_recipes_do_not_wait_for_each_other(make, model):
    """Each has a thread of its own."""
    queue = make()
    names = []
    queue._embed = lambda recipe, items: (
        names.append(threading.current_thread().name) or model(recipe, items)
    )
    for recipe in (RECIPE, OTHER, RECIPE):
        queue.submit(recipe, [item(recipe.name + str(len(names)))], rows=False).result(SOON)
    assert names == [f"model {recipe.name}" for recipe in (RECIPE, OTHER, RECIPE)]


@pytest.mark.parametrize("seed", range(3))
def test_under_load_every_request_is_answered_refused_or_cancelled(make, model, seed):
    """Random requests from many threads, some failing, some cancelled, a queue that is often full:
    the outcomes add up, answers are right, and nothing is left in the queue."""
    queue = make(max_queued_tokens=60, batch_tokens=20)
    model.fails["!" * 7] = RuntimeError("boom")

    def ask(number):
        rng = random.Random(f"{seed} {number}")
        texts = {rng.choice("abcdef!") * rng.randint(1, 9) for _ in range(rng.randint(1, 4))}
        try:
            ticket = queue.submit(RECIPE, [item(text) for text in texts], rows=rng.random() < 0.5)
        except QueueFull:
            return "refused"
        if rng.random() < 0.2:
            ticket.cancel()
            assert ticket.future.done()
            return "cancelled"
        try:
            found = ticket.result(SOON)
        except EmbeddingFailed:
            assert "!" * 7 in texts
            return "failed"
        assert found.keys() == {key_of(text) for text in texts}
        assert all((found[key_of(text)].mean == len(text)).all() for text in texts)
        return "answered"

    with ThreadPoolExecutor(16) as pool:
        outcomes = Counter(pool.map(ask, range(300)))
    assert sum(outcomes.values()) == 300
    assert outcomes["answered"] > 0 and outcomes["cancelled"] > 0
    assert queue.waiting == (0, 0)
    assert not any(line.by_key for line in queue._lines.values() if not line.waiting)
