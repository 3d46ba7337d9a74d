"""An ordered group whose broker is killed again and again while its members come and go."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cuttable_network import HOST
from tests.integration.group_scene import Scene
from tests.interop.processes import free_port

pytestmark = pytest.mark.once

KILLS = 2
SAVED_S = 1.5
"""A broker's locks are in its file a second after they were given; a kill before that may forget them."""


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
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection(HOST, self._port)
                except OSError:
                    assert self._process.poll() is None, (self._folder / "broker.log").read_text()
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return

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
            await asyncio.sleep(SAVED_S)
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
