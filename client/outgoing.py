"""A message on its way out: what a user gives, checked, and the parts that go on the wire."""

from __future__ import annotations

import asyncio
import datetime
import re
from collections.abc import Mapping, Sequence
from typing import TypedDict

import msgspec
from msgspec import field

from pymq.client.delivery_time import AT_ONCE, delivery_time
from pymq.client.failures import MessageInvalid
from pymq.protocol import properties as names
from pymq.protocol import sysflags
from pymq.protocol.message import TOPIC_MAX_LENGTH, compress_body

GROUP_MAX_LENGTH = 255

_NAME = re.compile(r"[%|a-zA-Z0-9_-]+")
"""wire.md §6.4."""

_FORBIDDEN_TOPICS = frozenset(
    (
        "SCHEDULE_TOPIC_XXXX",
        "RMQ_SYS_TRANS_HALF_TOPIC",
        "RMQ_SYS_TRANS_OP_HALF_TOPIC",
        "TRANS_CHECK_MAX_TIME_TOPIC",
        "SELF_TEST_TOPIC",
        "OFFSET_MOVED_EVENT",
    )
)
"""Topics that brokers refuse to be sent to (semantics.md §1.2)."""

_COMPRESS_OFF_LOOP_BYTES = 128 * 1024
"""From this size on compressing would hold the loop for long: some milliseconds."""

NO_PROPERTIES: Mapping[str, str] = {}


class Message(msgspec.Struct):
    """A message to send.

    Attributes:
        body: the content; text is sent as UTF-8.
        tags: one tag, by which consumers can filter.
        keys: by which the message can be looked up; a single text, or several without blanks in them.
        properties: names and values of your own.
        flag: a number of your own, 32 bits.
        shard_by: messages with the same value go to the same queue, in the order they are sent; one that has
            to be sent again after a failure may come behind later ones.
        delay: how long it waits at the broker, up to three days unless it is set otherwise. Brokers before
            5.0 know levels only: to them one that is just that of a level (1s 5s 10s 30s 1m … 10m 20m 30m 1h
            2h) is sent as the level, which their messageDelayLevel may have another time for; others need a
            broker of 5.0 or later, or pymq's.
        deliver_at: until when it waits there, as with such a delay; local time unless it says otherwise.
        delay_level: the number of a level, 1 or more, whatever the broker takes it for.
        wait_store_msg_ok: whether the broker answers when the message is as safe as it is set to store them
            (flushed, replicated); False asks for the answer once it is in memory.
    """

    body: bytes | str
    tags: str | None = None
    keys: str | Sequence[str] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    flag: int = 0
    shard_by: str | None = None
    delay: datetime.timedelta | None = None
    deliver_at: datetime.datetime | None = None
    delay_level: int | None = None
    wait_store_msg_ok: bool = True


class MessageOptions(TypedDict, total=False):
    """What a message may have besides its body, as keyword arguments: see Message."""

    tags: str | None
    keys: str | Sequence[str]
    properties: Mapping[str, str]
    flag: int
    shard_by: str | None
    wait_store_msg_ok: bool


class DelayedMessageOptions(MessageOptions, total=False):
    """The same of a message that may be delayed."""

    delay: datetime.timedelta | None
    deliver_at: datetime.datetime | None
    delay_level: int | None


def message_of(body: bytes | str | Message, options: MessageOptions) -> Message:
    """The message to send, from what a user gives.

    Raises MessageInvalid for options beside a Message, where they would have no effect; TypeError for unknown
    ones.
    """
    if not isinstance(body, Message):
        return Message(body, **options)
    if options:
        raise MessageInvalid(f"{', '.join(options)}: set in the Message itself, which is given here")
    return body


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """The parts of a message, or of a batch, on the wire. A batch has the ids of all, joined by commas."""

    body: bytes
    properties: str
    flag: int
    sys_flag: int
    msg_id: str
    is_batch: bool = False
    is_reply: bool = False
    is_timed: bool = False
    """For a time that only brokers with timers keep."""
    deliver_ms: int = 0
    """That time, ms since 1970, where it is known here."""
    level_properties: str = ""
    """The properties for a broker without timers, with a delay level that says the same, if there is one."""
    parts: tuple[Outgoing, ...] = ()
    """The messages of a batch."""


def check_topic(topic: str) -> None:
    """Raise MessageInvalid unless messages may be sent to a topic of this name."""
    check_topic_name(topic)
    if topic in _FORBIDDEN_TOPICS:
        raise MessageInvalid(f"topic {topic} is the brokers' own: they refuse messages to it")


def check_topic_name(topic: str) -> None:
    """Raise MessageInvalid unless a topic may have this name."""
    _check_name("topic", topic, TOPIC_MAX_LENGTH)


def check_group(group: str) -> None:
    """Raise MessageInvalid unless a group may have this name."""
    _check_name("group", group, GROUP_MAX_LENGTH)


