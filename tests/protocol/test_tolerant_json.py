"""fastjson's quirks: what is read, what is refused and where, what is written."""

from __future__ import annotations

import contextlib
import json
import string
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymq.errors import BodyError
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.tolerant_json import MAX_DEPTH, decode, encode, encode_map, escape_non_ascii, parse

READ = [
    ("integer keys", b'{"a":{0:"x",-1:"y"}}', {"a": {0: "x", -1: "y"}}),
    ("object keys", b'{{"queueId":1,"topic":"T"}:2}', {(("queueId", 1), ("topic", "T")): 2}),
    ("single quotes", b"{'a':'it\\'s'}", {"a": "it's"}),
    ("bare names as keys", b"{a_$1:1}", {"a_$1": 1}),
    ("trailing commas", b'{"a":[1,2,],}', {"a": [1, 2]}),
    ("null members are absent", b'{"a":null,"b":[null]}', {"b": [None]}),
    ("blanks everywhere", b' { "a" :\t[ 1 ,\r\n 2 ] } ', {"a": [1, 2]}),
    ("numbers", b"[0,-7,1.5,2.0E-3,9223372036854775807]", [0, -7, 1.5, 0.002, 2**63 - 1]),
    ("words", b"[true,false,null]", [True, False, None]),
    ("escapes", b'"\\u4e2d\\n\\/\\\\\\x41\\""', '中\n/\\A"'),
    ("a pair of surrogates is one character", b'"\\uD83D\\uDE00"', "😀"),
    ("half a pair is none", b'"a\\uD83Db"', "a\ufffdb"),
    ("a quirk inside a string is text", b'{"{0:":",1:"}', {"{0:": ",1:"}),
]

REFUSED = [
    (b"", "a value at character 0, got the end"),
    (b"not json", "a value at character 0, got 'n'"),
    (b'{"a"', "':' at character 4, got the end"),
    (b'{"a":}', "a value at character 5, got '}'"),
    (b'{"a":1', "',' or '}' at character 6, got the end"),
    (b"[1 2]", "',' or ']' at character 3, got '2'"),
    (b"{:1}", "a key at character 1, got ':'"),
    (b'{"a":1}}', "nothing more at character 7, got '}'"),
    (b'"abc', "the end"),
    (b'"abc\\', "the end"),
    (b'"\\u12', "4 hexadecimal digits at character 1"),
    (b'"\\u+123"', "4 hexadecimal digits at character 1"),
    (b"-", "a number at character 0"),
    (b"1" * 100_000, "a number at character 0"),
    (b"\xff", "byte 0 is not UTF-8"),
    ("{\u0661:1}".encode(), "a key at character 1"),
    (b'{{"a":[]}:1}', "object key at character 1: unhashable"),
    (b"[" * 100_000, f"more than {MAX_DEPTH} levels deep at character {MAX_DEPTH + 1}"),
    (b'{"a":' * 100_000, f"more than {MAX_DEPTH} levels deep"),
    (b"{" * 100_000, f"more than {MAX_DEPTH} levels deep"),
    (b"\0", "a value at character 0"),
]


def test_large_maps_are_written_in_order_whatever_order_they_have() -> None:
    names = [f"t{n:06d}" for n in range(60_000)]
    late = {**dict.fromkeys(names, 1), "a": 1, "\U0001f600": 1, "\uffff": 1}
    begin = time.process_time()
    data = encode({"inner": late})
    assert time.process_time() - begin < 2, "msgspec's sort alone takes seven seconds"
    assert list(json.loads(data)["inner"]) == ["a", *names, "\uffff", "\U0001f600"]


@pytest.mark.parametrize(("data", "value"), [row[1:] for row in READ], ids=[row[0] for row in READ])
def test_what_fastjson_writes_or_reads_is_read(data: bytes, value: object) -> None:
    assert parse(data) == value


@pytest.mark.parametrize(("data", "text"), REFUSED, ids=[repr(data[:12]) for data, _ in REFUSED])
def test_what_is_no_json_is_refused_with_its_position(data: bytes, text: str) -> None:
    with pytest.raises(BodyError) as refused:
        parse(data)
    assert text in str(refused.value)


