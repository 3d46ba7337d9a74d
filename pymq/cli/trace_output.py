"""What `pymq trace` prints: the life of a message, step by step, and where it stands with each group."""

from __future__ import annotations

from pymq.cli.store_output import size_text, table, time_text
from pymq.client.message_trace import (
    TRACE_MESSAGES_MAX,
    MessageTrace,
    StoredCopy,
    TraceEvent,
    TraceResult,
    TraceStep,
)
from pymq.protocol.trace_data import MessageType

_HEAD = ("TIME", "AFTER", "STEP", "GROUP", "CLIENT", "TOOK", "RESULT")

_KINDS: dict[int | None, str] = {MessageType.HALF: " half", MessageType.DELAY: " delayed"}

_RESULTS: dict[TraceResult | None, str] = {
    TraceResult.NOT_SAFE: "stored, less safely than asked for",
    TraceResult.LATER: "failed: to come again later",
    TraceResult.EXCEPTION: "failed: exception",
    TraceResult.TIME_OUT: "failed: took too long",
    TraceResult.NO_RESULT: "given back without a result",
    TraceResult.UNKNOWN: "left open",
}


def timeline(trace: MessageTrace) -> list[str]:
    """Lines about one message: what it is, where it is stored, what happened to it, how each group stands."""
    tags = f"tags {trace.tags}" if trace.tags else ""
    keys = f"keys {' '.join(trace.keys)}" if trace.keys else ""
    topic = f"topic {trace.topic or '? (its sending was not traced)'}"
    lines = ["  ".join(filter(None, (f"message  {trace.msg_id}", topic, tags, keys)))]
    lines += map(_stored, trace.stored)
    if trace.topic and all(copy.topic != trace.topic for copy in trace.stored):
        lines.append(f"stored   not in {trace.topic}: {_why_not_stored(trace)}")
    start_ms = trace.steps[0].time_ms
    lines += ["", *table(_HEAD, [_row(step, start_ms) for step in trace.steps], indent=""), ""]
    lines += _standings(trace) + _notes(trace)
    return [_printable(line) for line in lines]


def _stored(copy: StoredCopy) -> str:
    return (
        f"stored   topic={copy.topic} broker={copy.broker} queueId={copy.queue_id} "
        f"queueOffset={copy.queue_offset}, {size_text(copy.size)} at {time_text(copy.store_timestamp)}"
    )


def _why_not_stored(trace: MessageTrace) -> str:
    ends = {step.result for step in trace.steps if step.event is TraceEvent.END_TRANSACTION}
    if TraceResult.ROLLBACK in ends and TraceResult.COMMIT not in ends:
        return "it was rolled back"
    sent = [step.result for step in trace.steps if step.event is TraceEvent.SEND]
    if sent and set(sent) == {TraceResult.FAILED}:
        return "no attempt to send it succeeded"
    return (
        "it waits for its time or the end of its transaction, its file was deleted, or the topic is in a "
        "namespace (names are told without)"
    )


def _row(step: TraceStep, start_ms: int) -> tuple[str, ...]:
    return (
        time_text(step.time_ms),
        f"{(step.time_ms - start_ms) / 1000:+,.3f} s",
        _step(step),
        step.group or "?",
        step.client or "-",
        "" if step.took_ms is None else f"{step.took_ms:,} ms",
        _result(step),
    )


def _step(step: TraceStep) -> str:
    if step.event is TraceEvent.SEND:
        return f"send{_KINDS.get(step.message_type, '')}"
    if step.event is TraceEvent.CONSUME and step.attempt is not None:
        return f"consume #{step.attempt}"
    return step.event.value


def _result(step: TraceStep) -> str:
    result = _RESULTS.get(step.result, step.result or "")
    if step.event is TraceEvent.CONSUME:
        return result or "no end yet"
    where = f"at {step.broker}" if step.broker else "at no broker"
    asked = " (the broker had asked)" if step.from_check else ""
    return f"{result} {where}{asked}".strip()


def _standings(trace: MessageTrace) -> list[str]:
    """How far each consumer group is with the message, as far as its consumers are traced."""
    by_group: dict[str, list[TraceStep]] = {}
    for step in trace.steps:
        if step.event in (TraceEvent.CONSUME, TraceEvent.DEAD_LETTER):
            by_group.setdefault(step.group or "?", []).append(step)
    sent = [step.time_ms for step in trace.steps if step.event is TraceEvent.SEND]
    return [f"group {group}: {_standing(steps, sent)}" for group, steps in by_group.items()]


def _standing(steps: list[TraceStep], sent_ms: list[int]) -> str:
    attempts = [step for step in steps if step.event is TraceEvent.CONSUME]
    failed = [step for step in attempts if step.result not in (None, TraceResult.OK)]
    failures = f"{len(failed)} failed attempt{'' if len(failed) == 1 else 's'}"
    for step in attempts:
        if step.result is TraceResult.OK:
            after = f", {(step.time_ms - sent_ms[0]) / 1000:,.3f} s after it was sent" if sent_ms else ""
            times = f" after {failures}" if failed else ""
            return f"consumed{times}{after}"
    if len(attempts) < len(steps):
        return f"a dead letter after {failures}"
    if attempts[-1].result is None:
        return "being handled, or its consumer is gone"
    return f"not consumed: {failures} so far"


def _notes(trace: MessageTrace) -> list[str]:
    notes = []
    if trace.is_cut:
        notes.append(f"note: a broker gives {TRACE_MESSAGES_MAX} trace messages at most: there may be more")
    if trace.silent:
        notes.append(f"note: no answer from {', '.join(trace.silent)}: what was told there is missing")
    if trace.unreadable:
        notes.append(f"note: {trace.unreadable} trace records could not be read")
    return notes


def _printable(line: str) -> str:
    """Tags and keys are what somebody sent: nothing of them may steer the terminal."""
    return (
        line
        if line.isprintable()
        else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    )
