"""Messages that producers send with a delay level, seen from the wire."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pymq.broker.app import Broker
from pymq.broker.broker_config import FlushDiskType
from pymq.errors import ResponseError
from pymq.protocol.bodies.offsets import DelayOffsets
from pymq.protocol.bodies.tables import KVTable
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.administration import GetAllDelayOffsetRequest, GetBrokerRuntimeInfoRequest
from pymq.protocol.sysflags import PullFlag
from pymq.transport.pool import Pool
from tests.broker.asking import pull, records, send
from tests.broker.conftest import StartBroker

AT_ONCE, IN_AN_HOUR = 1, 2
LEVELS = "0s 1h"
WAITING = PullFlag.SUBSCRIPTION | PullFlag.SUSPEND


def delayed(level: object, properties: str = "TAGS\x01a") -> str:
    """Property text with a delay level."""
    return f"{properties}\x02DELAY\x01{level}\x02"


@pytest.fixture
async def broker(start_broker: StartBroker) -> Broker:
    return await start_broker(message_delay_level=LEVELS)


async def bodies(pool: Pool, broker: Broker, topic: str, queue_id: int = 0) -> list[bytes]:
    """What a queue holds now."""
    return [record.body for record in records(await pull(pool, broker.address, topic, queue_id=queue_id))]


async def arrived(pool: Pool, broker: Broker, topic: str, count: int = 1) -> list[bytes]:
    """What queue 0 holds, as soon as that is `count` messages."""
    got: list[bytes] = []
    while len(got) < count:
        answer = await pull(
            pool, broker.address, topic, offset=len(got), sys_flag=WAITING, suspend_timeout_millis=4_000
        )
        assert records(answer), f"only {len(got)} of {count} came"
        got += [record.body for record in records(answer)]
    return got


async def test_a_delayed_message_waits_in_its_levels_queue(broker: Broker, pool: Pool) -> None:
    sent = await send(
        pool, broker.address, "orders", b"later", queue_id=3,
        properties=delayed(IN_AN_HOUR, "KEYS\x01k\x02WAIT\x01true\x02TAGS\x01a"),
    )  # fmt: skip
    assert (sent.queue_id, sent.queue_offset) == (3, 0)
    assert await bodies(pool, broker, "orders", 3) == []
    (waiting,) = records(await pull(pool, broker.address, "SCHEDULE_TOPIC_XXXX", queue_id=1))
    assert waiting.offset_msg_id == sent.msg_id
    assert waiting.read_properties() == {
        "KEYS": "k",
        "TAGS": "a",
        "WAIT": "true",
        "CLUSTER": "DefaultCluster",
        "DELAY": "2",
        "REAL_TOPIC": "orders",
        "REAL_QID": "3",
    }


async def test_a_held_pull_gets_it_the_moment_it_is_due(start_broker: StartBroker, pool: Pool) -> None:
    broker = await start_broker(message_delay_level="1s")
    await send(pool, broker.address, "orders", b"x", properties="")
    await send(pool, broker.address, "orders", b"later", properties=delayed(1))
    answer = await pull(
        pool, broker.address, "orders", offset=1, sys_flag=WAITING, suspend_timeout_millis=4_000,
        subscription="a || b",
    )  # fmt: skip
    (record,) = records(answer)
    (waiting,) = records(await pull(pool, broker.address, "SCHEDULE_TOPIC_XXXX"))
    assert record.body == b"later"
    assert 1000 <= record.store_timestamp - waiting.store_timestamp < 10_000
    assert (record.properties, record.store_host) == (waiting.properties, waiting.store_host)


@pytest.mark.parametrize("level", [0, -1, -(2**31) + 1])
async def test_no_level_is_no_delay(broker: Broker, pool: Pool, level: int) -> None:
    await send(pool, broker.address, "orders", b"now", properties=delayed(level))
    (record,) = records(await pull(pool, broker.address, "orders"))
    assert record.read_properties()["DELAY"] == str(level)
    assert "REAL_TOPIC" not in record.properties


@pytest.mark.parametrize("level", ["soon", "1.5", "99999999999", "١"])
async def test_a_level_that_is_no_number_is_refused(broker: Broker, pool: Pool, level: str) -> None:
    with pytest.raises(ResponseError, match="DELAY=") as refused:
        await send(pool, broker.address, "orders", b"x", properties=delayed(level))
    assert refused.value.code == ResponseCode.MESSAGE_ILLEGAL


async def test_properties_that_just_fit_do_not_with_what_a_delay_adds(broker: Broker, pool: Pool) -> None:
    filler = "k\x01" + "x" * 32_720
    await send(pool, broker.address, "orders", b"x", properties=filler)
    with pytest.raises(ResponseError, match="properties") as refused:
        await send(pool, broker.address, "orders", b"x", properties=delayed(1, filler))
    assert refused.value.code == ResponseCode.MESSAGE_ILLEGAL


async def test_a_consumers_own_retry_waits_its_level(broker: Broker, pool: Pool) -> None:
    """What it got is sent as it was, where it went the last time is replaced."""
    properties = delayed(IN_AN_HOUR, "RETRY_TOPIC\x01orders\x02REAL_TOPIC\x01old\x02REAL_QID\x019")
    await send(pool, broker.address, "%RETRY%g", b"again", properties=properties, reconsume_times=2)
    (waiting,) = records(await pull(pool, broker.address, "SCHEDULE_TOPIC_XXXX", queue_id=1))
    assert waiting.reconsume_times == 2
    properties_now = waiting.read_properties()
    assert (properties_now["REAL_TOPIC"], properties_now["REAL_QID"]) == ("%RETRY%g", "0")
    assert waiting.properties.count("REAL_TOPIC") == 1
    await send(pool, broker.address, "%RETRY%g", b"now", properties=delayed(AT_ONCE), reconsume_times=3)
    assert await arrived(pool, broker, "%RETRY%g") == [b"now"]


async def test_tools_see_how_far_the_levels_are(broker: Broker, pool: Pool) -> None:
    for level in (AT_ONCE, AT_ONCE, IN_AN_HOUR):
        await send(pool, broker.address, "orders", b"x", properties=delayed(level))
    await arrived(pool, broker, "orders", 2)
    answer = await pool.call(broker.address, GetAllDelayOffsetRequest())
    assert DelayOffsets.decode(answer.body).offset_table == {1: 2}
    runtime = KVTable.decode((await pool.call(broker.address, GetBrokerRuntimeInfoRequest())).body).table
    assert runtime["scheduleMessageOffset_1"] == "2,2"


async def test_what_waits_is_there_after_a_restart(
    start_broker: StartBroker, pool: Pool, tmp_path: Path
) -> None:
    first = await start_broker(message_delay_level="0s 2s")
    for number in range(3):
        await send(pool, first.address, "early", b"early %d" % number, properties=delayed(1))
        await send(pool, first.address, "late", b"late %d" % number, properties=delayed(2))
    await arrived(pool, first, "early", 3)
    await first.__aexit__(None, None, None)
    saved = json.loads((tmp_path / "store/config/delayOffset.json").read_text())
    assert saved["offsetTable"] == {"1": 3}

    second = await start_broker(message_delay_level="0s 2s")
    assert await arrived(pool, second, "late", 3) == [b"late 0", b"late 1", b"late 2"]
    assert await bodies(pool, second, "early") == [b"early 0", b"early 1", b"early 2"]


async def test_a_torn_file_is_replaced_by_its_backup_and_repeats_nothing(
    start_broker: StartBroker, pool: Pool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await (await start_broker(message_delay_level=LEVELS)).__aexit__(None, None, None)
    first = await start_broker(message_delay_level=LEVELS)
    await send(pool, first.address, "orders", b"x", properties=delayed(AT_ONCE))
    assert await arrived(pool, first, "orders") == [b"x"]
    await first.__aexit__(None, None, None)
    main = tmp_path / "store/config/delayOffset.json"
    assert main.with_suffix(".json.bak").exists()
    main.write_text(main.read_text()[:-5])

    second = await start_broker(message_delay_level=LEVELS)
    await send(pool, second.address, "orders", b"y", properties=delayed(AT_ONCE))
    assert await arrived(pool, second, "orders", 2) == [b"x", b"y"]
    assert "delayOffset.json was missing or torn: started from" in caplog.text


async def test_the_levels_are_told_at_the_start(
    start_broker: StartBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await start_broker(message_delay_level=LEVELS)
    assert "delay levels: 1=0s, 2=1h" in caplog.text


async def test_a_delayed_message_is_flushed_before_it_is_acknowledged(
    start_broker: StartBroker, pool: Pool
) -> None:
    broker = await start_broker(message_delay_level=LEVELS, flush_disk_type=FlushDiskType.SYNC_FLUSH)
    sent = await send(pool, broker.address, "orders", b"x", properties=delayed(AT_ONCE))
    assert sent.queue_id == 0
    assert await arrived(pool, broker, "orders") == [b"x"]
