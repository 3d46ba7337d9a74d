"""Header classes: through all serialisations and back, read tolerantly, refused by the name of the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymq.errors import HeaderError
from pymq.protocol import command as remoting
from pymq.protocol.command import Serialization
from pymq.protocol.framing import FrameReader
from pymq.protocol.header import (
    Flag,
    Header,
    Int,
    Long,
    from_fields,
    from_json,
    from_native,
    to_native,
    to_text,
)
from pymq.protocol.headers.administration import CreateTopicRequest
from pymq.protocol.headers.messaging import (
    ConsumerSendMsgBackRequest,
    GetMaxOffsetRequest,
    PullMessageRequest,
    SendMessageRequestV2,
)
from pymq.protocol.headers.naming import GetRouteInfoRequest
from tests.protocol.header_classes import HEADER_CLASSES, REQUESTS, field_kinds, headers_of, wire_name

WITH_FIELDS = [cls for cls in HEADER_CLASSES if cls.__struct_fields__]

EVERY_HEADER = st.one_of(*(headers_of(cls) for cls in WITH_FIELDS))

NO_NUMBERS = ["abc", "", "0x1", " 1", "1 ", "1_0", "\u0661", "+", "-", "+-1", "--1", True, {}, [1]]
FLOATS = ["1.0", "1.", "0.0", "-0.0", "1e2", "1E2", "100e-2", "nan", "inf", 1.0, 0.0, -0.0, 1.5, 1e2, 1e300]
SIGNED = [("+5", 5), ("-5", -5), ("007", 7), ("+007", 7), ("-007", -7), ("-0", 0), ("+0", 0), ("000", 0)]
"""Texts that Java's Integer.parseInt takes."""

FIELDS = [(cls, name) for cls in WITH_FIELDS for name in cls.__struct_fields__]


def sample(cls: type[Header]) -> dict[str, Any]:
    """The fields of a header with something in each, by their names on the wire, as text."""
    by_kind = {str: "x", bool: "true", Flag: "true", Int: "7", Long: "8"}
    return {wire_name(cls, name): by_kind[kinds[0]] for name, kinds in field_kinds(cls).items()}


def is_required(cls: type[Header], name: str) -> bool:
    required = len(cls.__struct_fields__) - len(cls.__struct_defaults__)
    return cls.__struct_fields__.index(name) < required


def read_in_all_ways(cls: type[Header], fields: dict[str, Any]) -> list[Header]:
    raw = json.dumps(fields).encode()
    return [from_json(cls, raw), from_fields(cls, fields), from_native(cls, fields)]


def refusals(cls: type[Header], fields: dict[str, Any]) -> list[str]:
    """What each way of reading says against these fields."""
    reads: list[Callable[[], Header]] = [
        lambda: from_json(cls, json.dumps(fields).encode()),
        lambda: from_fields(cls, fields),
        lambda: from_native(cls, fields),
    ]
    texts = []
    for read in reads:
        with pytest.raises(HeaderError) as refused:
            read()
        texts.append(str(refused.value))
    return texts


def test_no_two_classes_claim_one_code_and_every_request_names_its_answer() -> None:
    claims = [cls.code for cls in HEADER_CLASSES if hasattr(cls, "code")]
    assert len(claims) == len(set(claims)) == len(REQUESTS)
    assert all(issubclass(cls.answer, Header) for cls in REQUESTS.values())


@given(EVERY_HEADER, st.sampled_from(Serialization))
def test_every_header_comes_back_as_it_was_written(header: Header, serialization: Serialization) -> None:
    head = remoting.encode(10, 0, 1, header=header, serialization=serialization)
    reader = FrameReader()
    reader.feed(head)
    [one] = reader
    assert remoting.decode(*one).read(type(header)) == header


@given(EVERY_HEADER)
def test_a_header_that_writes_itself_out_says_what_the_generic_encoding_says(header: Header) -> None:
    assert json.loads(header.to_json()) == to_text(header) == json.loads(Header.to_json(header))


@given(EVERY_HEADER)
def test_text_and_native_fields_have_the_same_names_and_no_nulls(header: Header) -> None:
    assert to_text(header).keys() == to_native(header).keys()
    assert None not in to_native(header).values()


@pytest.mark.parametrize(("cls", "name"), FIELDS)
def test_a_missing_field_is_named_where_it_is_required(cls: type[Header], name: str) -> None:
    wire = wire_name(cls, name)
    for fields in (
        {key: text for key, text in sample(cls).items() if key != wire},
        {**sample(cls), wire: None},
    ):
        if is_required(cls, name):
            assert all(f"`{wire}`" in text for text in refusals(cls, fields))
        else:
            assert len(set(map(repr, read_in_all_ways(cls, fields)))) == 1


