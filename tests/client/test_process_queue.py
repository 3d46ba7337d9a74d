"""What may be committed, and what comes late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pymq.client.namespace import NO_NAMESPACE
from pymq.client.outgoing import Message
from pymq.client.process_queue import ProcessQueue
from pymq.client.received import ReceivedMessage
from pymq.client.send_result import SendResult
from pymq.protocol.message import decode_record, encode_record
from tests.client.fake_cluster import queue


class Somebody:
    namespace = NO_NAMESPACE

    async def reply(
        self, message: ReceivedMessage, reply: bytes | str | Message, timeout_s: float
    ) -> SendResult:
        raise AssertionError


class Nobody:
    recipient = Somebody()

    def done(self, message: ReceivedMessage) -> None: ...

    async def failed(self, message: ReceivedMessage, delay_level: int) -> None: ...

    def released(self, message: ReceivedMessage) -> None: ...


def message(offset: int) -> ReceivedMessage:
    record = encode_record(b"orders", b"x", b"", 0, offset, 0, 0, 0, 0, bytes(8), 0, bytes(8))
    return ReceivedMessage(decode_record(record), queue(0), Nobody())


def held(*offsets: int) -> ProcessQueue:
    process_queue = ProcessQueue(queue(0), offsets[0])
    for offset in offsets:
        process_queue.add(offset, 10)
    process_queue.next_offset = offsets[-1] + 1
    return process_queue


def test_nothing_beyond_the_oldest_unsettled_message_is_committed() -> None:
    process_queue = held(5, 6, 7)
    process_queue.settle(7)
    process_queue.settle(6)
    assert process_queue.committable == 5
    process_queue.settle(5)
    assert process_queue.committable == 8


def test_what_was_filtered_out_is_committed_once_nothing_is_held() -> None:
    process_queue = held(5)
    process_queue.next_offset = 40
    assert process_queue.committable == 5
    process_queue.settle(5)
    assert process_queue.committable == 40


def test_count_bytes_and_span_follow_what_is_held() -> None:
    process_queue = held(5, 6, 90)
    assert (len(process_queue), process_queue.size_bytes, process_queue.span) == (3, 30, 85)
    process_queue.settle(5)
    process_queue.settle(5)
    assert (len(process_queue), process_queue.size_bytes, process_queue.span) == (2, 20, 84)


def test_a_message_is_held_once() -> None:
    process_queue = held(5)
    assert not process_queue.add(5, 10)
    assert process_queue.size_bytes == 10


def test_only_the_latest_copy_given_out_can_be_handed_in_and_only_once() -> None:
    process_queue = held(5)
    first, second = message(5), message(5)
    process_queue.hand_out(first, 0.0)
    process_queue.hand_out(second, 1.0)
    assert not process_queue.hand_in(first)
    assert process_queue.hand_in(second)
    assert not process_queue.hand_in(second)


def test_nothing_is_handed_in_to_a_queue_that_is_gone() -> None:
    process_queue = held(5)
    late = message(5)
    process_queue.hand_out(late, 0.0)
    process_queue.drop()
    assert not process_queue.hand_in(late)


def test_messages_that_are_handled_for_too_long_are_found() -> None:
    process_queue = held(5, 6)
    old, young = message(5), message(6)
    process_queue.hand_out(old, 10.0)
    process_queue.hand_out(young, 20.0)
    assert process_queue.handed_out_before(15.0) == [old]


@given(order=st.permutations(range(12)))
def test_in_whatever_order_messages_are_settled_the_smallest_is_committed(order: list[int]) -> None:
    process_queue = held(*range(12))
    left = set(range(12))
    for offset in order:
        process_queue.settle(offset)
        left.discard(offset)
        assert process_queue.committable == min(left, default=12)
