"""A refusal that is not routine has a line in the log; a peer that repeats itself does not fill the log."""

from __future__ import annotations

import logging

import pytest

from pymq.errors import BodyError, ResponseError
from pymq.protocol.codes import ResponseCode
from pymq.protocol.command import FLAG_ONEWAY
from pymq.protocol.header import Header
from pymq.transport.dispatch import Answer, HandlerResult, Request
from pymq.transport.refusals import KINDS_MAX, REMARK_MAX_CHARS, REPEAT_S, ROUTINE, Refusals
from tests.transport.peers import ASK_HANDLER, Peers, ask, serving, until

PEER = "10.1.2.3:4567"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the transport says, from INFO on."""
    caplog.set_level(logging.INFO, "pymq.transport")
    return caplog


def raising(error: Exception) -> HandlerResult:
    raise error


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (
            BodyError("JSON body: expected a value at character 0"),
            "SYSTEM_ERROR: JSON body: expected a value",
        ),
        (ResponseError(ResponseCode.NO_PERMISSION, "not you"), "NO_PERMISSION: not you"),
        (Answer(ResponseCode.MESSAGE_ILLEGAL, remark="body of 5000000 bytes"), "MESSAGE_ILLEGAL: body of"),
        (Answer(ResponseCode.SYSTEM_BUSY), "SYSTEM_BUSY: no remark"),
    ],
)
@pytest.mark.parametrize("how", ["at once", "awaited", "late"])
async def test_a_refusal_has_one_line_however_it_comes(
    outcome: Exception | Answer, said: str, how: str, peers: Peers, log: pytest.LogCaptureFixture
) -> None:
    held: list[Request[Header]] = []

    async def later() -> Answer:
        if isinstance(outcome, Answer):
            return outcome
        raise outcome

    def handler(request: Request[Header]) -> HandlerResult:
        if how == "awaited":
            return later()
        if isinstance(outcome, Exception):
            raise outcome
        if how == "at once":
            return outcome
        held.append(request)
        return None

    server, port = await peers.server(serving(handler))
    peer = await peers.raw(port)
    peer.send(ask(header=ASK_HANDLER))
    if how == "late" and isinstance(outcome, Answer):
        await until(lambda: held)
        held[0].reply(outcome)
    await peer.expect()
    [line] = log.messages
    assert line.startswith(f"{server.connections[0].address}: request 31 refused, {said}")
    assert [record.levelname for record in log.records] == ["WARNING"]


async def test_an_unknown_code_and_a_bad_header_have_their_lines_also_oneway(
    peers: Peers, log: pytest.LogCaptureFixture
) -> None:
    _, port = await peers.server()
    peer = await peers.raw(port)
    for flag in (FLAG_ONEWAY, 0):
        peer.send(
            ask(flag=flag).replace(b'"code":30', b'"code":99'),
            ask(flag=flag).replace(b'"queueId":"7"', b'"queueId":"x"'),
        )
    await peer.expect()
    await peer.expect()
    assert ["request 99 refused, REQUEST_CODE_NOT_SUPPORTED" in line for line in log.messages] == [
        True,
        False,
    ]
    assert ["at field `queueId`" in line for line in log.messages] == [False, True]


@pytest.mark.parametrize("code", sorted(ROUTINE))
async def test_a_routine_refusal_has_no_line(code: int, peers: Peers, log: pytest.LogCaptureFixture) -> None:
    _, port = await peers.server(serving(lambda request: raising(ResponseError(code, "no such thing"))))
    peer = await peers.raw(port)
    peer.send(ask(header=ASK_HANDLER))
    assert (await peer.expect()).code == code
    assert log.messages == []


async def test_what_is_repeated_is_counted_and_told_when_the_connection_ends(
    peers: Peers, log: pytest.LogCaptureFixture
) -> None:
    server, port = await peers.server()
    peer = await peers.raw(port)
    bad = ask().replace(b'"queueId":"7"', b'"queueId":"x"')
    peer.send(*[bad] * 500)
    for _ in range(500):
        assert (await peer.expect()).code == ResponseCode.SYSTEM_ERROR
    assert len(log.messages) == 1
    peer.close()
    await until(lambda: not server.connections)
    assert log.messages[1].endswith(": request 30 refused 499 more times, SYSTEM_ERROR")
    assert len(log.messages) == 2


def test_a_kind_has_its_next_line_after_a_minute_with_what_came_between(
    log: pytest.LogCaptureFixture,
) -> None:
    refusals = Refusals(PEER)
    for now in (5.0, 5.0, 30.0, 4.9 + REPEAT_S, 5.0 + REPEAT_S, 6.0 + 3 * REPEAT_S):
        refusals.note(now, 34, ResponseCode.SYSTEM_ERROR, "no JSON")
    line = f"{PEER}: request 34 refused, SYSTEM_ERROR: no JSON"
    assert log.messages == [line, f"{line} (3 more like it before)", line]
    refusals.close()
    assert len(log.messages) == 3


def test_requests_answers_and_crashes_are_counted_apart(log: pytest.LogCaptureFixture) -> None:
    refusals = Refusals(PEER)
    for _ in range(2):
        refusals.note(0.0, 34, ResponseCode.SYSTEM_ERROR, "a")
        refusals.note(0.0, 34, ResponseCode.SYSTEM_BUSY, "b")
        refusals.note(0.0, 35, ResponseCode.SYSTEM_ERROR, "c")
        refusals.note(0.0, 34, ResponseCode.SYSTEM_ERROR, "d", ValueError("boom"))
        refusals.note(0.0, 34, ResponseCode.SYSTEM_ERROR, "e", KeyError("boom"))
    assert [record.levelname for record in log.records] == ["WARNING"] * 3 + ["ERROR"] * 2
    assert all(record.exc_info for record in log.records[3:])
    log.clear()
    refusals.close()
    assert log.messages == [
        f"{PEER}: request 34 refused 1 more times, SYSTEM_ERROR",
        f"{PEER}: request 34 refused 1 more times, SYSTEM_BUSY",
        f"{PEER}: request 35 refused 1 more times, SYSTEM_ERROR",
        f"{PEER}: request 34 refused 1 more times, ValueError",
        f"{PEER}: request 34 refused 1 more times, KeyError",
    ]


def test_a_peer_that_makes_up_codes_gets_a_bounded_number_of_lines(log: pytest.LogCaptureFixture) -> None:
    refusals = Refusals(PEER)
    for request in range(10_000):
        refusals.note(0.0, request, ResponseCode.REQUEST_CODE_NOT_SUPPORTED, "not supported")
    assert len(log.messages) == KINDS_MAX + 1
    refusals.close()
    assert log.messages[-1] == f"{PEER}: {10_000 - KINDS_MAX - 1} more requests of other kinds refused"
    assert len(log.messages) == KINDS_MAX + 2


def test_a_remark_makes_no_lines_of_its_own_and_no_long_ones(log: pytest.LogCaptureFixture) -> None:
    refusals = Refusals(PEER)
    refusals.note(0.0, 1, 1, "topic[a\n2021-01-01 ERROR forged\x1b[2J]")
    refusals.note(0.0, 2, 1, "x" * 100_000)
    refusals.note(0.0, 3, 1, "主题 is unknown")
    forged, long, chinese = log.messages
    assert "\n" not in forged
    assert "\x1b" not in forged
    assert len(long) < REMARK_MAX_CHARS + 100
    assert chinese.endswith("主题 is unknown")
