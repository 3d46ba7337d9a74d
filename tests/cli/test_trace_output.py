"""How `pymq trace` shows a message's life."""

from __future__ import annotations

import re

import pytest

from pymq.cli.trace_output import timeline
from pymq.client import MessageTrace, StoredCopy, TraceEvent, TraceResult, TraceStep

SENT = 1796069521241
SEND = TraceStep(
    TraceEvent.SEND, SENT, "shop", "10.0.0.1", "10.0.0.9:10911", 1328, TraceResult.OK, message_type=0
)
COPY = StoredCopy("orders", "broker-a", 2, 17, "OFF", SENT + 3, 2048)


def consume(after_ms: int, group: str, result: TraceResult | None, attempt: int | None = 1) -> TraceStep:
    took_ms = None if result is None else 6
    return TraceStep(TraceEvent.CONSUME, SENT + after_ms, group, "10.0.0.2", None, took_ms, result, attempt)


def shown(*steps: TraceStep, **fields: object) -> str:
    """What is printed, without dates and the columns' widths."""
    given = {"topic": "orders", "tags": "t", "keys": ("k-1", "all"), "stored": (COPY,)} | fields
    text = "\n".join(timeline(MessageTrace("ID", steps=steps, **given)))  # type: ignore[arg-type]
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:(\d\d\.\d{3})", r"\1", text)
    return re.sub(r"(?<=\S) {2,}", "  ", text)


def test_the_life_of_a_message() -> None:
    dead = TraceStep(TraceEvent.DEAD_LETTER, SENT + 30, "audit", None, "broker-a")
    steps = (
        SEND,
        consume(10, "billing", TraceResult.EXCEPTION),
        consume(12, "audit", TraceResult.LATER),
        consume(14, "mail", None),
        dead,
        consume(10_110, "billing", TraceResult.OK, 2),
    )
    assert shown(*steps).splitlines() == [
        "message  ID  topic orders  tags t  keys k-1 all",
        "stored  topic=orders broker=broker-a queueId=2 queueOffset=17, 2 KiB at 01.244",
        "",
        "TIME  AFTER  STEP  GROUP  CLIENT  TOOK  RESULT",
        "01.241  +0.000 s  send  shop  10.0.0.1  1,328 ms  ok at 10.0.0.9:10911",
        "01.251  +0.010 s  consume #1  billing  10.0.0.2  6 ms  failed: exception",
        "01.253  +0.012 s  consume #1  audit  10.0.0.2  6 ms  failed: to come again later",
        "01.255  +0.014 s  consume #1  mail  10.0.0.2  no end yet",
        "01.271  +0.030 s  dead letter  audit  -  at broker-a",
        "11.351  +10.110 s  consume #2  billing  10.0.0.2  6 ms  ok",
        "",
        "group billing: consumed after 1 failed attempt, 10.110 s after it was sent",
        "group audit: a dead letter after 1 failed attempt",
        "group mail: being handled, or its consumer is gone",
    ]


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (consume(0, "g", TraceResult.TIME_OUT), "consume #1  g  10.0.0.2  6 ms  failed: took too long"),
        (consume(0, "g", TraceResult.NO_RESULT), "6 ms  given back without a result"),
        (consume(0, "g", TraceResult.FAILED, None), "consume  g  10.0.0.2  6 ms  failed"),
        (
            TraceStep(TraceEvent.SEND, SENT, "p", "c", None, 9, TraceResult.FAILED, message_type=3),
            "send delayed  p  c  9 ms  failed at no broker",
        ),
        (
            TraceStep(TraceEvent.SEND, SENT, "p", "c", "b:1", 9, TraceResult.NOT_SAFE, message_type=1),
            "send half  p  c  9 ms  stored, less safely than asked for at b:1",
        ),
        (
            TraceStep(
                TraceEvent.END_TRANSACTION, SENT, "p", "c", "b:1", result=TraceResult.COMMIT, from_check=True
            ),
            "end transaction  p  c  commit at b:1 (the broker had asked)",
        ),
        (
            TraceStep(TraceEvent.SEND, SENT, None, None, "b:1", 9, TraceResult.OK),
            "send  ?  -  9 ms  ok at b:1",
        ),
    ],
)
def test_each_kind_of_step_says_what_happened(step: TraceStep, line: str) -> None:
    assert line in shown(step)


def test_what_is_not_known_is_said() -> None:
    text = shown(consume(0, "g", TraceResult.EXCEPTION), topic=None, tags=None, keys=(), stored=())
    assert "message  ID  topic ? (its sending was not traced)\n" in text
    assert "stored" not in text
    assert "group g: not consumed: 1 failed attempt so far" in text
    text = shown(SEND, is_cut=True, unreadable=3, silent=("broker-b",))
    assert text.endswith(
        "note: a broker gives 64 trace messages at most: there may be more\n"
        "note: no answer from broker-b: what was told there is missing\n"
        "note: 3 trace records could not be read"
    )


def test_why_a_message_is_not_where_it_was_sent_to() -> None:
    somewhere = (
        "it waits for its time or the end of its transaction, its file was deleted, or the topic is in a "
        "namespace (names are told without)"
    )
    failed = TraceStep(TraceEvent.SEND, SENT, "p", "c", None, 9, TraceResult.FAILED)
    end = TraceStep(TraceEvent.END_TRANSACTION, SENT + 5, "p", "c", result=TraceResult.ROLLBACK)
    committed = TraceStep(TraceEvent.END_TRANSACTION, SENT + 9, "p", "c", result=TraceResult.COMMIT)
    elsewhere = StoredCopy("%DLQ%g", "broker-a", 0, 0, "OFF", SENT, 1)
    for steps, why in (
        ((SEND, end), "it was rolled back"),
        ((SEND, end, committed), somewhere),
        ((failed, failed), "no attempt to send it succeeded"),
        ((failed, SEND), somewhere),
    ):
        assert f"\nstored  not in orders: {why}\n" in shown(*steps, stored=())
        assert f"\nstored  not in orders: {why}\n" in shown(*steps, stored=(elsewhere,))
    assert "not in" not in shown(failed, stored=(COPY,)), "the answer to the attempt was lost"


def test_nothing_that_somebody_sent_steers_the_terminal() -> None:
    text = shown(SEND, keys=("\x1b[2J", "a\rb"), tags="\x07")
    assert (
        "tags \N{REPLACEMENT CHARACTER}  keys \N{REPLACEMENT CHARACTER}[2J a\N{REPLACEMENT CHARACTER}b"
        in text
    )
