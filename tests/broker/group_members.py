"""Members of consumer groups, as a broker sees them: heartbeats, and what they are asked and told."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

from pymq.network import SystemNetwork
from pymq.protocol.bodies.body import MessageQueue
from pymq.protocol.bodies.heartbeat import ConsumerData, HeartbeatData
from pymq.protocol.bodies.offsets import ConsumerStatusBody
from pymq.protocol.bodies.running_info import ConsumerRunningInfo
from pymq.protocol.bodies.subscription import SubscriptionData
from pymq.protocol.header import Header
from pymq.protocol.headers.groups import (
    GetConsumerRunningInfoRequest,
    GetConsumerStatusFromClientRequest,
    HeartBeatRequest,
    ResetConsumerClientOffsetRequest,
)
from pymq.transport.dispatch import Answer, Request, merge, row
from pymq.transport.pool import Pool


def queue(queue_id: int, topic: str = "orders") -> MessageQueue:
    """A queue of the tests' broker."""
    return MessageQueue(topic, "broker-a", queue_id)


class FakeMember:
    """One client in a consumer group.

    Attributes:
        stands: the offsets that it answers 221 with; None: it does not answer.
        resets: header and body of each 220 that it was sent.
    """

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.stands: dict[MessageQueue, int] | None = {}
        self.resets: list[tuple[ResetConsumerClientOffsetRequest, bytes]] = []
        self.asked: list[Header] = []
        self.pool = Pool(
            SystemNetwork(),
            merge(
                [
                    row(ResetConsumerClientOffsetRequest, self._reset),
                    row(GetConsumerStatusFromClientRequest, self._status),
                    row(GetConsumerRunningInfoRequest, self._running_info),
                ]
            ),
        )

    def _reset(self, request: Request[ResetConsumerClientOffsetRequest]) -> Answer:
        self.resets.append((request.header, request.body))
        return Answer()

    def _status(self, request: Request[GetConsumerStatusFromClientRequest]) -> Answer | None:
        self.asked.append(request.header)
        if self.stands is None:
            return None
        return Answer(body=ConsumerStatusBody({}, self.stands).encode())

    def _running_info(self, request: Request[GetConsumerRunningInfoRequest]) -> Answer:
        self.asked.append(request.header)
        return Answer(body=ConsumerRunningInfo({"PROP_CLIENT_VERSION": self.client_id}).encode())

    async def join(self, address: str, group: str, *topics: str, **fields: Any) -> None:
        """Join a group; `fields` are those of its ConsumerData."""
        subscriptions = [SubscriptionData(topic) for topic in topics]
        data = ConsumerData(group, subscription_data_set=subscriptions, **fields)
        await self.pool.call(address, HeartBeatRequest(), HeartbeatData(self.client_id, [], [data]).encode())

    async def told(self, count: int = 1) -> None:
        """Wait until it was told to reset so often."""
        async with asyncio.timeout(30):
            while len(self.resets) < count:  # noqa: ASYNC110 - what the broker says comes in its own time
                await asyncio.sleep(0.002)


class ForeignMember:
    """A client in another language, or of another version, that speaks through a bare socket."""

    def __init__(self, language: str, version: int) -> None:
        self._words = {"language": language, "version": version, "flag": 0, "opaque": 1}

    async def join(self, address: str, group: str, *topics: str) -> None:
        """Join a group under the id `foreign`."""
        host, port = address.split(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port))
        data = ConsumerData(group, subscription_data_set=[SubscriptionData(topic) for topic in topics])
        await self.ask(HeartBeatRequest(), HeartbeatData("foreign", [], [data]).encode())

    async def ask(self, header: Header, body: bytes = b"") -> bytes:
        """Send a request; gives the body of its answer."""
        self.say(header, body)
        return await self._next(answer=True)

    def say(self, header: Header, body: bytes = b"") -> None:
        """Send a request, whatever is answered."""
        head = json.dumps({**self._words, "code": header.code, "extFields": json.loads(header.to_json())})
        words = struct.pack(">ii", 4 + len(head) + len(body), len(head))
        self._writer.write(words + head.encode() + body)

    async def told(self) -> bytes:
        """The body of the next request to reset."""
        return await self._next(answer=False)

    async def _next(self, *, answer: bool) -> bytes:
        async with asyncio.timeout(30):
            while True:
                size, head_size = struct.unpack(">ii", await self._reader.readexactly(8))
                frame = await self._reader.readexactly(size - 4)
                head = json.loads(frame[:head_size])
                if head["flag"] & 1 == answer and (answer or head["code"] == 220):
                    return frame[head_size:]

    def leave(self) -> None:
        """Hang up."""
        self._writer.close()
