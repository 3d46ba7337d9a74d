"""The line protocol by which tests have clients in other languages do things (see java/…/Driver.java)."""

from __future__ import annotations

import asyncio
import json
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

_STOP_SECONDS = 60.0
_PATIENCE_S = 60.0
"""Java shares queues every 20 s, and a paused machine may let it miss its first chance."""


class DriverError(Exception):
    """What the client under test threw: its exception's name, RocketMQ's response code (or -1), its text."""

    def __init__(self, kind: str, code: int, message: str) -> None:
        super().__init__(f"{kind} (code {code}): {message}")
        self.kind = kind
        self.code = code
        self.message = message


class Driver:
    """A process that works off one ask a line and answers each with a line."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.folder = folder
        self._asks = 0
        self._names = 0
        self._log = folder / f"{name}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=folder, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        self._answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, name=f"{name}-answers", daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(b"")

    def ask(self, do: str, /, *, within: float = 180.0, **fields: Any) -> Any:
        """Have the driver do something and give its result; DriverError when the client threw.

        `within` (seconds) ends a wait for a driver that hangs. Blocks: in a test with a running event loop
        use `ask_async`.
        """
        self._asks += 1
        ask = {"id": self._asks, "do": do} | fields
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(ask).encode() + b"\n")
        self._process.stdin.flush()
        while True:
            try:
                line = self._answers.get(timeout=within)
            except queue.Empty:
                raise AssertionError(f"{self.name}: {do} was not answered within {within} s") from None
            assert line, f"{self.name} ended: {self._log.read_text(errors='replace')[-2000:]}"
            answer = json.loads(line)
            if answer["id"] == self._asks:  # an older one belongs to an ask that was given up
                break
        if error := answer.get("error"):
            raise DriverError(error["type"], error["code"], error["message"])
        return answer.get("result")

    async def ask_async(self, do: str, /, *, within: float = 180.0, **fields: Any) -> Any:
        """`ask` that leaves the event loop running."""
        return await asyncio.to_thread(self.ask, do, within=within, **fields)

    def start(self, do: str, /, **fields: Any) -> Started:
        """Have the driver start a client (`start_producer` …) under a fresh name."""
        self._names += 1
        name = f"{do.removeprefix('start_')}-{self._names}"
        client_id = self.ask(do, name=name, **fields)
        return Started(self, name, client_id)

    async def start_async(self, do: str, /, **fields: Any) -> Started:
        """`start` that leaves the event loop running."""
        return await asyncio.to_thread(self.start, do, **fields)

    def kill(self) -> None:
        """End the process without giving it a word to say (SIGKILL)."""
        self._process.kill()
        self._process.wait(_STOP_SECONDS)

    def close(self) -> None:
        """End the process by ending its input."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_SECONDS)


class Started:
    """A producer, consumer, reader or admin client that runs inside a driver until the `with` ends."""

    def __init__(self, driver: Driver, name: str, client_id: str | None) -> None:
        self.driver = driver
        self.client_id = client_id
        self._name = name

    def ask(self, do: str, /, **fields: Any) -> Any:
        """Have this client do something."""
        return self.driver.ask(do, name=self._name, **fields)

    async def ask_async(self, do: str, /, **fields: Any) -> Any:
        """`ask` that leaves the event loop running."""
        return await self.driver.ask_async(do, name=self._name, **fields)

    def send(self, *messages: Mapping[str, Any], mode: str = "sync") -> Any:
        """Send messages: a list of results, or one (`batch`), or None (`oneway`)."""
        return self.ask("send", messages=list(messages), mode=mode)

    async def send_async(self, *messages: Mapping[str, Any], mode: str = "sync") -> Any:
        """`send` that leaves the event loop running."""
        return await asyncio.to_thread(partial(self.send, *messages, mode=mode))

    def received(self, count: int, seconds: float = _PATIENCE_S) -> list[dict[str, Any]]:
        """All that this consumer got so far, as soon as that is `count` messages, or after `seconds`."""
        got: list[dict[str, Any]] = self.ask("received", count=count, wait_ms=int(seconds * 1000))
        return got

    async def received_async(self, count: int, seconds: float = _PATIENCE_S) -> list[dict[str, Any]]:
        """`received` that leaves the event loop running."""
        return await asyncio.to_thread(self.received, count, seconds)

    def admin(self, op: str, /, **fields: Any) -> Any:
        """One operation of the admin API."""
        return self.ask("admin", op=op, **fields)

    def stop(self) -> None:
        """Stop this client, so that it says goodbye to the brokers."""
        self.driver.ask("stop", name=self._name)

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Started:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.driver.ask_async("stop", name=self._name)
