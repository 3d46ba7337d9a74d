"""Half messages, how they end, and the check-back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pymq.broker.renewal import renew
from pymq.cli.store_output import survey_lines
from pymq.errors import MessageIllegal, ResponseError, StoreFull
from pymq.protocol.message import compress_body
from pymq.protocol.properties import PROPERTIES_MAX_LENGTH
from pymq.protocol.sysflags import COMPRESSED
from pymq.store.inspection.files import StoreFolder
from pymq.store.inspection.survey import survey
from pymq.store.messagestore import MessageStore, PutResult
from pymq.store.transaction_topics import CHECK_MAX_TOPIC, HALF_TOPIC, OP_TOPIC, TRANS_GROUP
from tests.broker.standing_loop import in_a_loop
from tests.broker.transacting import COMMIT, MINUTE_MS, OFFSETS_FILE, ROLLBACK, TransactionWorld
from tests.store.golden_store import facts, unpack
from tests.store.making import BORN_HOST
from tests.store.sim_disk import SimDisk


def test_a_committed_message_comes_once_and_a_rolled_back_one_never() -> None:
    def story() -> None:
        world = TransactionWorld()
        first, second, third = world.prepare(b"1"), world.prepare(b"2"), world.prepare(b"3")
        assert not world.delivered()
        world.end(COMMIT, first)
        world.end(ROLLBACK, second)
        world.end(COMMIT, third)
        assert world.delivered() == {b"1": 1, b"3": 1}
        assert world.ops() == [b"0", b"1", b"2"]

    in_a_loop(story)


def test_records_are_as_apache_writes_them() -> None:
    def story() -> None:
        world = TransactionWorld()
        half = world.prepare(b"1", flag=5, sys_flag=1, properties="WAIT\x01true\x02CLUSTER\x01c")
        world.end(COMMIT, half)
        prepared, delivered, op = world.records()
        assert (prepared.topic, prepared.queue_id, prepared.sys_flag) == (HALF_TOPIC, 0, 1)
        assert prepared.read_properties() == {
            "TRAN_MSG": "true", "PGROUP": "pg", "UNIQ_KEY": "K1", "TAGS": "a", "WAIT": "true", "CLUSTER": "c",
            "REAL_TOPIC": "orders", "REAL_QID": "1",
        }  # fmt: skip
        assert (delivered.topic, delivered.queue_id, delivered.sys_flag, delivered.flag) == (
            "orders",
            1,
            9,
            5,
        )
        assert delivered.prepared_transaction_offset == half.physical_offset
        assert delivered.properties == prepared.properties
        assert delivered.born_timestamp == prepared.born_timestamp
        assert (op.topic, op.queue_id, op.properties) == (OP_TOPIC, 0, "WAIT\x01true\x02TAGS\x01d")
        assert (op.body, op.sys_flag, op.born_host) == (b"0", 0, op.store_host)

    in_a_loop(story)


def test_open_ones_are_asked_about_each_interval_with_new_offsets() -> None:
    def story() -> None:
        world = TransactionWorld()
        producer = world.connect()
        world.prepare(b"1", flag=3)
        world.check()
        world.check()
        (first, _), (second, message) = producer.asked
        assert (first.tran_state_table_offset, second.tran_state_table_offset) == (1, 2)
        assert first.msg_id == first.transaction_id == "K1"
        assert (message.topic, message.queue_id, message.body, message.flag) == ("orders", 1, b"1", 3)
        assert message.read_properties()["TRANSACTION_CHECK_TIMES"] == "2"
        assert message.physical_offset == second.commit_log_offset
        world.answer(COMMIT, second)
        world.check()
        assert len(producer.asked) == 2
        assert world.delivered() == {b"1": 1}

    in_a_loop(story)


@pytest.mark.parametrize("copy", [0, 1, 2])
def test_an_end_by_the_offsets_of_any_copy_counts_once(copy: int) -> None:
    def story() -> None:
        world = TransactionWorld()
        producer = world.connect()
        world.prepare(b"1")
        world.check()
        world.check()
        halves = world.records(HALF_TOPIC)
        for at in (copy, 0, 1, 2, copy):
            world._end(COMMIT, halves[at].queue_offset, halves[at].physical_offset, "pg")
        world._end(ROLLBACK, halves[0].queue_offset, halves[0].physical_offset, "pg")
        world.check()
        assert world.delivered() == {b"1": 1}
        assert world.ops()[-1:] == [b"2"]
        assert len(producer.asked) == 2

    in_a_loop(story)


def test_one_that_must_not_be_asked_about_holds_up_nobody() -> None:
    def story() -> None:
        world = TransactionWorld()
        producer = world.connect()
        world.prepare(b"immune", properties="CHECK_IMMUNITY_TIME_IN_SECONDS\x01100")
        world.prepare(b"alone", group="nobody")
        world.prepare(b"plain")
        world.check()
        assert [message.body for _, message in producer.asked] == [b"plain"]
        world.check(39_999)
        assert [message.body for _, message in producer.asked] == [b"plain", b"plain"]
        world.check(1)
        assert sorted(message.body for _, message in producer.asked[2:]) == [b"immune", b"plain"]
        # Apache's broker learns from these that the old records are over.
        assert world.ops() == [b"2", b"3", b"0", b"4"]
        assert {op.read_properties()["PYMQ_HALF_MOVED"] for op in world.records(OP_TOPIC)} == {"true"}

    in_a_loop(story)


def test_only_real_checks_count_and_the_last_one_discards() -> None:
    def story() -> None:
        world = TransactionWorld(check_max=2)
        half = world.prepare(b"1")
        for _ in range(5):
            world.check()
        producer = world.connect()
        for _ in range(4):
            world.check()
        assert len(producer.asked) == 2
        (given_up,) = world.records(CHECK_MAX_TOPIC)
        assert given_up.body == b"1"
        assert given_up.read_properties()["TRANSACTION_CHECK_TIMES"] == "2"
        assert len(world.transactions) == 0
        world.end(COMMIT, half)  # a producer that comes late all the same
        world.end(COMMIT, half)
        assert world.delivered() == {b"1": 1}

    in_a_loop(story)


def test_the_saved_offsets_are_those_of_apache() -> None:
    def story() -> None:
        world = TransactionWorld()
        world.connect()
        first, _ = world.prepare(b"1"), world.prepare(b"2")
        world.end(COMMIT, first)
        world.check()
        world.flush()
        assert world.offsets.query(TRANS_GROUP, HALF_TOPIC, 0) == 2
        assert world.offsets.query(TRANS_GROUP, OP_TOPIC, 0) == 2
        world.kill()
        world.begin()
        assert len(world.transactions) == 1

    in_a_loop(story)


def test_who_names_another_transaction_is_refused() -> None:
    def story() -> None:
        world = TransactionWorld()
        half = world.prepare(b"1", key="A" * 32)
        other = world.prepare(b"2")
        world.end(COMMIT, other)
        delivered = next(each for each in world.records() if each.topic == "orders")
        for words, number, offset, group, fields in [
            ("producer group wrong", half.queue_offset, half.physical_offset, "other", {}),
            ("state table offset wrong", 7, half.physical_offset, "pg", {}),
            ("Find prepared transaction message failed", 0, half.physical_offset + 1, "pg", {}),
            ("Find prepared transaction message failed", 0, delivered.physical_offset, "pg", {}),
            ("transaction id wrong", 0, half.physical_offset, "pg", {"transaction_id": "B" * 32}),
        ]:
            with pytest.raises(ResponseError, match=words) as refused:
                world._end(COMMIT, number, offset, group, **fields)
            assert refused.value.code == 1
        assert world.delivered() == {b"2": 1}

    in_a_loop(story)


def test_delays_count_from_the_commit_on() -> None:
    def story() -> None:
        world = TransactionWorld()
        level = world.prepare(b"level", properties="DELAY\x012")
        timed = world.prepare(b"timed", properties="TIMER_DELAY_SEC\x0110")
        with pytest.raises(MessageIllegal):
            world.prepare(b"never", properties="DELAY\x01soon")
        world.check()
        world.end(COMMIT, level)
        world.end(COMMIT, timed)
        world.clock.advance(4999)
        world.delays.deliver_due()
        assert not world.delivered()
        world.clock.advance(1)
        world.delays.deliver_due()
        assert world.delivered() == {b"level": 1}
        world.clock.advance(5000)
        world.timers.deliver_due()
        assert world.delivered() == {b"level": 1, b"timed": 1}

    in_a_loop(story)


def test_a_committed_message_without_op_message_is_known_at_the_next_start() -> None:
    def story() -> None:
        world = TransactionWorld()
        producer = world.connect()
        half = world.prepare(b"1")
        world.check()
        world.end(COMMIT, half)
        at = world.records(OP_TOPIC)[-1].physical_offset
        world.kill()
        world.disk.write_bytes("/store/commitlog/00000000000000000000", _without_record(world, at))
        world.begin()
        world.check(MINUTE_MS)
        assert len(producer.asked) == 1
        assert world.delivered() == {b"1": 1}

    in_a_loop(story)


def _without_record(world: TransactionWorld, offset: int) -> bytes:
    data = world.disk.read_bytes("/store/commitlog/00000000000000000000")
    assert data is not None
    return data[:offset] + bytes(len(data) - offset)


def test_before_retention_takes_their_file_open_ones_are_put_again() -> None:
    def story() -> None:
        world = TransactionWorld(segment_bytes=4096)
        half = world.prepare(b"1")
        ended = world.prepare(b"2")
        world.end(COMMIT, ended)
        while world.store.commit_log_max_offset < 5 * 4096:
            world.store.put("plain", 0, b"x" * 500, "", born_host=BORN_HOST)
        world.disk.hold_jobs = True
        assert not world.transactions.rolls.may_go(4096)
        assert not world.transactions.rolls.may_go(4096)  # its copy has to be on the disk first
        world.disk.hold_jobs = False
        world.disk.run_jobs()
        assert world.transactions.rolls.may_go(4096)
        assert [record.body for record in world.records(HALF_TOPIC)] == [b"1", b"2", b"1"]
        world.kill()
        world.begin()
        assert len(world.transactions) == 1
        world.end(COMMIT, half)
        assert world.delivered()[b"1"] == 1

    in_a_loop(story)


def test_what_lags_far_behind_is_put_again_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymq.broker.transactions.checks._BEHIND", 10)

    def story() -> None:
        world = TransactionWorld()
        half = world.prepare(b"alone", group="nobody")
        for _ in range(20):
            world.end(COMMIT, world.prepare(b"x"))
        world.check()
        world.flush()
        assert world.offsets.query(TRANS_GROUP, HALF_TOPIC, 0) == 21
        (_, copy) = (record for record in world.records(HALF_TOPIC) if record.body == b"alone")
        assert "TRANSACTION_CHECK_TIMES" not in copy.read_properties()
        world.kill()
        world.begin()
        world._end(COMMIT, copy.queue_offset, copy.physical_offset, "nobody")
        world._end(COMMIT, half.queue_offset, half.physical_offset, "nobody")
        assert world.delivered()[b"alone"] == 1

    in_a_loop(story)


def test_the_store_refuses_and_takes_again() -> None:
    def story() -> None:
        world = TransactionWorld()
        producer = world.connect()
        first, second = world.prepare(b"1"), world.prepare(b"2")
        world.store.refuse_while_full("full")
        for kind, half in ((COMMIT, first), (ROLLBACK, second)):
            with pytest.raises(ResponseError, match="full") as refused:
                world.end(kind, half)
            assert refused.value.code == 14
        world.check()
        assert not producer.asked
        assert len(world.transactions) == 2
        world.store.refuse_while_full("")
        world.check()
        assert len(producer.asked) == 2
        world.end(COMMIT, first)
        assert world.delivered() == {b"1": 1}

    in_a_loop(story)


@pytest.mark.parametrize("is_killed", [False, True])
def test_an_op_message_without_room_is_written_later(is_killed: bool) -> None:
    def story() -> None:
        world = TransactionWorld()
        world.prepare(b"open", group="nobody")
        half = world.prepare(b"1")
        put = world.store.put

        def only_messages(topic: str, *args: Any, **fields: Any) -> PutResult:
            if topic == OP_TOPIC:
                raise StoreFull("full")
            return put(topic, *args, **fields)

        world.store.put = only_messages  # type: ignore[method-assign]
        world.end(COMMIT, half)
        world.end(COMMIT, half)
        assert world.delivered() == {b"1": 1}
        world.check()
        world.flush()
        assert not world.ops()
        if is_killed:
            world.kill()
            world.begin()
        else:
            world.store.put = put  # type: ignore[method-assign]
            world.check()
        assert world.ops() == [b"1"]
        assert len(world.transactions) == 1

    in_a_loop(story)


def test_a_slice_at_a_time_and_no_run_over_another() -> None:
    def story() -> None:
        world = TransactionWorld(segment_bytes=1 << 20, units=1000)
        producer = world.connect()
        for number in range(100):
            world.prepare(b"%d" % number)
        world.clock.advance(MINUTE_MS)
        checks = world.transactions.checks
        checks.begin_run()
        assert not checks.look()
        assert len(producer.asked) == 32
        for _ in range(10):
            checks.look()
        assert len(producer.asked) == 100
        checks.end_run()

    in_a_loop(story)


def test_producers_are_asked_in_turn_and_those_that_do_not_read_are_not() -> None:
    def story() -> None:
        world = TransactionWorld()
        one, other, gone, slow = (world.connect() for _ in range(4))
        gone.closed = True
        slow.writing_paused = True
        for _ in range(8):
            world.prepare()
        world.check()
        assert len(one.asked) + len(other.asked) == 8
        assert one.asked
        assert other.asked
        assert not gone.asked
        assert not slow.asked

    in_a_loop(story)


def test_all_producers_of_the_group_are_asked_about_a_message_before_it_is_given_up() -> None:
    def story() -> None:
        world = TransactionWorld()
        members = [world.connect() for _ in range(3)]
        for number in range(3):
            world.prepare(b"%d" % number)
        for _ in range(3):
            world.check()
        for member in members:
            assert sorted(message.body for _, message in member.asked) == [b"0", b"1", b"2"]

    in_a_loop(story)


def test_who_leaves_while_it_is_asked_does_no_harm() -> None:
    def story() -> None:
        world = TransactionWorld()
        leaving = world.connect()
        leaving.breaks = True
        world.prepare(b"1")
        world.check()
        leaving.breaks = False
        world.check()
        assert [message.read_properties()["TRANSACTION_CHECK_TIMES"] for _, message in leaving.asked] == ["2"]

    in_a_loop(story)


def test_a_message_that_is_sent_on_brings_no_checks_along() -> None:
    def story() -> None:
        world = TransactionWorld(check_max=3)
        producer = world.connect()
        world.prepare(b"1", properties="TRANSACTION_CHECK_TIMES\x013\x02TRAN_PREPARED_QUEUE_OFFSET\x017")
        world.check()
        assert len(producer.asked) == 1

    in_a_loop(story)


def test_properties_leave_room_for_those_that_come_later() -> None:
    def story() -> None:
        world = TransactionWorld()
        producer = world.connect()
        with pytest.raises(MessageIllegal, match="32607"):
            world.prepare(b"1", properties="A\x01" + "x" * 32_600)
        world.prepare(b"2", properties="A\x01" + "x" * 32_500)
        world.check()
        assert len(producer.asked) == 1

    in_a_loop(story)


@pytest.mark.parametrize("kind", [COMMIT, ROLLBACK])
def test_who_comes_late_for_a_discarded_one_comes_once(kind: int) -> None:
    def story() -> None:
        world = TransactionWorld(check_max=0)
        half = world.prepare(b"1")
        world.check()
        assert len(world.records(CHECK_MAX_TOPIC)) == 1
        world.kill()
        world.begin()
        world.end(kind, half)
        world.kill()
        world.begin()
        world.end(COMMIT, half)
        assert world.delivered() == ({b"1": 1} if kind == COMMIT else {})

    in_a_loop(story)


def test_half_messages_are_given_up_when_their_time_is_over() -> None:
    def story() -> None:
        world = TransactionWorld(reserved_ms=10 * MINUTE_MS)
        world.prepare(b"clock", born_timestamp=0)  # a producer whose clock is wrong
        world.check(10 * MINUTE_MS)
        assert len(world.transactions) == 1
        world.check(1)
        assert [record.body for record in world.records(CHECK_MAX_TOPIC)] == [b"clock"]

    in_a_loop(story)


def test_a_start_reads_the_log_from_the_last_run_on_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def story() -> None:
        world = TransactionWorld()
        world.prepare(b"open", group="nobody")
        world.end(COMMIT, world.prepare(b"1"))
        world.check()
        end = world.store.commit_log_max_offset
        world.flush()
        world.end(COMMIT, world.prepare(b"2"))
        world.kill()
        starts = []
        records_from = MessageStore.records_from

        def noting(store: MessageStore, physical_offset: int) -> Iterator[bytes]:
            starts.append(physical_offset)
            return records_from(store, physical_offset)

        monkeypatch.setattr(MessageStore, "records_from", noting)
        world.begin()
        assert starts == [end]

    in_a_loop(story)


def test_a_store_of_apache_with_open_transactions(tmp_path: Path) -> None:
    """Two were left open there, checked back many times; the others had ended."""

    disk, root = SimDisk(), unpack(tmp_path)
    for path in root.rglob("*"):
        if path.is_file():
            name = f"/store/{path.relative_to(root)}"
            disk.make_folder(os.path.dirname(name))
            disk.write_bytes(name, path.read_bytes())

    def story() -> None:
        sizes = facts()["config"]
        world = TransactionWorld(
            segment_bytes=sizes["mappedFileSizeCommitLog"],
            units=sizes["mappedFileSizeConsumeQueue"] // 20,
            disk=disk,
            now_ms=1_795_528_660_000,
        )
        producer = world.connect("pg_tx")
        world.check()
        assert sorted(message.body for _, message in producer.asked) == [b"tx 2 UNKNOW", b"tx 5 UNKNOW"]
        delivered = world.delivered()
        first = next(record for record in world.records(HALF_TOPIC) if record.body == b"tx 2 UNKNOW")
        world._end(COMMIT, first.queue_offset, first.physical_offset, "pg_tx")  # by its first offsets
        for question, _ in producer.asked:
            world.answer(COMMIT, question, group="pg_tx")
        assert world.delivered() - delivered == {b"tx 2 UNKNOW": 1, b"tx 5 UNKNOW": 1}

    in_a_loop(story)


@pytest.mark.parametrize(("topic", "number"), [(HALF_TOPIC, 3), (OP_TOPIC, 0), (OP_TOPIC, 2)])
def test_a_damaged_unit_loses_no_transaction_and_ends_none(
    topic: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymq.store.recovery._WINDOW", 100)

    def story() -> None:
        world = TransactionWorld()
        producer = world.connect()
        halves = [world.prepare(b"%d" % each) for each in range(4)]
        for half in halves[:3]:
            world.end(COMMIT, half)
        for _ in range(5):  # behind them, for the start to look again at these only
            world.store.put("plain", 0, b"x" * 500, "", born_host=BORN_HOST)
        world.stop()
        name = f"/store/consumequeue/{topic}/0/00000000000000000000"
        data = bytearray(world.disk.read_bytes(name) or b"")
        data[20 * number + 6] ^= 1  # another physical offset
        world.disk.write_bytes(name, bytes(data))
        world.disk.remove_file(OFFSETS_FILE)
        world.begin()
        world.check()
        assert [message.body for _, message in producer.asked] == [b"3"]

    in_a_loop(story)


def test_a_damaged_half_message_is_told_and_hinders_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def story() -> None:
        world = TransactionWorld()
        producer = world.connect()
        half = world.prepare(b"damaged")
        world.prepare(b"sound")
        world.stop()
        log_file = "/store/commitlog/00000000000000000000"
        data = world.disk.read_bytes(log_file) or b""
        world.disk.write_bytes(log_file, data.replace(b"damaged", b"dAmaged"))
        world.begin()
        world.check()
        assert [message.body for _, message in producer.asked] == [b"sound"]
        with pytest.raises(ResponseError, match="Find prepared transaction message failed"):
            world.end(COMMIT, half)

    in_a_loop(story)
    assert "half message 0 is gone or damaged" in caplog.text


def test_what_was_discarded_can_be_read_after_a_crash() -> None:
    def story() -> None:
        world = TransactionWorld(check_max=0)
        world.prepare(b"1")
        world.check()
        world.kill()
        world.begin()
        assert world.topics.get(CHECK_MAX_TOPIC) is not None

    in_a_loop(story)


@pytest.mark.parametrize("is_linked", [False, True])
@pytest.mark.parametrize("ended", [None, 0, 1, 2])
def test_copies_that_apache_made_are_one_transaction(is_linked: bool, ended: int | None) -> None:
    """Three copies, and an op message for one of them: Apache's broker asks about later ones all the same."""

    def story() -> None:
        world = TransactionWorld()
        world.prepare(b"1")
        (first,) = world.records(HALF_TOPIC)
        for checks in (1, 2):
            text = f"{first.properties}\x02TRANSACTION_CHECK_TIMES\x01{checks}"
            if is_linked:
                text += "\x02TRAN_PREPARED_QUEUE_OFFSET\x010"
            renew(world.store.put, first, HALF_TOPIC, 0, text)
        if ended is not None:
            world.store.put(OP_TOPIC, 0, b"%d" % ended, "WAIT\x01true\x02TAGS\x01d", born_host=BORN_HOST)
        world.kill()
        world.begin()
        producer = world.connect()
        world.check()
        assert [message.read_properties()["TRANSACTION_CHECK_TIMES"] for _, message in producer.asked] == (
            ["3"] if ended is None else []
        )
        for half in world.records(HALF_TOPIC):
            world._end(COMMIT, half.queue_offset, half.physical_offset, "pg")
        assert world.delivered() == ({b"1": 1} if ended is None else {})

    in_a_loop(story)


