"""Messages that consumers hand back, seen from the wire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pymq.broker.app import Broker
from pymq.broker.broker_config import FlushDiskType
from pymq.errors import ResponseError, StoreBroken
from pymq.protocol.bodies.subscription import SubscriptionGroupConfig
from pymq.protocol.bodies.topic_config import TopicConfig
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.administration import (
    CreateTopicRequest,
    GetTopicConfigRequest,
    UpdateAndCreateSubscriptionGroupRequest,
)
from pymq.protocol.headers.messaging import ConsumerSendMsgBackRequest, SendMessageResponse
from pymq.protocol.message import MessageRecord
from pymq.protocol.message_ids import decode_offset_msg_id
from pymq.protocol.sysflags import PullFlag
from pymq.transport.pool import Pool
from tests.broker.asking import pull, records, send
from tests.broker.conftest import StartBroker
from tests.broker.test_sync_flush import SETTINGS, SlowDisk

AT_ONCE = 1
WAITING = PullFlag.SUBSCRIPTION | PullFlag.SUSPEND


@pytest.fixture
async def broker(start_broker: StartBroker) -> Broker:
    return await start_broker(message_delay_level="0s 1h")


def place(sent: SendMessageResponse) -> int:
    """The commit-log offset of what was sent."""
    return decode_offset_msg_id(sent.msg_id)[1]


async def hand_back(pool: Pool, broker: Broker, offset: int, level: int = AT_ONCE, **fields: Any) -> None:
    """As a consumer of group `g` does."""
    header = ConsumerSendMsgBackRequest(offset, "g", level, **fields)
    await pool.call(broker.address, header)


async def refusal(pool: Pool, broker: Broker, offset: int, **fields: Any) -> tuple[int, str]:
    """The code and text that it is refused with."""
    with pytest.raises(ResponseError) as refused:
        await hand_back(pool, broker, offset, **fields)
    return refused.value.code, refused.value.remark or ""


async def arrived(pool: Pool, broker: Broker, topic: str, queue_id: int = 0, **fields: Any) -> MessageRecord:
    """The first message of a queue, as soon as there is one."""
    answer = await pull(
        pool,
        broker.address,
        topic,
        queue_id=queue_id,
        sys_flag=WAITING,
        suspend_timeout_millis=4_000,
        **fields,
    )
    (record,) = records(answer)
    return record


async def set_group(pool: Pool, broker: Broker, **settings: Any) -> None:
    """Configure group `g`."""
    group = SubscriptionGroupConfig("g", **settings)
    await pool.call(broker.address, UpdateAndCreateSubscriptionGroupRequest(), group.encode())


async def topic_config(pool: Pool, broker: Broker, topic: str) -> TopicConfig:
    """A topic as it is set up."""
    return TopicConfig.decode((await pool.call(broker.address, GetTopicConfigRequest(topic))).body)


async def test_a_message_that_is_handed_back_comes_to_the_groups_retry_topic(
    broker: Broker, pool: Pool
) -> None:
    properties = "KEYS\x01k\x02UNIQ_KEY\x01ID\x02WAIT\x01true\x02TAGS\x01a\x02own\x01消息\x02"
    sent = await send(pool, broker.address, "orders", b"x", properties=properties, flag=7, sys_flag=1)
    (first,) = records(await pull(pool, broker.address, "orders"))
    await hand_back(pool, broker, place(sent))
    again = await arrived(pool, broker, "%RETRY%g")
    assert (again.body, again.flag, again.sys_flag, again.reconsume_times) == (b"x", 7, 1, 1)
    assert (again.born_host, again.born_timestamp) == (first.born_host, first.born_timestamp)
    assert again.read_properties() == {
        "KEYS": "k",
        "UNIQ_KEY": "ID",
        "TAGS": "a",
        "own": "消息",
        "CLUSTER": "DefaultCluster",
        "RETRY_TOPIC": "orders",
        "ORIGIN_MESSAGE_ID": sent.msg_id,
        "DELAY": "1",
        "REAL_TOPIC": "%RETRY%g",
        "REAL_QID": "0",
        "WAIT": "false",
    }
    config = await topic_config(pool, broker, "%RETRY%g")
    assert (config.read_queue_nums, config.write_queue_nums, config.perm) == (1, 1, 6)


async def test_dead_letters_are_read_like_any_other_message(broker: Broker, pool: Pool) -> None:
    sent = await send(pool, broker.address, "orders", b"x", properties="TAGS\x01a")
    await hand_back(pool, broker, place(sent), level=-1)
    dead = await arrived(pool, broker, "%DLQ%g", subscription="a")
    assert (dead.body, dead.topic, dead.reconsume_times) == (b"x", "%DLQ%g", 1)
    config = await topic_config(pool, broker, "%DLQ%g")
    assert (config.read_queue_nums, config.write_queue_nums, config.perm) == (1, 1, 6)


async def test_retries_spread_over_the_queues_that_the_group_wants(broker: Broker, pool: Pool) -> None:
    await set_group(pool, broker, retry_queue_nums=3)
    sent = await send(pool, broker.address, "orders", b"x")
    for _ in range(60):
        await hand_back(pool, broker, place(sent))
    assert (await topic_config(pool, broker, "%RETRY%g")).read_queue_nums == 3
    counts = []
    for queue_id in range(3):
        answer = await pull(pool, broker.address, "%RETRY%g", queue_id=queue_id, max_msg_nums=60)
        counts.append(len(records(answer)))
    assert min(counts) > 0


async def test_a_retry_topic_gets_the_queues_that_its_group_wants_later(broker: Broker, pool: Pool) -> None:
    """Else what goes to the new ones would never be read."""
    sent = await send(pool, broker.address, "orders", b"x")
    await hand_back(pool, broker, place(sent))
    assert (await topic_config(pool, broker, "%RETRY%g")).read_queue_nums == 1
    await set_group(pool, broker, retry_queue_nums=4)
    config = await topic_config(pool, broker, "%RETRY%g")
    assert (config.read_queue_nums, config.write_queue_nums) == (4, 4)
    await set_group(pool, broker, retry_queue_nums=2)  # what lies in the others is still read
    assert (await topic_config(pool, broker, "%RETRY%g")).read_queue_nums == 4


async def test_a_group_without_retry_queues_drops_what_fails_and_that_is_said_once(
    broker: Broker, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    await set_group(pool, broker, retry_queue_nums=0)
    sent = await send(pool, broker.address, "orders", b"x")
    for _ in range(2):
        await hand_back(pool, broker, place(sent), level=-1)
    assert caplog.text.count("retryQueueNums=0") == 1
    for topic in ("%RETRY%g", "%DLQ%g"):
        with pytest.raises(ResponseError) as unknown:
            await topic_config(pool, broker, topic)
        assert unknown.value.code == ResponseCode.TOPIC_NOT_EXIST


async def test_what_is_not_there_cannot_be_handed_back(broker: Broker, pool: Pool) -> None:
    sent = await send(pool, broker.address, "orders", b"x")
    for offset in (place(sent) + 1, 1 << 40, -1):
        code, remark = await refusal(pool, broker, offset)
        assert (code, remark) == (ResponseCode.SYSTEM_ERROR, f"look message by offset failed, {offset}")


async def test_a_damaged_message_is_not_given_a_fresh_checksum(
    broker: Broker, pool: Pool, tmp_path: Path
) -> None:
    sent = await send(pool, broker.address, "orders", b"sound")
    with (tmp_path / "store/commitlog" / "0".zfill(20)).open("r+b") as log:
        log.seek(place(sent))
        at = place(sent) + log.read(200).index(b"sound")
        log.seek(at)
        log.write(b"S")
    code, remark = await refusal(pool, broker, place(sent))
    assert code == ResponseCode.SYSTEM_ERROR
    assert "does not have its CRC" in remark


async def test_a_group_that_is_unknown_and_may_not_be_made_is_named(
    start_broker: StartBroker, pool: Pool
) -> None:
    broker = await start_broker(auto_create_subscription_group=False)
    sent = await send(pool, broker.address, "orders", b"x")
    code, remark = await refusal(pool, broker, place(sent))
    assert (code, remark) == (ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, "subscription group not exist, g")


async def test_a_broker_that_takes_no_messages_takes_none_back(start_broker: StartBroker, pool: Pool) -> None:
    broker = await start_broker(broker_permission=4)
    code, remark = await refusal(pool, broker, 0)
    assert code == ResponseCode.NO_PERMISSION
    assert "the broker[broker-a] sending message is forbidden" in remark


async def test_a_retry_topic_that_takes_no_messages_is_named(broker: Broker, pool: Pool) -> None:
    sent = await send(pool, broker.address, "orders", b"x")
    header = CreateTopicRequest("%RETRY%g", 1, 1, 4)
    await pool.call(broker.address, header)
    code, remark = await refusal(pool, broker, place(sent))
    assert code == ResponseCode.NO_PERMISSION
    assert "%RETRY%g" in remark


async def test_a_message_that_would_be_too_long_by_now_still_comes_again(
    start_broker: StartBroker, pool: Pool
) -> None:
    first = await start_broker(max_message_size=5000)
    sent = await send(pool, first.address, "orders", b"x" * 5000)
    await first.__aexit__(None, None, None)
    second = await start_broker(max_message_size=1000, message_delay_level="0s")
    await hand_back(pool, second, place(sent))
    assert len((await arrived(pool, second, "%RETRY%g")).body) == 5000
    await hand_back(pool, second, place(sent), level=-1)
    assert len((await arrived(pool, second, "%DLQ%g")).body) == 5000


async def test_properties_that_leave_no_room_are_refused_and_the_message_stays_the_consumers(
    broker: Broker, pool: Pool
) -> None:
    sent = await send(pool, broker.address, "orders", b"x", properties="k\x01" + "x" * 32_720)
    code, remark = await refusal(pool, broker, place(sent))
    assert code == ResponseCode.SYSTEM_ERROR
    assert f"the message at {place(sent)} is not taken back" in remark
    assert "properties" in remark


@pytest.mark.parametrize("level", [AT_ONCE, -1])
async def test_with_synchronous_flush_the_answer_waits_for_the_disk(
    start_broker: StartBroker, pool: Pool, level: int
) -> None:
    disk = SlowDisk()
    settings = SETTINGS | {"message_delay_level": "0s", "sync_flush_timeout": 300}
    broker = await start_broker(disk=disk, flush_disk_type=FlushDiskType.SYNC_FLUSH, **{
        name: value for name, value in settings.items() if name != "flush_disk_type"
    })  # fmt: skip
    sent = await send(pool, broker.address, "orders", b"x")
    disk.is_slow = True
    code, _ = await refusal(pool, broker, place(sent), level=level)
    assert code == ResponseCode.FLUSH_DISK_TIMEOUT, "nobody may believe that the copy is safe"
    disk.is_slow = False
    disk.run_jobs()
    await hand_back(pool, broker, place(sent), level=level)


async def test_a_store_that_is_broken_takes_nothing_back(
    broker: Broker, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise StoreBroken("the disk is gone")

    sent = await send(pool, broker.address, "orders", b"x")
    monkeypatch.setattr("pymq.store.messagestore.MessageStore.put", broken)
    code, remark = await refusal(pool, broker, place(sent))
    assert code == ResponseCode.SYSTEM_ERROR
    assert "the disk is gone" in remark
