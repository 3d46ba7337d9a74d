"""Values that nothing could work with: one clear error each, where they are given."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from pymq.client import Client, Message, MessageInvalid, Settings
from pymq.client.repeating import Repeating
from pymq.errors import ConfigError
from tests.client.fake_cluster import FAST, FakeCluster


@pytest.fixture
async def mq() -> AsyncIterator[Client]:
    async with FakeCluster() as cluster, Client(cluster.name_servers, settings=FAST) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("commit_s", 0),
        ("rebalance_s", -1.0),
        ("heartbeat_s", math.nan),
        ("suspend_s", math.inf),
        ("pull_batch", 0),
        ("pull_batch", 1.5),
        ("pull_batch", True),
        ("call_timeout_s", "3"),
        ("send_retries", -1),
        ("send_latency_fault_enable", 1),
        ("retry_another_broker_when_not_store_ok", 0),
        ("retry_codes", 14),
        ("retry_codes", "14"),
        ("send_async_retries", -1),
        ("transaction_check_timeout_s", 0),
    ],
)
def test_settings_that_cannot_be_are_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}={value!r}: expected"):
        Settings(**{name: value})
    with pytest.raises(ConfigError, match=f"{name}={value!r}: expected"):
        msgspec.structs.replace(FAST, **{name: value})


def test_settings_of_which_0_means_none() -> None:
    settings = Settings(send_retries=0, retry_pause_s=0, suspect_s=0, compress_from_bytes=0, surrender_s=0)
    assert settings.send_retries == 0


@pytest.mark.parametrize(
    "options",
    [
        {"consume_timeout": 0},
        {"consume_timeout": -1},
        {"consume_timeout": math.nan},
        {"consume_timeout": math.inf},
        {"consume_timeout": "9"},
        {"prefetch": "x"},
        {"prefetch": 0},
        {"prefetch_bytes": 0.5},
        {"max_retries": 1.5},
        {"max_retries": -1},
    ],
)
async def test_an_option_of_a_consumer_is_named(mq: Client, options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ConfigError, match=f"{name}={value!r}: expected"):
        mq.consumer("g", "orders", **options)


@pytest.mark.parametrize(
    ("topic", "text"),
    [
        ("", "topic has no name"),
        ("a b", "topic 'a b'"),
        ({}, "at least one topic"),
        (["orders"], "expected a topic's name"),
        ({"orders": 5}, "orders: 5 is no tag expression"),
        ({5: "a"}, "name is a int"),
    ],
)
async def test_what_a_consumer_subscribes_to_is_looked_at(mq: Client, topic: Any, text: str) -> None:
    with pytest.raises((ConfigError, MessageInvalid), match=text):
        mq.consumer("g", topic)


@pytest.mark.parametrize(
    "message",
    [
        Message("\ud800"),
        Message(b"x", keys="\ud800"),
        Message(b"x", keys=[5]),  # type: ignore[list-item]
        Message(b"x", tags="\ud800"),
        Message(b"x", tags=5),  # type: ignore[arg-type]
        Message(b"x", properties={"a": "\ud800"}),
    ],
)
async def test_a_message_that_cannot_be_written_is_invalid(mq: Client, message: Message) -> None:
    with pytest.raises(MessageInvalid):
        await mq.send("orders", message)


async def test_timeouts_that_are_none(mq: Client) -> None:
    with pytest.raises(ValueError, match="timeout=inf"):
        await mq.request("orders", b"x", timeout=math.inf)
    with pytest.raises(ValueError, match="timeout='5'"):
        await mq.send("orders", b"x", timeout="5")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="to=True"):
        await mq.reset_offsets("g", "orders", True)


async def test_what_is_always_due_leaves_the_loop_to_others() -> None:
    async def nothing() -> None:
        pass

    busy = Repeating("busy", 0.0, nothing)
    busy.start()
    async with asyncio.timeout(30):
        for _ in range(3):
            await asyncio.sleep(0)
        await busy.close()


async def test_options_beside_a_message_would_have_no_effect(mq: Client) -> None:
    message = Message("paid", tags="a")
    with pytest.raises(MessageInvalid, match="tags, delay_level: set in the Message itself"):
        await mq.send("orders", message, tags="b", delay_level=1)
    with pytest.raises(MessageInvalid, match="keys: set in the Message itself"):
        mq.transaction("orders", message, keys="k")
    with pytest.raises(TypeError, match="tag"):
        mq.send_nowait("orders", "paid", tag="a")  # type: ignore[call-arg]


async def test_what_only_a_delayed_send_has_is_refused_elsewhere(mq: Client) -> None:
    with pytest.raises(MessageInvalid, match="cannot be delayed"):
        mq.transaction("orders", "paid", delay_level=1)  # type: ignore[call-arg]
