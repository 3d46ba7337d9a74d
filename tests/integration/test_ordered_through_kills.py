"""An ordered group whose broker is killed again and again while its members come and go."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.auditor import TOPIC
from tests.integration.cuttable_network import HOST
from tests.integration.group_scene import Scene
from tests.interop.processes import free_port

pytestmark = pytest.mark.once

KILLS = 2
SAVED_S = 1.5
"""A broker's locks are in its file a second after they were given, if the machine does not pause."""


class KillableBroker(Scene):
    """A scene whose broker is a process of its own, which only ever ends by a kill."""

    _process: subprocess.Popen[bytes] | None = None

    async def _start_broker(self) -> None:
        self._port = self._port or free_port()
        conf = self._folder / "broker.conf"
        conf.write_text(
            f"brokerName=broker-a\nlistenPort={self._port}\nbindAddress={HOST}\nnamesrvAddr={self._namesrv}\n"
            f"storePathRootDir={self._folder / 'store'}\nmappedFileSizeCommitLog=16777216\n"
        )
        with (self._folder / "broker.log").open("ab") as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-m", "pymq", "broker", "-c", str(conf)], stdout=output, stderr=output
            )
        async with asyncio.timeout(120):
            while True:
                try:
                    _, writer = await asyncio.open_connection(HOST, self._port)
                except OSError:
                    assert self._process.poll() is None, (self._folder / "broker.log").read_text()
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return

    async def locks_are_saved(self) -> None:
        """Wait until the broker's file of locks says what the members own; a kill before may forget some."""
        await asyncio.sleep(SAVED_S)
        async with asyncio.timeout(60):
            while not self._are_saved():  # noqa: ASYNC110 - a broker's doing
                await asyncio.sleep(0.05)

    def _are_saved(self) -> bool:
        file = self._folder / "store/config/queueLocks.json"
        saved = {
            (lock["clientId"], lock["queue"]["queueId"])
            for lock in json.loads(file.read_text() if file.exists() else '{"locks":[]}')["locks"]
            if lock["queue"]["topic"] == TOPIC
        }
        owned = {
            (member.client_id, queue.queue_id)
            for member in self._members
            for queue in member.queues
            if queue.topic == TOPIC
        }
        return owned <= saved

    async def _stop_broker(self) -> None:
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)


async def test_order_is_kept_through_kills_of_the_broker(tmp_path: Path) -> None:
    scene = KillableBroker(tmp_path, seed=5, order="ordered")
    async with scene.running():
        for _ in range(3):
            await scene.join()
        producing = asyncio.create_task(scene.produce())
        for _ in range(KILLS):
            await scene.settled()
            await scene.locks_are_saved()
            await scene.restart()
            await scene.join()
            await scene.settled()
            await scene.leave()
        scene.stop_producing()
        await producing
        await scene.finish(patience_s=20)
        await scene.settled()
    assert scene.auditor.verdict() == []
    assert scene.auditor.count > 100
