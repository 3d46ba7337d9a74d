"""Gathers trace records and sends them, many in one message, beside what the user sends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque

import msgspec

from pymq.client.failures import RouteNotFound, SendFailed
from pymq.client.outgoing import Message
from pymq.client.producer import Producer
from pymq.client.settings import Settings
from pymq.errors import PymqError
from pymq.protocol.codes import ResponseCode
from pymq.protocol.trace_data import TRACE_TOPIC, TraceRecord, encode_trace, trace_keys

log = logging.getLogger("pymq.client.trace")

_KEYS_MAX_BYTES = 30_000
"""Of one trace message; all its properties together have 32,767."""

_COMPLAIN_S = 60.0
"""What is lost is told of once in this time."""


class _Waiting(msgspec.Struct, frozen=True, gc=False):
    data: str
    keys: list[str]
    keys_bytes: int


class TraceDispatcher:
    """Sends the trace records of one client to one topic (Apache's AsyncTraceDispatcher).

    A message goes out `trace_linger_s` after its first record came, or as soon as there is enough to fill it.
    Nobody waits for it: records that find no room, or whose message no broker stores, are counted and lost.

    Attributes:
        topic: where they go, as brokers call it.
        dropped: how many records were lost so far.
    """

    def __init__(self, producer: Producer, topic: str, settings: Settings) -> None:
        """`producer` is in no namespace, and is not traced itself."""
        self.topic = topic
        self.dropped = 0
        self._producer = producer
        self._settings = settings
        self._waiting: deque[_Waiting] = deque()
        self._waiting_size = 0
        self._untold = 0
        self._why = ""
        self._complain_at = 0.0
        self._some = asyncio.Event()
        self._enough = asyncio.Event()
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running loop."""
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name=f"pymq message trace to {self.topic}")

    def append(self, record: TraceRecord) -> None:
        """Have a record sent; never waits, never raises. From any thread: plain handlers run in some."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop has ended, and the client with it
                    self._loop.call_soon_threadsafe(self._append, record)
        else:
            self._append(record)

    def _append(self, record: TraceRecord) -> None:
        if self._closing:
            self._drop(1, "they came after the client was closed")
            return
        if len(self._waiting) >= self._settings.trace_records:
            self._drop(1, f"{len(self._waiting):,} were waiting to be sent already")
            return
        keys = trace_keys(record)
        keys_bytes = sum([len(key.encode(errors="replace")) + 1 for key in keys])
        waiting = _Waiting(encode_trace([record]), keys, keys_bytes)
        self._waiting.append(waiting)
        self._waiting_size += len(waiting.data)
        self._some.set()
        if self._waiting_size >= self._settings.trace_message_bytes:
            self._enough.set()

    async def close(self, within_s: float) -> None:
        """Send what is waiting, for so long at most, and end."""
        task, self._task = self._task, None
        if task is None:
            return
        self._closing = True
        self._some.set()
        self._enough.set()
        await asyncio.wait((task,), timeout=within_s)
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
        if self._waiting:
            self._drop(len(self._waiting), "the client was closed before they were sent")
            self._waiting.clear()
            self._waiting_size = 0
        self._complain()

    async def _run(self) -> None:
        while self._waiting or not self._closing:
            await self._some.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.trace_linger_s):
                    await self._enough.wait()
            self._some.clear()
            self._enough.clear()
            left = len(self._waiting)  # what comes meanwhile has its own time to gather
            while left > 0:
                batch = self._next_batch()
                left -= len(batch)
                await self._send(batch)

    def _next_batch(self) -> list[_Waiting]:
        """As many records as fit one message, at least one."""
        batch: list[_Waiting] = []
        size = keys_bytes = 0
        while self._waiting:
            first = self._waiting[0]
            size += len(first.data.encode(errors="replace"))
            keys_bytes += first.keys_bytes
            if batch and (size > self._settings.trace_message_bytes or keys_bytes > _KEYS_MAX_BYTES):
                break
            batch.append(self._waiting.popleft())
            self._waiting_size -= len(first.data)
        return batch

    async def _send(self, batch: list[_Waiting]) -> None:
        message = Message("".join([each.data for each in batch]), keys=_keys(batch))
        try:
            await self._producer.send(self.topic, message, self._settings.trace_timeout_s)
        except PymqError as error:
            self._drop(len(batch), f"{error}{_hint(error, self.topic)}")
        except BaseException:
            self._drop(len(batch), "the client was closed before they were sent")
            raise

    def _drop(self, count: int, why: str) -> None:
        self.dropped += count
        self._untold += count
        self._why = why
        now = asyncio.get_running_loop().time()
        if now >= self._complain_at:
            self._complain_at = now + _COMPLAIN_S
            self._complain()

    def _complain(self) -> None:
        if self._untold:
            count = "1 record is" if self._untold == 1 else f"{self._untold:,} records are"
            log.warning("message trace: %s lost: %s", count, self._why)
            self._untold = 0


def _keys(batch: list[_Waiting]) -> list[str]:
    """The keys of a message, each once. One record may have too many; its message's id is the first."""
    keys: list[str] = []
    size = 0
    for key in dict.fromkeys([key for each in batch for key in each.keys]):
        size += len(key.encode(errors="replace")) + 1
        if size <= _KEYS_MAX_BYTES:
            keys.append(key)
    return keys


def _hint(error: PymqError, topic: str) -> str:
    is_missing = isinstance(error, RouteNotFound) or (
        isinstance(error, SendFailed) and error.code == ResponseCode.TOPIC_NOT_EXIST
    )
    if not is_missing or topic != TRACE_TOPIC:
        return ""
    return ". A broker makes the trace topic with traceTopicEnable=true in its conf file"