@pytest.mark.parametrize(("cls", "name"), FIELDS)
def test_an_ill_typed_field_is_named(cls: type[Header], name: str) -> None:
    wire = wire_name(cls, name)
    kind = field_kinds(cls)[name][0]
    wrong: dict[Any, list[Any]] = {
        str: [{"a": 1}, [1]],
        bool: ["1", "0", "yes", "", 1, 0, "t", [True]],
        Flag: ["1", "0", "yes", "", 1, 0, "t", [True]],
        Int: [*NO_NUMBERS, *FLOATS, 2**31, str(2**31), -(2**31) - 1, f"{-(2**31) - 1}", "9" * 5000],
        Long: [*NO_NUMBERS, *FLOATS, 2**63, str(2**63), -(2**63) - 1, f"{-(2**63) - 1}", "9" * 5000],
    }
    for value in wrong[kind]:
        assert all(f"`{wire}`" in text for text in refusals(cls, {**sample(cls), wire: value})), value


@pytest.mark.parametrize(("cls", "name"), FIELDS)
def test_bare_numbers_and_booleans_are_read_by_their_text(cls: type[Header], name: str) -> None:
    wire = wire_name(cls, name)
    kind = field_kinds(cls)[name][0]
    same: dict[Any, list[tuple[Any, Any]]] = {
        str: [(12, "12"), (True, "true"), (False, "false")],
        bool: [(True, True), ("TRUE", True), ("True", True), (False, False), ("fAlse", False)],
        Flag: [(True, "true"), ("TRUE", "true"), ("True", "true"), (False, "false"), ("fAlse", "false")],
        Int: [(5, 5), ("5", 5), (-(2**31), -(2**31)), (str(2**31 - 1), 2**31 - 1), *SIGNED],
        Long: [(5, 5), ("5", 5), (-(2**63), -(2**63)), (str(2**63 - 1), 2**63 - 1), *SIGNED],
    }
    for value, meant in same[kind]:
        for header in read_in_all_ways(cls, {**sample(cls), wire: value}):
            assert getattr(header, name) == meant
            assert type(getattr(header, name)) is type(meant)


@pytest.mark.parametrize("cls", WITH_FIELDS)
def test_unknown_fields_of_any_kind_are_ignored(cls: type[Header]) -> None:
    extra: dict[str, Any] = {"ReqT": "0", "bname": None, "zz": 1, "yy": True, "xx": {"a": [1]}, "ww": [1]}
    for header in read_in_all_ways(cls, {**sample(cls), **extra}):
        assert to_text(header).keys() == sample(cls).keys()


@pytest.mark.parametrize("bare", [b"1.0", b"1e2", b"1E2", b"0e0", b"-0.0", b"100e-2", b"1e999"])
@pytest.mark.parametrize("cls", [GetMaxOffsetRequest, SendMessageRequestV2, PullMessageRequest])
def test_a_bare_number_with_a_point_or_an_exponent_is_no_int(cls: type[Header], bare: bytes) -> None:
    wire = wire_name(cls, "queue_id")
    raw = json.dumps({**sample(cls), wire: "@"}).encode().replace(b'"@"', bare)
    with pytest.raises(HeaderError):
        from_json(cls, raw)


def test_the_range_of_a_number_is_said_with_the_field() -> None:
    [text, *_] = refusals(GetMaxOffsetRequest, {"topic": "T", "queueId": "2147483648"})
    assert text == "GetMaxOffsetRequest: Expected `int` <= 2147483647 - at field `queueId`"


def test_what_a_number_may_be_is_said_with_the_field() -> None:
    for text in refusals(GetMaxOffsetRequest, {"topic": "T", "queueId": "1.0"}):
        assert text == "GetMaxOffsetRequest: expected a whole number, got '1.0' - at field `queueId`"
    [text, *_] = refusals(GetMaxOffsetRequest, {"topic": "T", "queueId": "x" * 5000})
    assert len(text) < 120


def test_what_a_boolean_may_be_is_said_with_the_field() -> None:
    [text, *_] = refusals(GetRouteInfoRequest, {"topic": "T", "acceptStandardJsonOnly": "1"})
    assert text == (
        "GetRouteInfoRequest: expected true or false, got '1' - at field `acceptStandardJsonOnly`"
    )


def test_an_optional_field_that_is_null_has_its_default() -> None:
    fields = {"topic": "T", "readQueueNums": 1, "writeQueueNums": 1, "perm": 6, "topicFilterType": None}
    for header in read_in_all_ways(CreateTopicRequest, fields):
        assert isinstance(header, CreateTopicRequest)
        assert (header.topic_filter_type, header.default_topic, header.order) == ("SINGLE_TAG", None, False)


def test_the_text_null_in_a_text_field_is_text() -> None:
    fields = {"offset": "1", "group": "g", "delayLevel": "0", "originTopic": "null"}
    for header in read_in_all_ways(ConsumerSendMsgBackRequest, fields):
        assert isinstance(header, ConsumerSendMsgBackRequest)
        assert header.origin_topic == "null"
