"""Transactions through kills between any two records, power cuts, checks and restarts."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from pymq.errors import ResponseError
from pymq.store.messagestore import PutResult
from pymq.store.transaction_topics import HALF_TOPIC
from tests.broker.standing_loop import in_a_loop
from tests.broker.transacting import COMMIT, MINUTE_MS, ROLLBACK, TransactionWorld

UNKNOWN = 0


class Killed(BaseException):
    """The process dies here."""


def die_before_put(world: TransactionWorld, count: int) -> None:
    """Let the process die before it writes its record number `count` from now."""
    put = world.store.put
    left = count

    def dying(*args: object, **fields: object) -> PutResult:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return put(*args, **fields)  # type: ignore[arg-type]

    world.store.put = dying  # type: ignore[method-assign]


class Producers:
    """What producers have decided, which they remember; they end and answer accordingly."""

    def __init__(self, world: TransactionWorld) -> None:
        self.world = world
        self.decided: dict[bytes, int] = {}
        self.stored: dict[bytes, list[PutResult]] = {}
        """Body → where its half message was first acknowledged."""
        self.connection = world.connect()

    def prepare(self, body: bytes, decision: int, properties: str = "") -> None:
        """Send a half message."""
        self.decided[body] = decision
        self.stored[body] = [self.world.prepare(body, properties=properties, key=f"K{body.decode()}")]

    def end(self, body: bytes) -> None:
        """Say how it ended, by the first offsets."""
        if self.decided[body]:
            self.send_end(body, self.stored[body][0].queue_offset, self.stored[body][0].physical_offset)

    def send_end(self, body: bytes, number: int, offset: int) -> None:
        """Say how it ended, by any copy's offsets; what a power cut has taken is refused."""
        try:
            self.world._end(self.decided[body], number, offset, "pg", transaction_id=f"K{body.decode()}")
        except ResponseError as error:
            assert error.code == 1, error  # noqa: PT017

    def answer_checks(self) -> None:
        """Answer what was asked."""
        asked, self.connection.asked = self.connection.asked, []
        for question, message in asked:
            if self.decided[message.body]:
                self.send_end(message.body, question.tran_state_table_offset, question.commit_log_offset)


def finish(world: TransactionWorld, producers: Producers) -> None:
    """Let all transactions end, and all that is delayed come."""
    world.disk.hold_jobs = False
    world.disk.run_jobs()
    for body, decision in producers.decided.items():
        producers.decided[body] = decision or ROLLBACK
    for _ in range(3):
        world.check()
        producers.answer_checks()
    assert len(world.transactions) == 0
    for half in world.records(HALF_TOPIC):  # some may have been given up; their producers come late
        producers.send_end(half.body, half.queue_offset, half.physical_offset)
    for _ in range(3):
        world.clock.advance(10_000)
        while world.delays.deliver_due() + world.timers.deliver_due():
            pass


def expect_each_once(world: TransactionWorld, producers: Producers) -> None:
    """Of the half messages that are in the log, exactly the committed ones were delivered, each once."""
    there = {record.body for record in world.records(HALF_TOPIC)}
    committed = {body: 1 for body in there if producers.decided[body] == COMMIT}
    assert world.delivered() == committed


def script(world: TransactionWorld, producers: Producers) -> None:
    """A little of everything; the steps in which records are written."""
    producers.prepare(b"0", COMMIT)
    producers.prepare(b"1", ROLLBACK)
    producers.prepare(b"2", COMMIT)
    producers.end(b"0")
    producers.prepare(b"3", COMMIT, "DELAY\x011")
    producers.prepare(b"4", COMMIT, "CHECK_IMMUNITY_TIME_IN_SECONDS\x01100")
    producers.prepare(b"5", COMMIT, "TIMER_DELAY_SEC\x011")
    producers.end(b"1")
    world.check()
    producers.end(b"3")
    producers.answer_checks()
    producers.end(b"4")
    world.check()
    producers.end(b"5")
    producers.end(b"0")


STEPS = 40
"""More than the records that the script writes."""


