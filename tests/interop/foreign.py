"""RocketMQ's Go, Node and Spring clients, built into the user's cache folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.interop.apache import HERE, JVM_OPTIONS, built, run
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


def spring_driver(version: str, folder: Path, settings: Mapping[str, str]) -> Driver:
    """A Spring Boot application on RocketMQ's starter of `version`, with these properties."""
    pom = HERE / "spring" / "pom.xml"
    sources = sorted((HERE / "spring" / "src").rglob("*.java"))

    def fetch(into: Path) -> None:
        run("mvn", "-q", "-B", "-f", pom, f"-Dstarter.version={version}", f"-DoutputDirectory={into}",
            "dependency:copy-dependencies")  # fmt: skip

    jars = built(f"spring-{version}", [pom], fetch)

    def compile_shop(into: Path) -> None:
        run("javac", "-encoding", "UTF-8", "-proc:none", "-nowarn", "-cp", f"{jars}/*", "-d", into, *sources)

    classes = built(f"spring-shop-{version}", [pom, *sources], compile_shop)
    options = (*JVM_OPTIONS, "-Xmx256m", f"-Duser.home={folder}", "-Drocketmq.client.logUseSlf4j=true")
    given = [f"--{name}={value}" for name, value in settings.items()]
    command = ("java", *options, "-cp", f"{classes}:{jars}/*", "shop.Shop", *given)
    return Driver(f"spring-{version}", command, folder, os.environ)
