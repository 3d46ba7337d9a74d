"""What the tests of ordered consumption share."""

from __future__ import annotations

from pymq.client import Client, Consumer
from pymq.protocol.bodies import MessageQueue
from tests.client.fake_cluster import FakeBroker

RETRY = MessageQueue("%RETRY%g", "broker-a", 0)


def ordered(mq: Client, suspend: float = 0.01, max_retries: int | None = None) -> Consumer:
    """An ordered consumer of group `g`."""
    return mq.consumer(
        "g", "orders", order="ordered", start="first", suspend=suspend, max_retries=max_retries
    )


def fill(broker: FakeBroker, count: int, queue_id: int = 0) -> None:
    """Put messages "0", "1" … into a queue."""
    for number in range(count):
        broker.put("orders", queue_id, str(number).encode())


def orders(queue_id: int) -> MessageQueue:
    """A queue of the topic."""
    return MessageQueue("orders", "broker-a", queue_id)


def holder(broker: FakeBroker, queue_id: int) -> str | None:
    """Who holds the lock of a queue."""
    return broker.locks.get(("g", orders(queue_id)))


def committed(broker: FakeBroker, queue_id: int = 0) -> int | None:
    """The group's offset in a queue."""
    return broker.offsets.get(("g", "orders", queue_id))


async def got_next(consumer: Consumer) -> bytes:
    """Acknowledge the next message and give its body."""
    m = await consumer.receive()
    m.ack()
    return m.body
