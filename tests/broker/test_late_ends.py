"""Half messages that were given up and whose producers come all the same, through deaths and restarts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pymq.errors import StoreFull
from pymq.store.messagestore import PutResult
from pymq.store.transaction_topics import CHECK_MAX_TOPIC, OP_TOPIC
from tests.broker.standing_loop import in_a_loop
from tests.broker.test_transaction_stories import Killed, die_before_put
from tests.broker.transacting import COMMIT, ROLLBACK, TransactionWorld


def die_within(world: TransactionWorld, step: Callable[[], None]) -> None:
    """Let the process die when it has written one record of this step; begin anew."""
    die_before_put(world, 1)
    with pytest.raises(Killed):
        step()
    world.kill()
    world.begin()


def restart(world: TransactionWorld) -> None:
    """A clean stop, and a start."""
    world.flush()
    world.stop()
    world.disk = world.disk.kill()
    world.begin()


def give_up(world: TransactionWorld, body: bytes = b"1") -> PutResult:
    """A half message that nobody ends in time."""
    half = world.prepare(body)
    for _ in range(2):
        world.check()
    assert [record.body for record in world.records(CHECK_MAX_TOPIC)] == [body]
    return half


@pytest.mark.parametrize("kind", [COMMIT, ROLLBACK])
def test_who_comes_late_counts_though_the_start_looks_at_its_copies_again(kind: int) -> None:
    def story() -> None:
        world = TransactionWorld(check_max=1)
        world.connect()
        world.prepare(b"open", group="nobody")  # the offset that is saved stays before it
        half = give_up(world)
        restart(world)
        world.end(kind, half)
        restart(world)
        world.end(COMMIT, half)
        assert world.delivered() == ({b"1": 1} if kind == COMMIT else {})

    in_a_loop(story)


def test_one_that_is_given_up_as_the_broker_dies_is_open_and_ends_once() -> None:
    def story() -> None:
        world = TransactionWorld(check_max=1)
        world.connect()
        half = world.prepare(b"1")
        world.check()
        die_within(world, world.check)
        assert len(world.transactions) == len(world.records(CHECK_MAX_TOPIC)) == 1
        world.end(COMMIT, half)
        world.check()
        restart(world)
        world.end(COMMIT, half)
        assert world.delivered() == {b"1": 1}

    in_a_loop(story)


@pytest.mark.parametrize("is_marked", [True, False])
@pytest.mark.parametrize("delay", ["", "DELAY\x011"])
def test_a_late_commit_that_the_broker_dies_of_is_known_at_the_next_start(
    is_marked: bool, delay: str
) -> None:
    def story() -> None:
        world = TransactionWorld(check_max=1)
        world.connect()
        half = world.prepare(b"1", properties=delay)
        for _ in range(2):
            world.check()
        world.flush()
        if not is_marked:
            world.transactions.progress.forget_mark()  # as a slave that becomes the master
        die_within(world, lambda: world.end(COMMIT, half))
        world.end(COMMIT, half)
        world.clock.advance(10_000)
        while world.delays.deliver_due():
            pass
        assert world.delivered() == {b"1": 1}

    in_a_loop(story)


def test_one_that_an_operator_resumes_as_the_broker_dies_ends_once() -> None:
    def story() -> None:
        world = TransactionWorld(check_max=1)
        world.connect()
        half = give_up(world)
        (discarded,) = world.records(CHECK_MAX_TOPIC)
        die_within(world, lambda: world.resume(discarded.offset_msg_id))
        assert len(world.transactions) == 1
        world.end(COMMIT, half)
        world.check()
        restart(world)
        world.end(COMMIT, half)
        assert world.delivered() == {b"1": 1}

    in_a_loop(story)


@pytest.mark.parametrize("is_killed", [False, True])
def test_the_op_message_of_a_late_commit_without_room_is_written_later(is_killed: bool) -> None:
    def story() -> None:
        world = TransactionWorld(check_max=1)
        world.connect()
        half = give_up(world)
        world.flush()
        put, ops = world.store.put, len(world.ops())

        def full(topic: str, *args: object, **fields: object) -> PutResult:
            if topic == OP_TOPIC:
                raise StoreFull("the disk is full")
            return put(topic, *args, **fields)  # type: ignore[arg-type]

        world.store.put = full  # type: ignore[method-assign]
        world.end(COMMIT, half)
        world.prepare(b"another", group="nobody")
        world.check()
        world.flush()
        assert len(world.ops()) == ops
        if is_killed:
            world.kill()
            world.begin()
        else:
            del world.store.put
            world.check()
            restart(world)
        assert len(world.ops()) == ops + 1
        world.end(COMMIT, half)
        assert world.delivered() == {b"1": 1}

    in_a_loop(story)
