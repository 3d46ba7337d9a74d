"""The remoting command in its three header serialisations, and what may come as one (wire.md §1, §2)."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymq.errors import HeaderError, ProtocolError
from pymq.protocol import command as remoting
from pymq.protocol.codes import VERSION, RequestCode, ResponseCode
from pymq.protocol.command import FLAG_ONEWAY, FLAG_RESPONSE, Command, Serialization
from pymq.protocol.framing import FrameReader, frame
from pymq.protocol.header import Header, NoFields
from pymq.protocol.headers.administration import CreateTopicRequest
from pymq.protocol.headers.messaging import (
    GetMaxOffsetRequest,
    QueryConsumerOffsetResponse,
    SendMessageRequestV2,
)
from tests.protocol.header_classes import HEADER_CLASSES, TEXT

JSON, BINARY, MSGPACK = Serialization.JSON, Serialization.ROCKETMQ, Serialization.MSGPACK

ASK = GetMaxOffsetRequest(topic="T", queue_id=3)


def through_the_wire(head: bytes, body: bytes = b"") -> Command:
    reader = FrameReader()
    reader.feed(head + body)
    [one] = reader
    return remoting.decode(*one)


def from_json(**members: Any) -> Command:
    return remoting.decode(JSON, json.dumps(members).encode(), b"")


def binary_header(
    ext: bytes, *, language: int = 0, remark: bytes = b"", ext_length: int | None = None
) -> bytes:
    size = len(ext) if ext_length is None else ext_length
    head = struct.pack(">hBhiii", 30, language, 401, 7, 0, len(remark))
    return head + remark + struct.pack(">i", size) + ext


@given(
    st.sampled_from(Serialization),
    st.integers(0, 32767),
    st.integers(0, 3),
    st.integers(0, 2**31 - 1),
    st.none() | TEXT.filter(bool),
    st.binary(max_size=30),
)
def test_a_command_comes_back_as_it_was_written(
    serialization: Serialization, code: int, flag: int, opaque: int, remark: str | None, body: bytes
) -> None:
    head = remoting.encode(
        code, flag, opaque, header=ASK, remark=remark, body_length=len(body), serialization=serialization
    )
    command = through_the_wire(head, body)
    assert (command.code, command.flag, command.opaque) == (code, flag, opaque)
    assert (command.remark, command.body) == (remark, body)
    assert (command.version, command.language) == (VERSION, "PYTHON")
    assert command.serialization == serialization
    assert command.is_response == bool(flag & FLAG_RESPONSE)
    assert command.is_oneway == bool(flag & FLAG_ONEWAY)
    assert command.read(GetMaxOffsetRequest) == ASK


def test_a_json_header_is_written_as_fastjson_does() -> None:
    head = remoting.encode(ResponseCode.SUCCESS, 1, 7, header=QueryConsumerOffsetResponse(offset=5))
    assert head[8:] == (
        b'{"code":0,"extFields":{"offset":"5"},"flag":1,"language":"PYTHON","opaque":7,'
        b'"serializeTypeCurrentRPC":"JSON","version":401}'
    )


def test_a_header_class_without_fields_is_an_empty_object_and_no_class_is_no_member() -> None:
    assert b'"extFields":{},' in remoting.encode(0, 1, 7, header=NoFields())
    assert b"extFields" not in remoting.encode(0, 1, 7)


def test_msgpack_carries_numbers_as_numbers() -> None:
    head = remoting.encode(RequestCode.GET_MAX_OFFSET, 0, 7, header=ASK, serialization=MSGPACK)
    assert msgpack.unpackb(head[8:])["extFields"] == {"topic": "T", "queueId": 3}


@pytest.mark.parametrize("serialization", list(Serialization))
@pytest.mark.parametrize("header", [None, ASK])
def test_fields_that_go_with_any_request_stand_beside_the_header_s_own(
    serialization: Serialization, header: Header | None
) -> None:
    head = remoting.encode(
        30, 0, 7, header=header, serialization=serialization, extra={"AccessKey": "a\u00e9"}
    )
    command = through_the_wire(head)
    assert command.field("AccessKey") == "a\u00e9"
    assert command.field("Signature") is None
    if header is not None:
        assert command.read(GetMaxOffsetRequest) == header


def test_a_code_over_16_bits_does_not_fit_into_a_binary_header() -> None:
    with pytest.raises(ProtocolError, match="200050"):
        remoting.encode(200050, 0, 7, serialization=BINARY)


def test_an_unknown_serialisation_is_refused_both_ways() -> None:
    with pytest.raises(ProtocolError, match="type 7"):
        remoting.decode(7, b"abcd", b"")
    with pytest.raises(ProtocolError, match="type 7"):
        remoting.encode(0, 0, 0, serialization=7)


def test_an_empty_json_header_is_request_code_0() -> None:
    command = remoting.decode(JSON, b"{}", b"")
    assert (command.code, command.flag, command.version, command.language) == (0, 0, 0, "JAVA")
    assert command.field("x") is None


def test_what_a_json_header_may_have_or_lack() -> None:
    command = from_json(code=30, opaque=7, extra=1, another={"x": [1]}, language="KLINGON")
    assert (command.code, command.opaque, command.language) == (30, 7, "KLINGON")
    assert from_json(code=30, language=3).language == "OTHER"
    assert from_json(code="30", opaque="7").opaque == 7


@pytest.mark.parametrize("fields", [None, {}])
def test_absent_null_and_empty_fields_are_the_same(fields: object) -> None:
    command = from_json(code=30, extFields=fields)
    assert command.read(NoFields) == NoFields()
    with pytest.raises(HeaderError, match="missing required field `topic`"):
        command.read(GetMaxOffsetRequest)


def test_an_unknown_language_byte_is_other() -> None:
    assert remoting.decode(BINARY, binary_header(b"", language=99), b"").language == "OTHER"
    assert remoting.decode(BINARY, binary_header(b"", language=9), b"").language == "GO"


def test_a_binary_value_of_length_0_is_empty_text() -> None:
    ext = b"\0\5topic\0\0\0\0" + b"\0\7queueId\0\0\0\1" + b"4"
    command = remoting.decode(BINARY, binary_header(ext), b"")
    assert command.read(GetMaxOffsetRequest) == GetMaxOffsetRequest(topic="", queue_id=4)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        binary_header(b"")[:-1],
        binary_header(b"\0\5topic\0\0\0\1", ext_length=12),
        binary_header(b"\0\5topic\0\0\0\1"),
        binary_header(b"\0\5topic\0\0"),
        binary_header(b"\0"),
        binary_header(b"\0\x50topic\0\0\0\0"),
        binary_header(b"\xff\xfetopic\0\0\0\0"),
        binary_header(b"\0\5topic\xff\xff\xff\xff"),
        binary_header(b"\0\5top\xff\xff\0\0\0\0"),
        binary_header(b"", ext_length=100),
        struct.pack(">hBhiii", 30, 0, 401, 7, 0, 50) + b"short",
    ],
)
def test_a_binary_header_that_contradicts_itself_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError, match="binary header"):
        remoting.decode(BINARY, header, b"")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"abcd",
        b"[]",
        b"null",
        b'{"code":"x"}',
        b'{"code":1.5}',
        b'{"code":1,"remark":"\xff"}',
        b'{"code":1,"remark":"\\ud800"}',
        b'{"code":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"code":1,"extFields":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_a_json_header_that_cannot_be_read_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError, match="JSON header"):
        remoting.decode(JSON, header, b"")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000 + b"\xc0",
        msgpack.packb([]),
        msgpack.packb({}),
        msgpack.packb({"code": 1}),
        msgpack.packb({"code": "1", "opaque": 1}),
        msgpack.packb({"code": 1, "opaque": 1, "extFields": [1]}),
        msgpack.packb({"code": 1, "opaque": 1, "extFields": {b"x": 1}}),
        msgpack.packb({"code": 1, "opaque": 1, "remark": b"x"}),
        msgpack.packb({1: 2}),
        msgpack.packb({"code": 1, "opaque": 1}) + b"\0",
        b"\xd6\xff\0\0\0\0",
    ],
)
def test_a_msgpack_header_that_cannot_be_read_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"msgpack header: \w"):
        remoting.decode(MSGPACK, header, b"")


def test_text_that_is_no_utf_8_in_a_json_field_is_the_header_s_error_not_a_crash() -> None:
    command = remoting.decode(JSON, b'{"code":30,"extFields":{"topic":"\xff","queueId":"1"}}', b"")
    with pytest.raises(HeaderError, match="GetMaxOffsetRequest"):
        command.read(GetMaxOffsetRequest)
    assert command.field("topic") is None


def test_fields_nested_too_deep_are_the_header_s_error_not_a_crash() -> None:
    deep = b'{"topic":' + b"[" * 600 + b"]" * 600 + b"}"
    command = remoting.decode(JSON, b'{"code":30,"extFields":' + deep + b"}", b"")
    with pytest.raises(HeaderError, match="topic"):
        command.read(GetMaxOffsetRequest)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ("topic", "queueId", "order", "perm", "a", "b", "e", "k", "m", "offset", "namespace", "brokerId")
)
some_fields = st.dictionaries(names | st.text(max_size=4), values, max_size=5) | values


def read_all(command: Command) -> None:
    for cls in HEADER_CLASSES:
        with contextlib.suppress(HeaderError):
            command.read(cls)
    command.field("topic")


@given(st.sampled_from((0, 1, 100, 7)), st.binary(max_size=80))
def test_random_headers_raise_nothing_but_protocol_and_header_errors(kind: int, header: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        read_all(remoting.decode(kind, header, b""))


@given(some_fields)
def test_json_fields_of_any_shape_raise_nothing_but_header_errors(fields: object) -> None:
    header = json.dumps({"code": 30, "extFields": fields}, ensure_ascii=True)
    with contextlib.suppress(ProtocolError):
        read_all(remoting.decode(JSON, header.encode(), b""))


@given(some_fields)
def test_msgpack_fields_of_any_shape_raise_nothing_but_header_errors(fields: object) -> None:
    with contextlib.suppress(OverflowError, UnicodeEncodeError):  # not packable
        packed = msgpack.packb({"code": 30, "opaque": 1, "extFields": fields})
        with contextlib.suppress(ProtocolError):
            read_all(remoting.decode(MSGPACK, packed, b""))


@given(st.binary(max_size=60))
def test_binary_fields_of_any_bytes_raise_nothing_but_header_errors(ext: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        read_all(remoting.decode(BINARY, binary_header(ext), b""))


@given(st.sampled_from(Serialization), st.data())
def test_a_frame_with_flipped_bytes_raises_nothing_but_protocol_and_header_errors(
    serialization: Serialization, data: st.DataObject
) -> None:
    header: Header = data.draw(
        st.sampled_from(
            (
                ASK,
                CreateTopicRequest(topic="T", read_queue_nums=1, write_queue_nums=1, perm=6, order=True),
                SendMessageRequestV2("g", "T", 0, 0, 1, 0, unit_mode="false"),
            )
        )
    )
    whole = bytearray(remoting.encode(30, 0, 7, header=header, serialization=serialization))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    reader = FrameReader()
    with contextlib.suppress(ProtocolError):
        reader.feed(bytes(whole))
        for one in reader:
            read_all(remoting.decode(*one))


def test_a_frame_written_in_parts_is_the_frame_written_whole() -> None:
    head = remoting.encode(30, 0, 7, header=ASK, body_length=3)
    assert head + b"abc" == frame(0, head[8:], b"abc")


def test_no_member_of_a_json_header_takes_the_place_of_what_the_frame_says() -> None:
    header = {
        "code": 30,
        "extFields": {"topic": "T", "queueId": "3"},
        "#fields": {"topic": "other", "queueId": 4},
        "#body": "YWJj",
        "#serialization": 100,
        "fields": {},
        "body": "abc",
        "serialization": 1,
    }
    command = remoting.decode(JSON, json.dumps(header).encode(), b"mine")
    assert (command.body, command.serialization) == (b"mine", 0)
    assert command.read(GetMaxOffsetRequest) == ASK
    assert command.field("topic") == "T"


send_fields: st.SearchStrategy[dict[str, object]] = st.dictionaries(
    st.sampled_from("abcdefghijklm") | st.just("x"),
    st.sampled_from(
        ["T", "0", "7", "-1", "+5", "true", "false", "1e2", "", "x\x01y\x02", None, 3, True, 1.5, []]
    ),
).map(lambda fields: {"a": "PG", "b": "T", "e": "1", "f": "0", "g": "17", "h": "0", **fields})


@given(
    send_fields | st.just({}) | some_fields,
    st.dictionaries(
        st.sampled_from(["flag", "#body", "#fields", "#header", "#serialization", "#raw_fields", "remark"]),
        st.sampled_from([0, 1, 100, None, "YWJj", {"topic": "T"}]),
    ),
)
def test_a_send_read_in_one_pass_says_what_it_says_in_two(fields: object, more: dict[str, object]) -> None:
    header = json.dumps(
        {"code": 310, "extFields": fields, "opaque": 5, **more}, separators=(",", ":")
    ).encode()

    def outcome(at_once: bool) -> object:
        try:
            command = remoting.decode(JSON, header, b"mine", at_once)
            return (
                command.code, command.flag, command.opaque, command.remark, command.body,
                command.serialization, command.read(SendMessageRequestV2),
            )  # fmt: skip
        except (HeaderError, ProtocolError) as error:
            return str(error)

    assert outcome(True) == outcome(False)
