"""A broker of ours on the folder that an Apache 4.9.4 broker left: all that it had is served on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pymq.broker.app import Broker
from pymq.broker.broker_config import BrokerConfig
from pymq.network import SystemNetwork
from pymq.protocol.bodies.offsets import ConsumerOffsets, DelayOffsets
from pymq.protocol.bodies.subscription import SubscriptionGroupWrapper
from pymq.protocol.bodies.topic_config import TopicConfigSerializeWrapper
from pymq.protocol.headers.administration import (
    GetAllConsumerOffsetRequest,
    GetAllDelayOffsetRequest,
    GetAllSubscriptionGroupConfigRequest,
    GetAllTopicConfigRequest,
)
from pymq.protocol.headers.messaging import QueryMessageRequest, ViewMessageRequest
from pymq.protocol.message import MessageRecord, decode_record, decode_records
from pymq.protocol.message_ids import decode_offset_msg_id
from pymq.store.inspection.files import StoreFolder
from pymq.store.inspection.problems import Problem
from pymq.store.inspection.verify import verify
from pymq.system_disk import SystemDisk
from pymq.transport.pool import Pool
from tests.broker.asking import bounds, pull, records
from tests.sim import SimClock
from tests.store.golden_store import facts, unpack

FACTS = facts()
SETTINGS = FACTS["config"]
MESSAGES: list[dict[str, Any]] = FACTS["messages"]
SOON_AFTER_MS = 1_795_528_660_000
"""Nothing that is delayed is due yet."""


def open_golden(root: Path) -> Broker:
    """A broker on a copy of the golden store; enter it."""
    config = BrokerConfig(
        broker_name=SETTINGS["brokerName"],
        listen_port=0,
        bind_address="127.0.0.1",
        store_path_root_dir=str(root),
        mapped_file_size_commit_log=SETTINGS["mappedFileSizeCommitLog"],
        mapped_file_size_consume_queue=SETTINGS["mappedFileSizeConsumeQueue"],
        max_hash_slot_num=SETTINGS["maxHashSlotNum"],
        max_index_num=SETTINGS["maxIndexNum"],
        message_delay_level=SETTINGS["messageDelayLevel"],
        max_message_size=1 << 15,
        disk_min_free_bytes=1,
        clean_file_forcibly_enable=False,
    )
    clock = SimClock(now_ms=SOON_AFTER_MS)
    return Broker(config, clock=clock, disk=SystemDisk(), network=SystemNetwork())


@pytest.fixture
async def golden(tmp_path: Path) -> AsyncIterator[Broker]:
    """Such a broker at work."""
    async with open_golden(unpack(tmp_path)) as broker:
        yield broker


async def test_all_messages_are_pulled_at_their_offsets_with_their_ids(golden: Broker, pool: Pool) -> None:
    for topic in FACTS[
        "topics"
    ]:  # one has queues but is no topic: it is of Apache's transaction service alone
        for queue_id, limits in FACTS["queues"].get(topic, {}).items():
            expected = [m for m in MESSAGES if (m["topic"], m["queueId"]) == (topic, int(queue_id))]
            found: list[MessageRecord] = []
            while len(found) < limits["max"]:
                reply = await pull(pool, golden.address, topic, queue_id=int(queue_id), offset=len(found))
                assert (bounds(reply).min_offset, bounds(reply).max_offset) == (limits["min"], limits["max"])
                found += records(reply)
            assert [r.queue_offset for r in found] == [m["queueOffset"] for m in expected]
            assert [r.physical_offset for r in found] == [m["phyOffset"] for m in expected]
            assert [r.read_properties() for r in found] == [m["properties"] for m in expected]
            for record in found:
                _, offset = decode_offset_msg_id(record.offset_msg_id)
                view = await pool.call(golden.address, ViewMessageRequest(offset))
                assert decode_record(view.body) == record


async def test_all_keys_are_found(golden: Broker, pool: Pool) -> None:
    keys: dict[tuple[str, str], set[int]] = {}
    for message in MESSAGES:
        for key in message["properties"].get("KEYS", "").split():
            keys.setdefault((message["topic"], key), set()).add(message["phyOffset"])
    for (topic, key), offsets in keys.items():
        reply = await pool.call(golden.address, QueryMessageRequest(topic, key, 64, 0, 2**62))
        assert {record.physical_offset for record in decode_records(reply.body)} == offsets


async def test_topics_groups_and_offsets_are_taken_over(golden: Broker, pool: Pool) -> None:
    async def ask(header: Any, body: Any) -> Any:
        return body.decode((await pool.call(golden.address, header)).body)

    topics = await ask(GetAllTopicConfigRequest(), TopicConfigSerializeWrapper)
    assert set(FACTS["topics"]) <= topics.topic_config_table.keys()
    groups = await ask(GetAllSubscriptionGroupConfigRequest(), SubscriptionGroupWrapper)
    assert set(FACTS["groups"]) <= groups.subscription_group_table.keys()
    offsets = await ask(GetAllConsumerOffsetRequest(), ConsumerOffsets)
    expected = {
        key: {int(queue_id): offset for queue_id, offset in table.items()}
        for key, table in FACTS["consumerOffsets"].items()
    }
    assert offsets.offset_table == expected
    delays = await ask(GetAllDelayOffsetRequest(), DelayOffsets)
    moved = {level: offset for level, offset in delays.offset_table.items() if offset}
    assert moved == {int(level): offset for level, offset in FACTS["delayOffsets"].items()}


async def test_nothing_is_wrong_in_what_it_leaves(tmp_path: Path) -> None:
    root = unpack(tmp_path)
    async with open_golden(root):
        pass
    found: list[Problem] = []
    summary = verify(StoreFolder(str(root), SystemDisk()), found.append)
    assert found == []
    assert (summary.records, summary.index_entries) == (233, 553)