def _check_name(kind: str, name: str, max_length: int) -> None:
    if not isinstance(name, str):
        raise MessageInvalid(f"the {kind}'s name is a {type(name).__name__}, not a str")
    if not name:
        raise MessageInvalid(f"the {kind} has no name")
    if len(name) > max_length:
        raise MessageInvalid(f"the {kind}'s name has {len(name)} characters, {max_length} are allowed")
    if not _NAME.fullmatch(name):
        raise MessageInvalid(f"{kind} {name!r}: only letters, digits and the characters % | _ - are allowed")


def encode_message(
    message: Message, msg_id: str, max_bytes: int, own: Mapping[str, str] = NO_PROPERTIES
) -> Outgoing:
    """Check a message and write its properties; the body is not compressed yet. Raises MessageInvalid.

    `own`: properties of RocketMQ's own, no value empty.
    """
    if not isinstance(message.body, bytes | str | bytearray | memoryview):
        raise MessageInvalid(f"the message's body is a {type(message.body).__name__}, not bytes or str")
    try:
        body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
    except UnicodeEncodeError as error:
        raise MessageInvalid(f"the message's body is no text that UTF-8 can hold: {error.reason}") from None
    if not body:
        raise MessageInvalid("the message has an empty body")
    if len(body) > max_bytes:
        raise MessageInvalid(f"the message's body has {len(body)} bytes, {max_bytes} are allowed")
    if not -(2**31) <= message.flag < 2**31:
        raise MessageInvalid(f"flag {message.flag} does not fit 32 bits")
    pairs = _properties(message, msg_id)
    pairs.update(own)
    time = AT_ONCE
    if message.delay is not None or message.deliver_at is not None or message.delay_level is not None:
        time = delivery_time(message.delay, message.deliver_at, message.delay_level)
        pairs.update(time.properties)
    properties = names.encode_properties(pairs)
    if (
        properties.count(names.NAME_VALUE_SEPARATOR) != len(pairs)
        or properties.count(names.PROPERTY_SEPARATOR) != len(pairs) - 1
    ):
        raise MessageInvalid("a tag, key or property holds one of the characters \\x01 and \\x02")
    if not properties.isascii():
        try:
            properties.encode()
        except UnicodeEncodeError as error:
            raise MessageInvalid(
                f"a tag, key or property is no text that UTF-8 can hold: {error.reason}"
            ) from None
    if len(properties) * 4 > names.PROPERTIES_MAX_LENGTH:
        length = len(properties.encode())
        if length > names.PROPERTIES_MAX_LENGTH:
            raise MessageInvalid(
                f"the message's properties take {length} bytes, {names.PROPERTIES_MAX_LENGTH} are allowed"
            )
    level_properties = ""
    if time.level:
        del pairs[names.TIMER_DELAY_MS]
        pairs[names.DELAY] = str(time.level)
        level_properties = names.encode_properties(pairs)
    is_reply = own.get(names.MSG_TYPE) == names.REPLY_TYPE
    sys_flag = sysflags.TRANSACTION_PREPARED if names.TRAN_MSG in own else 0
    return Outgoing(
        body, properties, message.flag, sys_flag, msg_id,
        is_reply=is_reply, is_timed=time.is_timed, deliver_ms=time.deliver_ms,
        level_properties=level_properties,
    )  # fmt: skip


def _properties(message: Message, msg_id: str) -> dict[str, str]:
    properties: dict[str, str] = {}
    for name, value in message.properties.items():
        if name in names.RESERVED:
            raise MessageInvalid(f"property name {name} is reserved")
        if not (isinstance(name, str) and isinstance(value, str) and name and value):
            raise MessageInvalid(f"property {name!r}: name and value have to be texts, and not empty")
        properties[name] = value
    keys = message.keys if isinstance(message.keys, str) else _join_keys(message.keys)
    if keys:
        properties[names.KEYS] = keys
    properties[names.UNIQ_KEY] = msg_id
    properties[names.WAIT] = "true" if message.wait_store_msg_ok else "false"
    if message.tags:
        if not isinstance(message.tags, str):
            raise MessageInvalid(f"tags={message.tags!r}: expected one tag, a text")
        properties[names.TAGS] = message.tags
    return properties


def _join_keys(keys: Sequence[str]) -> str:
    for key in keys:
        if not isinstance(key, str) or not key or key.split() != [key]:
            raise MessageInvalid(f"key {key!r}: a key among several has to be a text without blanks")
    return names.KEY_SEPARATOR.join(keys)


async def compress(outgoing: Outgoing) -> Outgoing:
    """Compress the body if it becomes smaller by that: zlib, sysFlag 1. A long one off the loop."""
    body = outgoing.body
    if len(body) < _COMPRESS_OFF_LOOP_BYTES:
        packed = compress_body(body)
    else:
        packed = await asyncio.to_thread(compress_body, body)
    if len(packed) >= len(body):
        return outgoing
    return msgspec.structs.replace(outgoing, body=packed, sys_flag=outgoing.sys_flag | sysflags.COMPRESSED)
