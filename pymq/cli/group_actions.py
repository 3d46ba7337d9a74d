"""What `pymq group` does and prints."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import pymq
from pymq.cli.messages import run_client
from pymq.errors import PymqError

if TYPE_CHECKING:
    from pymq.client.group_offsets import ResetTo


def lag(namesrv: str, group: str, topic: str | None) -> None:
    """Print how far a group is. Raises PymqError."""

    async def story() -> None:
        async with pymq.Client(namesrv) as mq:
            found = await mq.lag(group, topic)
        for each in found.queues:
            print(
                f"{_queue(each.queue)} brokerOffset={each.broker_offset} "
                f"consumerOffset={each.consumer_offset} lag={each.messages} behind={_age(each.behind)}"
            )
        print(f"lag={found.messages} behind={_age(found.behind)}")

    run_client(story())


def reset(namesrv: str, group: str, topic: str, to: ResetTo) -> None:
    """Move a group and print where it goes on. Raises PymqError."""

    async def story() -> None:
        async with pymq.Client(namesrv) as mq:
            try:
                offsets = await mq.reset_offsets(group, topic, to)
            except ValueError as error:  # an offset that a queue does not hold
                raise PymqError(str(error)) from None
        for queue, offset in offsets.items():
            print(f"{_queue(queue)} consumerOffset={offset}")

    run_client(story())


def clone(namesrv: str, source: str, target: str, topic: str | None) -> None:
    """Give a group another's offsets and print the topics. Raises PymqError."""

    async def story() -> None:
        async with pymq.Client(namesrv) as mq:
            for each in await mq.clone_offsets(source, target, topic):
                print(f"topic={each}")

    run_client(story())


def _queue(queue: pymq.MessageQueue) -> str:
    return f"topic={queue.topic} broker={queue.broker_name} queueId={queue.queue_id}"


def _age(age: datetime.timedelta | None) -> str:
    return "?" if age is None else f"{age.total_seconds():.1f}s"
