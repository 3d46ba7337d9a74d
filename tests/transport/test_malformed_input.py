"""Broken requests are answered as Apache answers them, and never hurt the next one (wire.md §2)."""

from __future__ import annotations

import json
import logging

import pytest

from pymq.errors import BodyError, ResponseError
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.groups import HeartBeatRequest
from pymq.protocol.headers.messaging import QueryMessageRequest, ViewMessageRequest
from pymq.protocol.headers.naming import (
    GetBrokerClusterInfoRequest,
    GetKvConfigRequest,
    GetRouteInfoRequest,
    GetTopicsByClusterRequest,
    RegisterBrokerRequest,
)
from pymq.transport.dispatch import Answer, DispatchTable, HandlerResult, Request, merge, row
from tests.protocol.recorded import MalformedCase, malformed_cases
from tests.transport.peers import ECHO, Peers, ask


def route(request: Request[GetRouteInfoRequest]) -> HandlerResult:
    if request.header.topic is None:
        raise ResponseError(ResponseCode.TOPIC_NOT_EXIST, "no route")
    return Answer(body=b"{}")


def kv(request: Request[GetKvConfigRequest]) -> HandlerResult:
    return Answer(ResponseCode.QUERY_NOT_FOUND, remark="no item")


def heart_beat(request: Request[HeartBeatRequest]) -> HandlerResult:
    try:
        json.loads(request.body)
    except ValueError as error:
        raise BodyError(str(error)) from None
    return Answer()


def view(request: Request[ViewMessageRequest]) -> HandlerResult:
    if request.header.offset:
        raise ResponseError(ResponseCode.SYSTEM_ERROR, "can not find message")
    return Answer(body=memoryview(b"record"))


def register(request: Request[RegisterBrokerRequest]) -> HandlerResult:
    raise ResponseError(ResponseCode.SYSTEM_ERROR, "crc32 not match")


def ok(request: object) -> HandlerResult:
    return Answer()


BY_ROLE: dict[str, DispatchTable] = {
    "namesrv": merge(
        [
            row(GetBrokerClusterInfoRequest, ok),
            row(GetRouteInfoRequest, route),
            row(GetKvConfigRequest, kv),
            row(GetTopicsByClusterRequest, ok),
            row(RegisterBrokerRequest, register),
        ]
    ),
    "broker": merge(
        [row(HeartBeatRequest, heart_beat), row(ViewMessageRequest, view), row(QueryMessageRequest, ok)]
    ),
}

CASES = [case for case in malformed_cases() if case.server == "4.9.4"]
"""The other two servers were sent the same bytes."""

CODES = {
    "unknown code json": 3,
    "unknown code binary": 3,
    "empty json {}": 3,
    "vip port: pull": 3,
    "broker: unknown language json": 3,
    "broker: unknown language bin": 3,
    "broker: extra json fields": 3,
    "route without extFields": 17,
    "route empty extFields": 17,
    "getkv missing key": 22,
    "register bad crc": 1,
    "maxoffset bad int": 1,
    "maxoffset missing queueId": 1,
    "maxoffset no ext": 1,
    "view none binary": 1,
    "heartbeat bad body": 1,
    "heartbeat no body": 1,
    "exception binary request": 1,
}
"""How a case is answered, where not with success; 106 is the name server's."""


def test_all_cases_are_there() -> None:
    assert len(malformed_cases()) == 189
    assert len(CASES) == 63


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.role}: {case.case}")
async def test_a_broken_request_ends_as_with_apache(case: MalformedCase, peers: Peers) -> None:
    _, port = await peers.server({**ECHO, **BY_ROLE[case.role]})
    peer = await peers.raw(port)
    sent = bytes.fromhex(case.sent)
    if sent[:4] == bytes.fromhex("00fffffc"):  # just within the limit: what follows belongs to it
        peer.send(sent)
        assert await peer.is_silent()
        return
    peer.send(sent, ask(opaque=4711))
    if case.outcome == "closed":
        assert await peer.command() is None
    else:
        # An unknown code is answered by newer servers, and by this one (wire.md §2).
        expected = CODES.get(f"{case.role}: {case.case}", CODES.get(case.case, 0))
        if case.outcome == "reply" or expected == 3:
            answer = await peer.expect()
            assert (answer.code, answer.is_response) == (expected, True)
            assert answer.opaque == (0 if case.case == "empty json {}" else 7)
            assert answer.serialization == sent[4]
            assert (answer.remark or "").endswith(" not supported") == (expected == 3)
        assert (await peer.expect()).opaque == 4711
    again = await peers.raw(port)
    again.send(ask(opaque=4712))
    assert (await again.expect()).opaque == 4712


async def test_a_bad_field_is_named_in_the_answer_and_logged_once(
    peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    [bad] = [case for case in CASES if case.case == "maxoffset bad int"]
    _, port = await peers.server()
    peer = await peers.raw(port)
    with caplog.at_level(logging.INFO):
        peer.send(bytes.fromhex(bad.sent))
        answer = await peer.expect()
    assert answer.remark == "GetMaxOffsetRequest: expected a whole number, got 'abc' - at field `queueId`"
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith(f": request 30 refused, SYSTEM_ERROR: {answer.remark}")


@pytest.mark.parametrize("bad", ["ffffffff", "0000000407000000", "00000008000000046162636400"])
async def test_a_connection_that_breaks_the_format_is_closed_with_one_line(
    bad: str, peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    _, port = await peers.server()
    peer = await peers.raw(port)
    with caplog.at_level(logging.INFO):
        peer.send(ask(opaque=5), bytes.fromhex(bad), ask(opaque=6))
        assert (await peer.expect()).opaque == 5  # what was whole before is answered
        assert await peer.command() is None
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("127.0.0.1:")