def test_op_messages_of_newer_brokers_name_several() -> None:
    def story() -> None:
        world = TransactionWorld()
        for number in range(4):
            world.prepare(b"%d" % number)
        world.store.put(OP_TOPIC, 0, b"0,3,", "TAGS\x01d", born_host=BORN_HOST)
        world.store.put(OP_TOPIC, 0, b"1", "TAGS\x01other", born_host=BORN_HOST)
        world.kill()
        world.begin()
        producer = world.connect()
        world.check()
        assert [message.body for _, message in producer.asked] == [b"1", b"2"]

    in_a_loop(story)


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("is_linked", [False, True])
def test_an_operator_resumes_what_was_discarded(is_killed: bool, is_linked: bool) -> None:
    def story() -> None:
        world = TransactionWorld(check_max=int(is_linked))
        half = world.prepare(b"1")
        producer = world.connect()
        for _ in range(2):
            world.check()
        (discarded,) = world.records(CHECK_MAX_TOPIC)
        producer.asked.clear()
        world.resume(discarded.offset_msg_id)
        if is_killed:
            world.kill()
            world.begin()
        with pytest.raises(ResponseError, match="is open again"):
            world.resume(discarded.offset_msg_id)
        if is_linked:
            world.check()
            assert [message.body for _, message in producer.asked] == [b"1"]
        world.end(COMMIT, half)
        if is_killed:
            world.kill()
            world.begin()
        world.end(COMMIT, half)
        with pytest.raises(ResponseError, match="has ended"):
            world.resume(discarded.offset_msg_id)
        assert world.delivered() == {b"1": 1}

    in_a_loop(story)


