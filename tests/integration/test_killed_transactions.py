"""A broker with transactions is killed again and again: exactly the committed ones come, each once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from pymq.errors import PymqError
from pymq.network import SystemNetwork
from pymq.protocol.bodies.heartbeat import HeartbeatData, ProducerData
from pymq.protocol.headers.groups import HeartBeatRequest
from pymq.protocol.headers.messaging import CheckTransactionStateRequest, EndTransactionRequest
from pymq.protocol.message import decode_record
from pymq.protocol.message_ids import decode_offset_msg_id
from pymq.protocol.sysflags import TRANSACTION_COMMIT, TRANSACTION_ROLLBACK
from pymq.transport.dispatch import Request, row
from pymq.transport.pool import Pool
from tests.broker.asking import pull, records, send
from tests.integration.conftest import Standalone, start_standalone

pytestmark = pytest.mark.once

LIVES = 3
CONF = "transactionCheckInterval=200\ntransactionTimeOut=100\nflushConsumerOffsetInterval=300\n"
GROUP = "pg"
TIMED_OUT_S = 120


def decision(body: bytes) -> int:
    """What a producer has decided about a message, now and when it is asked."""
    return TRANSACTION_COMMIT if int(body.rpartition(b"-")[2]) % 2 == 0 else TRANSACTION_ROLLBACK


class Producer:
    """Sends half messages and ends most of them; answers what it is asked."""

    def __init__(self, address: str) -> None:
        code, entry = row(CheckTransactionStateRequest, self._asked)
        self._address = address
        self._answers: set[asyncio.Future[None]] = set()
        self.pool = Pool(SystemNetwork(), {code: entry})
        self.asked = 0

    async def join(self) -> None:
        """Become one of the group."""
        body = HeartbeatData("p", [ProducerData(GROUP)], []).encode()
        await self.pool.call(self._address, HeartBeatRequest(), body)

    def _asked(self, request: Request[CheckTransactionStateRequest]) -> None:
        self.asked += 1
        header = request.header
        kind = decision(decode_record(request.body).body)
        end = EndTransactionRequest(
            GROUP, header.tran_state_table_offset, header.commit_log_offset, kind, header.msg_id or "", True
        )
        request.connection.oneway(end)

    async def transact(self, body: bytes) -> None:
        """Send a half message and end it, twice or not at all by chance of its number. PymqError."""
        text = f"TRAN_MSG\x01true\x02PGROUP\x01{GROUP}\x02UNIQ_KEY\x01{body.decode()}"
        sent = await send(self.pool, self._address, "orders", body, properties=text)
        offset = decode_offset_msg_id(sent.msg_id)[1]
        end = EndTransactionRequest(GROUP, sent.queue_offset, offset, decision(body), body.decode())
        for _ in range(int(body.rpartition(b"-")[2]) // 2 % 3):
            await self.pool.oneway(self._address, end)


async def work_until_killed(running: Standalone, luck: random.Random, life: int) -> set[bytes]:
    """Have transactions under way, kill the broker; gives the bodies whose half messages it acknowledged."""
    producer = Producer(running.broker)
    await producer.join()
    acknowledged: set[bytes] = set()

    async def work(number: int) -> None:
        count = 0
        try:
            while True:
                body = b"%d-%d-%d" % (life, number, count)
                await producer.transact(body)
                acknowledged.add(body)
                count += 1
                await asyncio.sleep(0.002)
        except PymqError:
            return

    working = [asyncio.ensure_future(work(number)) for number in range(8)]
    await asyncio.sleep(0.6 + luck.random())
    left_open = b"%d-99-0" % life  # this one is ended by nobody before the broker dies
    await producer.transact(left_open)
    running.process.kill()
    acknowledged.add(left_open)
    running.process.wait()
    await asyncio.gather(*working)
    await producer.pool.close()
    return acknowledged


async def all_delivered(running: Standalone, expected: set[bytes]) -> Counter[bytes]:
    """What was delivered, once those expected are there and a while after that."""
    producer = Producer(running.broker)
    await producer.join()
    found: Counter[bytes] = Counter()
    offset, rounds_left = 0, 10
    try:
        async with asyncio.timeout(TIMED_OUT_S):
            while rounds_left:
                answer = records(await pull(producer.pool, running.broker, "orders", offset=offset))
                offset += len(answer)
                found.update(record.body for record in answer)
                if not answer:
                    rounds_left -= expected <= found.keys()
                    await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{len(expected - found.keys())} of {len(expected)} did not come") from None
    finally:
        await producer.pool.close()
    assert producer.asked, "else this shows nothing"
    return found


async def test_exactly_the_committed_ones_come_once_through_kill_9(tmp_path: Path) -> None:
    luck = random.Random(7)
    acknowledged: set[bytes] = set()
    for life in range(LIVES):
        acknowledged |= await work_until_killed(start_standalone(tmp_path, CONF), luck, life)
    assert len(acknowledged) > 50

    running = start_standalone(tmp_path, CONF)
    try:
        committed = {body for body in acknowledged if decision(body) == TRANSACTION_COMMIT}
        found = await all_delivered(running, committed)
    finally:
        running.process.terminate()
        running.process.wait(timeout=60)
    assert [body for body, count in found.items() if count > 1] == []
    assert [body for body in found if decision(body) != TRANSACTION_COMMIT] == []