@pytest.mark.parametrize("is_cut", [False, True])
def test_death_between_any_two_records(is_cut: bool) -> None:
    died = 0
    for count in range(STEPS):

        def story(count: int = count) -> None:
            nonlocal died
            world = TransactionWorld()
            producers = Producers(world)
            die_before_put(world, count)
            try:
                script(world, producers)
            except Killed:
                died += 1
                producers.decided = {body: producers.decided[body] for body in producers.stored}
            world.cut(count) if is_cut else world.kill()
            world.begin()
            finish(world, producers)
            expect_each_once(world, producers)
            world.stop()

        in_a_loop(story)
    assert 15 < died < STEPS  # the last ones come through


@pytest.mark.parametrize("seed", range(250))  # many thousands were run by hand
def test_stories_of_any_kind(seed: int) -> None:
    in_a_loop(lambda: random_story(random.Random(seed), check_max=1000))


@pytest.mark.parametrize("seed", range(120))
def test_stories_of_those_that_are_given_up_and_committed_late(seed: int) -> None:
    in_a_loop(lambda: random_story(random.Random(seed), check_max=1))


def random_story(luck: random.Random, *, check_max: int) -> None:
    """Steps by chance, over several lives."""
    world = TransactionWorld(check_max=check_max)
    producers = Producers(world)
    flushed: set[bytes] = set()

    def live() -> None:
        """A few steps of a life."""
        for _ in range(luck.randrange(1, 25)):
            luck.choice(steps)()

    def prepare() -> None:
        body = b"%d" % len(producers.decided)
        text = luck.choice(
            ["", "", "", "DELAY\x011", "TIMER_DELAY_SEC\x012", "CHECK_IMMUNITY_TIME_IN_SECONDS\x01150"]
        )
        producers.decided[body] = luck.choice([COMMIT, COMMIT, ROLLBACK, UNKNOWN])
        producers.prepare(body, producers.decided[body], text)

    def end() -> None:
        if producers.stored:
            producers.end(luck.choice(sorted(producers.stored)))

    def end_by_a_copy() -> None:
        halves = world.records(HALF_TOPIC)
        if halves:
            half = luck.choice(halves)
            if producers.decided.get(half.body):
                producers.send_end(half.body, half.queue_offset, half.physical_offset)

    def decide() -> None:
        for body, decision in producers.decided.items():
            if decision == UNKNOWN:
                producers.decided[body] = luck.choice([COMMIT, ROLLBACK])

    def check() -> None:
        world.check(luck.choice([1000, 10_000, MINUTE_MS]))

    def come_and_go() -> None:
        groups = world.clients.groups
        groups["pg"] = [] if groups["pg"] else [producers.connection]

    def flush() -> None:
        world.flush()
        flushed.update(record.body for record in world.records(HALF_TOPIC))

    def hold() -> None:
        world.disk.hold_jobs = not world.disk.hold_jobs

    steps: list[Callable[[], None]] = [
        prepare, prepare, prepare, end, end, end_by_a_copy, decide, check, check, producers.answer_checks,
        come_and_go, flush, hold,
    ]  # fmt: skip
    for _ in range(luck.randrange(1, 5)):
        die_before_put(world, luck.randrange(60))
        ends = ["kill", "kill", "cut", "stop"]
        try:
            live()
        except Killed:
            ends = ["kill", "kill", "cut"]
            producers.decided = {body: producers.decided[body] for body in producers.stored}
        world.disk.hold_jobs = False
        match luck.choice(ends):
            case "kill":
                world.kill()
            case "cut":
                world.cut(luck.randrange(1 << 30))
            case "stop":
                del world.store.put  # it lives to its end
                world.disk.run_jobs()
                world.stop()
                world.disk = world.disk.kill()
        world.begin()
        there = {record.body for record in world.records(HALF_TOPIC)}
        assert flushed <= there
    world.clients.groups["pg"] = [producers.connection]
    world.clock.advance(200_000)
    finish(world, producers)
    expect_each_once(world, producers)
    world.stop()
