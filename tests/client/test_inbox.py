"""Waiting for messages: no one is lost, whoever stops waiting."""

from __future__ import annotations

import asyncio

import pytest

from pymq.client.failures import ClientClosed
from pymq.client.inbox import Inbox
from pymq.client.process_queue import ProcessQueue
from tests.client.fake_cluster import queue
from tests.client.test_process_queue import message


async def test_messages_come_out_in_the_order_they_went_in() -> None:
    inbox, process_queue = Inbox(), ProcessQueue(queue(0), 0)
    for offset in range(3):
        inbox.put(process_queue, message(offset))
    assert [(await inbox.wait())[1].queue_offset for _ in range(3)] == [0, 1, 2]
    assert inbox.take() is None


async def test_messages_of_a_queue_that_is_gone_are_passed_over() -> None:
    inbox, gone, ours = Inbox(), ProcessQueue(queue(0), 0), ProcessQueue(queue(1), 0)
    inbox.put(gone, message(1))
    inbox.put(ours, message(2))
    gone.drop()
    assert (await inbox.wait())[1].queue_offset == 2


async def test_what_may_not_be_taken_in_that_step_is_passed_over() -> None:
    allowed: set[int] = set()
    inbox = Inbox(lambda process_queue, message: message.queue_offset in allowed)
    process_queue = ProcessQueue(queue(0), 0)
    taking = asyncio.create_task(inbox.wait())
    await asyncio.sleep(0)
    for offset in range(3):
        inbox.put(process_queue, message(offset))
    allowed.add(1)
    assert (await taking)[1].queue_offset == 1
    assert inbox.take() is None


async def test_every_waiting_taker_gets_one() -> None:
    inbox, process_queue = Inbox(), ProcessQueue(queue(0), 0)
    takers = [asyncio.create_task(inbox.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    for offset in range(3):
        inbox.put(process_queue, message(offset))
    taken = await asyncio.gather(*takers)
    assert sorted(message.queue_offset for _, message in taken) == [0, 1, 2]


async def test_a_taker_cancelled_at_its_turn_leaves_the_message_to_the_next() -> None:
    inbox, process_queue = Inbox(), ProcessQueue(queue(0), 0)
    first, second = asyncio.create_task(inbox.wait()), asyncio.create_task(inbox.wait())
    await asyncio.sleep(0)
    inbox.put(process_queue, message(7))
    first.cancel()  # it was woken, and has not run yet
    assert (await asyncio.wait_for(second, 30))[1].queue_offset == 7
    assert first.cancelled()


async def test_closing_ends_all_waiting() -> None:
    inbox = Inbox()
    taker = asyncio.create_task(inbox.wait())
    await asyncio.sleep(0)
    inbox.close()
    with pytest.raises(ClientClosed):
        await taker
    with pytest.raises(ClientClosed):
        await inbox.wait()


async def test_who_gives_up_waiting_leaves_nothing() -> None:
    inbox, process_queue = Inbox(), ProcessQueue(queue(0), 0)
    patient = asyncio.create_task(inbox.wait())
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await inbox.wait()
    assert inbox.waiting_takers == 1
    inbox.put(process_queue, message(7))
    assert (await patient)[1].queue_offset == 7
    assert inbox.waiting_takers == 0