@pytest.mark.parametrize(("data", "text"), REFUSED, ids=[repr(data[:12]) for data, _ in REFUSED])
def test_a_typed_body_is_refused_just_so(data: bytes, text: str) -> None:
    with pytest.raises(BodyError) as refused:
        decode(data, dict[str, Any])
    assert text in str(refused.value)


class Offsets(msgspec.Struct, rename="camel"):
    offset_table: dict[str, dict[int, int]]
    note: str = "none"


@pytest.mark.parametrize(
    "data",
    [
        b'{"offsetTable":{"T@G":{"0":5,"1":7}}}',
        b'{"offsetTable":{"T@G":{0:5,1:7}}}',
        b'{"offsetTable":{"T@G":{"0":"5","1":"7"}},"more":[]}',
        b'{"offsetTable":{"T@G":{0:5,1:7,},},"note":null}',
        b"{offsetTable:{'T@G':{0:'5',1:7}}}",
        b'{"offsetTable":{"\\u0054@G":{0:5,1:7}}}',
    ],
)
def test_typed_bodies_read_strict_and_quirky_json_alike(data: bytes) -> None:
    assert decode(data, Offsets) == Offsets({"T@G": {0: 5, 1: 7}})


def test_integer_keys_beside_texts_that_look_like_them() -> None:
    data = b'{"offsetTable":{"{0:,1:@G":{0:5}},"note":",3:{4:"}'
    assert decode(data, Offsets) == Offsets({"{0:,1:@G": {0: 5}}, ",3:{4:")


@pytest.mark.parametrize(
    ("data", "member"),
    [(b"{}", "`offsetTable`"), (b'{"offsetTable":{"T@G":{0:"x"}}}', "`$.offsetTable[...][...]`")],
)
def test_a_missing_or_ill_typed_member_is_named(data: bytes, member: str) -> None:
    with pytest.raises(BodyError) as refused:
        decode(data, Offsets)
    assert member in str(refused.value)


def test_maps_are_written_with_bare_and_sorted_keys() -> None:
    queues = {MessageQueue("T", "b", 1): 10, MessageQueue("T", "b", 0): 20, MessageQueue("A", "c", 7): 30}
    assert bytes(encode_map({10: "x", 9: "y"})) == b'{9:"y",10:"x"}'
    assert bytes(encode_map(queues)) == (
        b'{{"brokerName":"c","queueId":7,"topic":"A"}:30,'
        b'{"brokerName":"b","queueId":0,"topic":"T"}:20,{"brokerName":"b","queueId":1,"topic":"T"}:10}'
    )


def test_a_map_can_stand_within_strict_json() -> None:
    assert encode({"b": 1, "a": encode_map({0: "x"})}) == b'{"a":{0:"x"},"b":1}'


def test_non_ascii_is_escaped_in_utf16() -> None:
    escaped = escape_non_ascii('{"é":"中😀"}'.encode())
    assert escaped == b'{"\\u00E9":"\\u4E2D\\uD83D\\uDE00"}'
    assert json.loads(escaped) == {"é": "中😀"}
    assert escape_non_ascii(b'{"a":1}') == b'{"a":1}'


json_values = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_strict_json_is_read_as_it_is(value: Any) -> None:
    assert parse(encode(value)) == value
    assert parse(json.dumps(value).encode()) == value


@given(st.dictionaries(st.text(), st.dictionaries(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**40))))
def test_integer_keyed_maps_survive_the_way_there_and_back(table: dict[str, dict[int, int]]) -> None:
    body = b'{"offsetTable":%b}' % bytes(encode_map(table, lambda inner: bytes(encode_map(inner))))
    assert decode(body, Offsets).offset_table == table
    assert parse(body) == {"offsetTable": table}


@given(st.text(alphabet=string.printable + "{}[]:,\"'\\0123é\ud7ff\U0001f600", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(BodyError):
        parse(text.encode())


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(BodyError):
        decode(data, Offsets)
