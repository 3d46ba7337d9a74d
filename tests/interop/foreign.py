"""The Go and Node clients of RocketMQ, built into the user's cache folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.interop.apache import HERE, built, run
from tests.interop.drivers import Driver


def go_driver(folder: Path) -> Driver:
    """RocketMQ's Go client (v2)."""
    sources = [path for path in (HERE / "go").iterdir() if path.suffix in (".go", ".mod", ".sum")]

    def build(into: Path) -> None:
        run("go", "build", "-o", into / "driver", ".", cwd=HERE / "go")

    return Driver("go", [str(built("go", sources, build) / "driver")], folder, os.environ)


def node_driver(folder: Path) -> Driver:
    """Node's client, ali-ons."""
    sources = [HERE / "node" / name for name in ("driver.js", "package.json", "package-lock.json")]

    def build(into: Path) -> None:
        for source in sources:
            shutil.copy(source, into)
        run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=into)

    return Driver("node", ["node", str(built("node", sources, build) / "driver.js")], folder, os.environ)