def test_only_discarded_ones_are_resumed() -> None:
    def story() -> None:
        world = TransactionWorld()
        half = world.prepare(b"1")
        for msg_id in ("", "nonsense", half.offset_msg_id):
            with pytest.raises(ResponseError, match=f"msgId={msg_id}: "):
                world.resume(msg_id)

    in_a_loop(story)


def test_the_survey_of_a_folder_counts_what_is_open() -> None:
    def story() -> None:
        world = TransactionWorld()
        world.connect()
        halves = [world.prepare(b"%d" % number) for number in range(5)]
        world.end(COMMIT, halves[0])
        world.check()
        world.end(ROLLBACK, halves[2])
        world.prepare(b"new")
        world.kill()
        assert survey(StoreFolder("/store", world.disk)).open_transactions == 4
        world.begin()
        world.stop()
        found = survey(StoreFolder("/store", world.disk))
        assert found.open_transactions == 4
        assert "Note: 4 transactions open: a broker on this folder asks their producers" in survey_lines(
            found, in_use=False
        )

    in_a_loop(story)


def test_one_that_cannot_be_put_again_hinders_nobody() -> None:
    """Another broker has stored it, whose property text leaves no room."""

    def story() -> None:
        world = TransactionWorld()
        text = "TRAN_MSG\x01true\x02PGROUP\x01pg\x02REAL_TOPIC\x01orders\x02REAL_QID\x010\x02A\x01"
        text += "x" * (PROPERTIES_MAX_LENGTH - len(text))
        world.store.put(HALF_TOPIC, 0, b"long", text, born_host=BORN_HOST, born_timestamp=1)
        world.prepare(b"short")
        world.kill()
        world.begin()
        producer = world.connect()
        world.check()
        assert [message.body for _, message in producer.asked] == [b"short"]
        assert [record.body for record in world.records(CHECK_MAX_TOPIC)] == [b"long"]

    in_a_loop(story)


def test_copies_that_apache_unpacked_can_be_read_when_they_are_committed() -> None:
    def story() -> None:
        world = TransactionWorld()
        packed = compress_body(b"a large body" * 10)
        world.prepare(packed, sys_flag=COMPRESSED)
        (first,) = world.records(HALF_TOPIC)
        first.body = first.read_body()
        renew(world.store.put, first, HALF_TOPIC, 0, f"{first.properties}\x02TRANSACTION_CHECK_TIMES\x011")
        world.kill()
        world.begin()
        for half in world.records(HALF_TOPIC)[::-1]:  # the newer one ends it
            world._end(COMMIT, half.queue_offset, half.physical_offset, "pg")
        world.end(COMMIT, world.prepare(packed, sys_flag=COMPRESSED))
        delivered = [record for record in world.records() if record.topic == "orders"]
        assert [record.read_body() for record in delivered] == [b"a large body" * 10] * 2
        assert [record.sys_flag & COMPRESSED for record in delivered] == [0, COMPRESSED]

    in_a_loop(story)
