"""Log lines about the requests that a connection refused: the first of a kind at once, then one a minute."""

from __future__ import annotations

import logging

from pymq.protocol.codes import ResponseCode, describe

log = logging.getLogger("pymq.transport")

REPEAT_S = 60.0
"""How long a kind of refusal that has had its line gets no other: the rest is counted."""

KINDS_MAX = 32
"""Kinds kept apart on one connection. The request code is the peer's to choose, so what comes beyond these
shares one line."""

REMARK_MAX_CHARS = 300

ROUTINE = frozenset(
    (
        ResponseCode.TOPIC_NOT_EXIST,
        ResponseCode.PULL_NOT_FOUND,
        ResponseCode.PULL_RETRY_IMMEDIATELY,
        ResponseCode.PULL_OFFSET_MOVED,
        ResponseCode.QUERY_NOT_FOUND,
        ResponseCode.SUBSCRIPTION_NOT_EXIST,
        ResponseCode.SUBSCRIPTION_NOT_LATEST,
        ResponseCode.CONSUMER_NOT_ONLINE,
        ResponseCode.NO_MESSAGE,
    )
)
"""Answers that healthy clients get every day, and that have no line: a topic before its first message, a
pull at the end of a queue, a group without an offset, a consumer that has not registered yet."""

_Kind = tuple[int, int, type | None]
_OTHERS: _Kind = (-1, -1, None)


class Refusals:
    """What one connection refused, by request code, answer code and kind of crash."""

    __slots__ = ("_address", "_kinds")

    def __init__(self, address: str) -> None:
        """`address` is the peer, `host:port`."""
        self._address = address
        # Kind → when it may have its next line, in seconds, and how many were refused without one since.
        self._kinds: dict[_Kind, tuple[float, int]] = {}

    def note(
        self, now: float, request: int, code: int, remark: str | None, cause: BaseException | None = None
    ) -> None:
        """One request was answered with `code`, which is not routine; `cause` is what its handler crashed on.

        `now` is in seconds of any clock that never goes back.
        """
        kind: _Kind = (request, code, None if cause is None else type(cause))
        if kind not in self._kinds and len(self._kinds) >= KINDS_MAX:
            kind = _OTHERS
        quiet_until, withheld = self._kinds.get(kind, (now, 0))
        if now < quiet_until:
            self._kinds[kind] = (quiet_until, withheld + 1)
            return
        self._kinds[kind] = (now + REPEAT_S, 0)
        more = f" ({withheld} more like it before)" if withheld else ""
        if cause is not None:
            log.error("%s: request %d failed%s", self._address, request, more, exc_info=cause)
        else:
            said = _printable(remark or "no remark")
            log.warning(
                "%s: request %d refused, %s: %s%s", self._address, request, describe(code), said, more
            )

    def close(self) -> None:
        """The connection has ended: say how many had no line of their own."""
        for kind, (_, withheld) in self._kinds.items():
            if not withheld:
                continue
            request, code, cause = kind
            if kind == _OTHERS:
                log.warning("%s: %d more requests of other kinds refused", self._address, withheld)
            else:
                why = describe(code) if cause is None else cause.__name__
                log.warning("%s: request %d refused %d more times, %s", self._address, request, withheld, why)
        self._kinds.clear()


def _printable(remark: str) -> str:
    """Remarks quote what the peer sent: no line breaks or control characters of its making in the log."""
    text = remark if len(remark) <= REMARK_MAX_CHARS else remark[:REMARK_MAX_CHARS] + "…"
    return text if text.isprintable() else repr(text)
