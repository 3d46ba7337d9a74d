"""What a message may look like, and what becomes of it on the wire."""

from __future__ import annotations

import asyncio
import random
import zlib
from typing import Any

import pytest

from pymq.client.failures import MessageInvalid
from pymq.client.outgoing import Message, check_group, check_topic, compress, encode_message
from pymq.protocol.properties import RESERVED, decode_properties

LIMIT = 4 * 1024 * 1024


def test_tags_keys_properties_and_the_id_go_into_the_properties() -> None:
    message = Message("héllo", "created", ["o-1", "o-2"], {"colour": "blue"}, flag=7)
    outgoing = encode_message(message, "ID", LIMIT)
    assert outgoing.body == "héllo".encode()
    assert outgoing.flag == 7
    assert decode_properties(outgoing.properties) == {
        "TAGS": "created",
        "KEYS": "o-1 o-2",
        "UNIQ_KEY": "ID",
        "WAIT": "true",
        "colour": "blue",
    }


def test_a_plain_message_has_an_id_and_waits_to_be_stored() -> None:
    assert decode_properties(encode_message(Message(b"x"), "ID", LIMIT).properties) == {
        "UNIQ_KEY": "ID",
        "WAIT": "true",
    }


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (Message(b""), "empty body"),
        (Message(b"x" * 11), "11 bytes, 10 are allowed"),
        (Message(5), "a int, not bytes or str"),  # type: ignore[arg-type]
        (Message(b"x", flag=2**31), "32 bits"),
        (Message(b"x", properties={"a": ""}), "not empty"),
        (Message(b"x", properties={"a": 5}), "have to be texts"),  # type: ignore[dict-item]
        (Message(b"x", properties={"a": "b\x01c"}), r"\x01"),
        (Message(b"x", tags="a\x02b"), r"\x01"),
        (Message(b"x", keys=["a b"]), "without blanks"),
        (Message(b"x", properties={"a": "ü" * 17_000}), "32767 are allowed"),
    ],
)
def test_what_no_broker_would_take_is_refused_with_a_reason(message: Message, complaint: str) -> None:
    with pytest.raises(MessageInvalid) as error:
        encode_message(message, "ID", 10)
    assert complaint in str(error.value)


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_rocketmq_s_own_property_names_are_refused(name: str) -> None:
    with pytest.raises(MessageInvalid, match="reserved"):
        encode_message(Message(b"x", properties={name: "v"}), "ID", LIMIT)


@pytest.mark.parametrize("topic", ["orders", "%RETRY%g", "a|b_c-9", "x" * 127, "TBW102"])
def test_topics_that_may_be_sent_to(topic: str) -> None:
    check_topic(topic)


@pytest.mark.parametrize("topic", ["", "a b", "ü", "a.b", "x" * 128, "SCHEDULE_TOPIC_XXXX", "orders\n"])
def test_topics_that_may_not(topic: str) -> None:
    with pytest.raises(MessageInvalid):
        check_topic(topic)


@pytest.mark.parametrize("group", ["", "a b", "x" * 256])
def test_groups_that_may_not_be(group: Any) -> None:
    with pytest.raises(MessageInvalid):
        check_group(group)


async def test_a_body_is_compressed_as_java_does() -> None:
    for size in (4096, 300_000):
        packed = await compress(encode_message(Message(b"x" * size), "ID", LIMIT))
        assert packed.sys_flag == 1
        assert packed.body == zlib.compress(b"x" * size, 5)


async def test_a_body_that_would_grow_is_sent_as_it_is() -> None:
    noise = random.Random(1).randbytes(5000)
    outgoing = encode_message(Message(noise), "ID", LIMIT)
    assert await compress(outgoing) is outgoing


async def test_a_long_body_is_compressed_while_the_loop_goes_on() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.ensure_future(tick())
    body = b"".join(random.Random(7).choices([b"alpha ", b"beta ", b"gamma "], k=600_000))
    packed = await compress(encode_message(Message(body), "ID", LIMIT))
    ticking.cancel()
    assert zlib.decompress(packed.body) == body
    assert ticks > 10
