"""Which files go when, which never, and what readers see of it (store.md §6)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymq.disk import DiskUsage, Done, Job
from pymq.errors import StoreError
from pymq.store.messagestore import GetStatus, MessageStore
from pymq.store.retention import HOUR_MS, DiskLevel, RetentionRules
from pymq.store.store_config import StoreConfig
from tests.sim import SimClock
from tests.store.making import STORE_HOST, put, read_queue
from tests.store.sim_disk import SimDisk

SEGMENT = 4096
MINUTE_MS = 60_000
HOUR = 22
"""The hour at which `SimClock` begins."""


class Gauge(SimDisk):
    """A disk that is as full as it is told, and may take its time to delete."""

    percent = 10
    hold_deletions = False

    def __init__(self, capacity: int = 1 << 30) -> None:
        super().__init__(capacity)
        self.deletions: list[tuple[Job, Done]] = []

    def delete_soon(self, job: Job, done: Done) -> None:
        if self.hold_deletions:
            self.deletions.append((job, done))
        else:
            super().delete_soon(job, done)

    def drain(self) -> None:
        deletions, self.deletions = self.deletions, []
        for job, done in deletions:
            super().delete_soon(job, done)
        super().drain()

    def usage(self, path: str) -> DiskUsage:
        return DiskUsage(1000, 10 * self.percent, 1000 - 10 * self.percent)


class Life:
    """A store with small files, and a disk whose files have the times that they would really have."""

    def __init__(self, **rules: Any) -> None:
        self.disk, self.clock = Gauge(), SimClock()
        self.rules = rules
        self.store = self.open()

    def open(self) -> MessageStore:
        config = StoreConfig(
            root="/s",
            commit_log_segment_bytes=SEGMENT,
            consume_queue_segment_bytes=100,
            max_message_bytes=2000,
            retention=RetentionRules(**{"delete_when": str(HOUR), **self.rules}),
        )
        store = MessageStore(config, self.disk, self.clock, STORE_HOST)
        store.open()
        return store

    def reopen(self) -> None:
        """Close and open again."""
        self.store.close()
        self.store = self.open()

    def put(self, count: int = 1, topic: str = "T", queue_id: int = 0) -> None:
        """Store messages of which eight fill a file; what they touch has changed now."""
        for _ in range(count):
            put(self.store, topic, queue_id, bytes(400))
            self.touch()

    def touch(self) -> None:
        """The file that is written to has changed now, and so has the one before it when it was left."""
        files = self.log_files[-2:]
        changed = files if files[-1] not in self.disk.modified else files[-1:]
        self.disk.modified.update(dict.fromkeys(changed, self.clock.now_ms()))

    @property
    def log_files(self) -> list[str]:
        """The files of the commit log, without the one that is made ahead."""
        paths = [path for path in self.disk.contents if path.startswith("/s/commitlog/")]
        return sorted(path for path in paths if int(path[-20:]) < self.store.commit_log_max_offset)

    def queue_files(self, topic: str = "T", queue_id: int = 0) -> list[str]:
        """The files of a queue."""
        return self.disk.list_folder(f"/s/consumequeue/{topic}/{queue_id}")

    def pass_time(self, seconds: float, step_s: float = 0.1) -> None:
        """Let time pass, with ticks as the broker makes them."""
        for _ in range(round(seconds / step_s)):
            self.clock.advance(round(step_s * 1000))
            self.store.tick()


@pytest.mark.parametrize(
    ("settings", "used", "free", "level"),
    [
        ({}, 75, 25, DiskLevel.ROOMY),
        ({}, 75_001, 24_999, DiskLevel.SHORT),  # rounded up to a hundredth, as Apache does
        ({}, 85, 15, DiskLevel.SHORT),
        ({}, 86, 14, DiskLevel.CRITICAL),
        ({}, 90, 10, DiskLevel.CRITICAL),
        ({}, 91, 9, DiskLevel.FULL),
        ({"disk_max_used_space_ratio": 1}, 10, 90, DiskLevel.ROOMY),
        ({"disk_max_used_space_ratio": 1}, 11, 89, DiskLevel.SHORT),
        ({"disk_max_used_space_ratio": 100, "disk_space_clean_forcibly_ratio": 100}, 90, 10, DiskLevel.ROOMY),
        ({"disk_min_free_bytes": 10}, 80, 20, DiskLevel.SHORT),
        ({"disk_min_free_bytes": 10}, 990, 20, DiskLevel.SHORT),
        ({"disk_min_free_bytes": 10}, 10, 19, DiskLevel.CRITICAL),
        ({"disk_min_free_bytes": 10}, 10, 9, DiskLevel.FULL),
    ],
)
def test_how_short_a_disk_is(settings: dict[str, int], used: int, free: int, level: DiskLevel) -> None:
    rules = RetentionRules(**settings)  # type: ignore[arg-type]
    usage = DiskUsage(used + free, used, free)
    assert rules.level([usage]) is level
    assert rules.level([DiskUsage(100, 0, 100), usage]) is level, "the shorter partition counts"


def test_expired_files_go_in_the_hour_of_delete_when_and_the_last_one_stays() -> None:
    life = Life(delete_when="4;00", file_reserved_time=1)
    life.put(8 * 5)
    first = life.log_files
    life.pass_time(2 * MINUTE_MS / 1000, 1)
    life.clock.advance(HOUR_MS)
    life.put(1)
    files = life.log_files
    life.pass_time(60, 1)
    assert life.log_files == files, "expired, but it is not the hour"
    life.clock.advance(44 * MINUTE_MS)
    life.pass_time(60, 1)
    assert life.clock.local_time(life.clock.now_ms()).hour == 0
    assert life.log_files == files[-2:], "one was full by now, but changed when it was left"
    life.clock.advance(4 * HOUR_MS)
    life.pass_time(60, 1)
    assert life.log_files == files[-1:], "the last one stays, however old"
    assert first[0] not in life.disk.mapped


def test_what_is_not_expired_stays_even_when_later_files_are_older() -> None:
    life = Life(file_reserved_time=1)
    life.put(8 * 4)
    files = life.log_files
    now = life.clock.now_ms()
    life.disk.modified.update({files[0]: now, files[1]: 0, files[2]: 0})
    life.pass_time(120, 1)
    assert life.log_files == files
    life.disk.modified[files[0]] = 0
    life.pass_time(20, 1)
    assert life.log_files == files[3:]


def test_the_first_run_comes_after_a_minute_and_ten_files_go_in_a_run_a_tenth_of_a_second_apart() -> None:
    life = Life(file_reserved_time=0)
    life.put(8 * 25)
    count = len(life.log_files)
    seen = []
    for _ in range(830):
        life.pass_time(0.1)
        seen.append(len(life.log_files))
    assert set(seen[:598]) == {count}
    steps = [i for i in range(1, len(seen)) if seen[i] < seen[i - 1]]
    assert [seen[i - 1] - seen[i] for i in steps] == [1] * 24
    assert all(1 <= later - step <= 2 for step, later in itertools.pairwise(steps[:10]))
    assert 99 <= steps[10] - steps[0] <= 101
    assert seen[-1] == 1


@pytest.mark.parametrize(
    ("percent", "settings", "expired", "kept"),
    [
        (75, {}, True, 4),
        (76, {}, True, 1),
        (76, {}, False, 4),
        (85, {}, False, 4),
        (86, {}, False, 1),
        (91, {}, False, 1),
        (91, {"clean_file_forcibly_enable": False}, False, 4),
        (91, {"clean_file_forcibly_enable": False}, True, 1),
        (50, {"disk_max_used_space_ratio": 40}, True, 1),
        (95, {"disk_min_free_bytes": 25}, False, 4),
        (96, {"disk_min_free_bytes": 25}, False, 1),
    ],
)
def test_a_short_disk_lets_expired_files_go_at_any_hour_and_a_shorter_one_all(
    percent: int, settings: dict[str, int], expired: bool, kept: int
) -> None:
    life = Life(delete_when="4", **settings)
    life.put(8 * 4)
    life.disk.percent = percent
    if expired:
        life.clock.advance(72 * HOUR_MS)
    life.pass_time(120, 1)
    assert len(life.log_files) == kept


def test_no_more_is_deleted_before_its_time_than_space_demands() -> None:
    life = Life(delete_when="4")
    life.put(8 * 6)
    count = len(life.log_files)
    life.disk.percent = 88
    while life.store.commit_log_min_offset < 2 * SEGMENT:
        life.pass_time(0.1)
    life.disk.percent = 85
    life.pass_time(60, 1)
    assert len(life.log_files) == count - 2


def test_an_admin_lets_expired_files_go_at_any_hour() -> None:
    life = Life(delete_when="4", file_reserved_time=1)
    life.put(8 * 4)
    life.clock.advance(HOUR_MS)
    life.put(8)
    files = life.log_files
    life.pass_time(70, 1)
    assert life.log_files == files
    life.store.clean_soon()
    life.pass_time(10, 1)
    assert life.log_files == files[-2:]


def test_a_file_is_not_deleted_before_it_is_flushed() -> None:
    life = Life(file_reserved_time=0)
    life.disk.hold_jobs = True
    life.put(8 * 4)
    files = life.log_files
    life.clock.advance(10 * MINUTE_MS)
    life.store.tick()
    life.store.tick()
    assert life.log_files == files
    assert life.store.commit_log_min_offset == 0
    life.disk.hold_jobs = False
    life.disk.run_jobs()
    life.pass_time(30, 1)
    assert life.log_files == files[-1:]


def test_readers_before_the_minimum_land_on_it_even_while_the_file_is_being_deleted() -> None:
    life = Life(file_reserved_time=0)
    for number in range(8 * 3):
        life.put(1, "T", number % 2)
    life.pass_time(50, 1)
    life.disk.hold_jobs = True
    life.pass_time(15, 1)
    assert len(life.log_files) == 3, "it is under way"
    result = life.store.get("T", 0, 0, 32)
    assert result.status is GetStatus.OFFSET_TOO_SMALL
    first = result.next_begin_offset
    assert first == result.min_offset == life.store.min_offset("T", 0) == 4
    assert life.store.min_offset("T", 1) == 4, "a queue that nobody reads"
    assert [r.queue_offset for r in read_queue(life.store, "T", 0)] == list(range(4, 12))
    tagged = life.store.get("T", 1, 0, 32, frozenset((1,)))
    assert (tagged.status, tagged.next_begin_offset) == (GetStatus.OFFSET_TOO_SMALL, 4)
    assert life.store.get("T", 0, 2, 32, frozenset((1,))).status is GetStatus.OFFSET_TOO_SMALL
    life.disk.hold_jobs = False
    life.disk.run_jobs()
    life.pass_time(60, 1)
    assert len(life.log_files) == 1


def test_leading_queue_files_go_with_the_log_and_an_expired_queue_keeps_its_last() -> None:
    life = Life(file_reserved_time=0)
    life.put(12, "old")  # five units fill a file
    life.put(40, "T")
    assert len(life.queue_files("old")) == 3
    life.pass_time(120, 1)
    assert life.queue_files("old") == [f"{200:020d}"]
    assert (life.store.min_offset("old", 0), life.store.max_offset("old", 0)) == (12, 12)
    assert life.store.get("old", 0, 5, 32).status is GetStatus.OFFSET_TOO_SMALL
    assert life.store.get("old", 0, 5, 32).next_begin_offset == 12
    assert life.store.get("old", 0, 12, 32).status is GetStatus.OFFSET_OVERFLOW_ONE
    assert life.store.get("old", 0, 99, 32).next_begin_offset == 12
    first = life.store.min_offset("T", 0)
    assert int(life.queue_files("T")[0]) == first * 20 // 100 * 100
    life.put(1, "old")
    assert [r.queue_offset for r in read_queue(life.store, "old", 0)] == [12]


def test_a_queue_whose_messages_are_all_gone_can_be_deleted_and_begins_anew() -> None:
    life = Life(file_reserved_time=0)
    life.put(3, "old")
    life.put(40, "T")
    assert not life.store.delete_expired_queue("old", 0)
    life.pass_time(120, 1)
    assert not life.store.delete_expired_queue("T", 0)
    assert not life.store.delete_expired_queue("unknown", 0)
    assert life.store.delete_expired_queue("old", 0)
    assert life.queue_files("old") == []
    assert ("old", 0) not in list(life.store.queues())
    life.put(2, "old")
    assert [r.queue_offset for r in read_queue(life.store, "old", 0)] == [0, 1]
    life.reopen()
    assert [r.queue_offset for r in read_queue(life.store, "old", 0)] == [0, 1]


def test_a_file_that_cannot_be_deleted_holds_up_those_behind_it_and_is_tried_again() -> None:
    life = Life(file_reserved_time=0)
    life.put(8 * 4)
    files = life.log_files
    life.disk.failing["remove"] = StoreError
    life.pass_time(170, 1)
    assert life.log_files == files
    assert life.store.min_offset("T", 0) > 0, "it is not served any more"
    life.disk.failing.clear()
    life.pass_time(5, 1)
    assert life.log_files == files, "only after redeleteHangedFileInterval"
    life.pass_time(30, 1)
    assert life.log_files == files[-1:]


def test_a_file_that_somebody_else_deleted_holds_up_nothing() -> None:
    life = Life(file_reserved_time=0)
    life.put(8 * 4)
    files = life.log_files
    del life.disk.contents[files[0]]
    life.pass_time(70, 1)
    assert life.log_files == files[-1:]


def test_a_topic_made_anew_keeps_its_files_when_the_old_one_would_have_lost_some() -> None:
    hours = f"{HOUR};{HOUR + 1}"
    life = Life(delete_when=hours, file_reserved_time=1, delete_consume_queue_files_interval=5000)
    for topic in ("a", "b", "c"):
        life.put(20, topic)
    life.put(30, "T")
    life.clock.advance(HOUR_MS)
    while len(life.log_files) > 1:
        life.pass_time(0.1)
    for topic in ("a", "b", "c"):
        life.store.delete_topic(topic)
        life.put(7, topic)
    life.pass_time(60, 1)
    for topic in ("a", "b", "c"):
        assert [r.queue_offset for r in read_queue(life.store, topic, 0)] == list(range(7))


def test_a_topic_made_anew_while_files_of_the_old_one_are_being_deleted_keeps_its_own() -> None:
    hours = f"{HOUR};{HOUR + 1}"
    life = Life(delete_when=hours, file_reserved_time=1)
    life.put(50, "T")
    life.put(20, "other")
    life.clock.advance(HOUR_MS)
    life.disk.hold_deletions = True
    while not life.disk.held_folders:  # until files of the queue are being deleted
        life.disk.drain()
        life.pass_time(0.1)
    waiting = len(life.disk.deletions)
    life.store.delete_topic("T")
    life.put(30, "T")
    assert len(life.disk.deletions) == waiting + 1, "nobody waited"
    files = life.queue_files()
    life.disk.hold_deletions = False
    life.disk.drain()
    assert (life.queue_files(), life.disk.held_folders) == (files, 0)
    assert [r.queue_offset for r in read_queue(life.store, "T", 0)] == list(range(30))


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 3), st.integers(5, 40)),
        st.tuples(st.just("pass"), st.sampled_from((1, 65, 130)), st.just(0)),
        st.tuples(st.just("hours"), st.sampled_from((1, 24)), st.just(0)),
        st.tuples(st.just("disk"), st.sampled_from((10, 80, 88, 95)), st.just(0)),
        st.tuples(st.sampled_from(("ask", "reopen", "crash")), st.integers(0, 99), st.just(0)),
        st.tuples(st.just("slow"), st.booleans(), st.just(0)),
    ),
    min_size=8,
    max_size=30,
)


@settings(deadline=None, max_examples=100)
@given(actions=ACTIONS, forcibly=st.booleans())
def test_whatever_happens_only_what_may_go_goes_and_the_rest_is_served(
    actions: list[tuple[str, int, int]], forcibly: bool
) -> None:
    hours = ";".join(map(str, range(24)))
    life = Life(delete_when=hours, file_reserved_time=24, clean_file_forcibly_enable=forcibly)
    stored: dict[int, list[int]] = {}
    """Queue → physical offset of each of its messages, by queue offset."""
    fullest = 0
    """How full the disk was since the deletions under way may have begun."""
    for action, number, count in actions:
        fullest = max(fullest, life.disk.percent) if life.disk.deletions else life.disk.percent
        before = {path: life.disk.modified[path] for path in life.log_files}
        if action == "put":
            for _ in range(count):
                result = put(life.store, "T", number, bytes(400))
                stored.setdefault(number, []).append(result.physical_offset)
                life.touch()
        elif action == "pass":
            life.pass_time(number, 1)
        elif action == "hours":
            life.clock.advance(number * HOUR_MS)
        elif action == "disk":
            life.disk.percent = number
        elif action == "ask":
            life.store.clean_soon()
        elif action == "slow":
            life.disk.hold_deletions = bool(number)
            if not number:
                life.disk.drain()
        elif action == "reopen":
            life.reopen()
        else:
            life.store.flush_now()
            life.disk = life.disk.crash(number)
            life.store = life.open()
        left = life.log_files
        for path in before.keys() - set(left):
            expired = before[path] + 24 * HOUR_MS <= life.clock.now_ms()
            assert expired or (forcibly and max(fullest, life.disk.percent) > 85), path
            assert path < left[0], "the oldest go first, and never the last"
        for queue_id, physical in stored.items():
            kept = [i for i, offset in enumerate(physical) if offset >= life.store.commit_log_min_offset]
            first = kept[0] if kept else len(physical)
            assert life.store.min_offset("T", queue_id) == first
            assert [r.queue_offset for r in read_queue(life.store, "T", queue_id)] == kept
            if first:
                read = life.store.get("T", queue_id, first - 1, 1)
                assert (read.status, read.next_begin_offset) == (GetStatus.OFFSET_TOO_SMALL, first)
