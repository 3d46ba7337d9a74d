"""Packed hosts and both kinds of message id."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymq.protocol.message_ids import (
    MessageIdError,
    UniqueKeys,
    decode_offset_msg_id,
    encode_offset_msg_id,
    format_host,
    pack_host,
    unpack_host,
)
from tests.sim import SimClock

V4 = bytes((127, 0, 0, 1)) + (10911).to_bytes(4, "big")


@given(st.ip_addresses(v=4).map(str), st.integers(0, 65535), st.integers(0, 2**63 - 1))
def test_hosts_and_ids_come_back(ip: str, port: int, offset: int) -> None:
    host = pack_host(ip, port)
    assert unpack_host(host) == (ip, port)
    msg_id = encode_offset_msg_id(host, offset)
    assert len(msg_id) == 32
    assert msg_id == msg_id.upper()
    assert decode_offset_msg_id(msg_id) == (host, offset)


def test_version_6_takes_56_digits() -> None:
    host = pack_host("2001:db8::7", 80)
    assert len(host) == 20
    assert format_host(host) == "[2001:db8::7]:80"
    msg_id = encode_offset_msg_id(host, 5)
    assert len(msg_id) == 56
    assert decode_offset_msg_id(msg_id) == (host, 5)


@pytest.mark.parametrize("ip", ["::1", "::ffff:127.0.0.1", "127.0.0.1"])
def test_what_is_version_4_in_truth_is_packed_as_such(ip: str) -> None:
    assert pack_host(ip, 10911) == V4
    assert format_host(V4) == "127.0.0.1:10911"


def test_a_zone_is_no_part_of_the_packed_address() -> None:
    assert pack_host("fe80::1%eth0", 1) == pack_host("fe80::1", 1)


def test_an_id_as_apache_writes_it() -> None:
    assert encode_offset_msg_id(V4, 0x1234) == "7F00000100002A9F0000000000001234"


@pytest.mark.parametrize("text", ["", "7F", "x" * 32, "7F00000100002A9F 000000000001234", "0" * 33, "0" * 40])
def test_other_texts_are_no_ids(text: str) -> None:
    with pytest.raises(MessageIdError):
        decode_offset_msg_id(text)


def test_a_unique_key_has_address_process_month_time_and_counter() -> None:
    at = datetime.datetime(2026, 2, 3, 4, 5, 6, 789000, datetime.UTC)
    clock = SimClock(now_ms=int(at.timestamp() * 1000), pid=0x12345)
    keys = UniqueKeys(clock, "10.1.2.3")
    first, second = keys.next(), keys.next()
    assert len(first) == 32
    assert first[:12] == "0A010203" + "2345"
    since_month_start = at - datetime.datetime(2026, 2, 1, tzinfo=datetime.UTC)
    assert int(first[20:28], 16) == round(since_month_start.total_seconds() * 1000)
    assert (int(second[28:], 16) - int(first[28:], 16)) % 0x10000 == 1
    assert second[:28] == first[:28]


def test_unique_keys_do_not_repeat_over_a_new_month_and_a_fork() -> None:
    clock = SimClock(
        now_ms=int(datetime.datetime(2026, 12, 31, 23, 59, 59, tzinfo=datetime.UTC).timestamp() * 1000)
    )
    keys = UniqueKeys(clock, "2001:db8::1")
    seen = set()
    for _ in range(3000):
        seen.add(keys.next())
        clock.advance(1)
    clock.pid += 1
    seen.add(keys.next())
    assert len(seen) == 3001
    assert {len(key) for key in seen} == {56}
    assert int(keys.next()[44:52], 16) == 2000, "counted from the new month on"
