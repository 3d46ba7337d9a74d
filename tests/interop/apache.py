"""Apache RocketMQ itself, fetched by Maven into the user's cache folder: its servers and its Java client."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tests.interop.drivers import Driver
from tests.interop.processes import (
    Cluster,
    Node,
    Server,
    broker_conf,
    free_port,
    wait_for_registration,
    write_conf,
)

HERE = Path(__file__).parent
JAVA_SOURCES = HERE / "java"

_OPENED = (
    "java.base/java.nio",
    "java.base/sun.nio.ch",
    "java.base/java.lang",
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.ref",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.net",
)
JVM_OPTIONS = (
    # RocketMQ's netty looks into the JDK, which JDKs since 16 allow only when told so.
    "-Dio.netty.tryReflectionSetAccessible=true",
    *(f"--add-opens={package}=ALL-UNNAMED" for package in _OPENED),
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    # Short runs on few cores: quick compiler only, no parallel collector.
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    # A well filled disk stops no test.
    "-Drocketmq.broker.diskSpaceWarningLevelRatio=0.99",
)
_LOGBACK = (
    '<configuration><appender name="S" class="ch.qos.logback.core.ConsoleAppender"><encoder>'
    "<pattern>%d %p %c{1} - %m%n</pattern></encoder></appender>"
    '<root level="INFO"><appender-ref ref="S"/></root></configuration>'
)


def cache_folder() -> Path:
    """Where builds are kept from one test run to the next."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "pymq-interop"


def built(name: str, sources: Iterable[Path], build: Callable[[Path], None]) -> Path:
    """The cached folder that `build` filled, made anew whenever a source file changed.

    Built aside and moved into place, so that a broken build leaves nothing and two runs do not meet.
    """
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    done = cache_folder() / f"{name}-{digest.hexdigest()[:12]}"
    if not done.is_dir():
        done.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=done.parent))
        try:
            build(aside)
            if not done.is_dir():
                aside.rename(done)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return done


def run(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a build step; AssertionError with its output when it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout.decode(errors='replace')[-4000:]}"


def java_jars(version: str) -> Path:
    """The folder with the jars of the client, the tools and both servers of one RocketMQ version."""
    pom = JAVA_SOURCES / "pom.xml"

    def fetch(folder: Path) -> None:
        run("mvn", "-q", "-B", "-f", pom, f"-Drocketmq.version={version}", f"-DoutputDirectory={folder}",
            "dependency:copy-dependencies")  # fmt: skip

    return built(f"rocketmq-{version}", [pom], fetch)


def java_classpath(version: str) -> str:
    """The class path of the driver, the client, the tools and both servers of a 4.x version."""
    pom = JAVA_SOURCES / "pom.xml"
    program = sorted((JAVA_SOURCES / "src/main/java").rglob("*.java"))
    logback = JAVA_SOURCES / "src/main/resources/logback.xml"
    jars = java_jars(version)

    def compile_driver(folder: Path) -> None:
        run(
            "javac", "-encoding", "UTF-8", "-proc:none", "-nowarn", "-cp", f"{jars}/*", "-d", folder, *program
        )
        shutil.copy(logback, folder)

    classes = built(f"driver-{version}", [pom, logback, *program], compile_driver)
    return f"{classes}:{jars}/*"


def java_driver(version: str, serialize: str, folder: Path) -> Driver:
    """A Java client of `version` that writes its headers as `serialize` (JSON or ROCKETMQ)."""
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    command = (
        "java",
        *JVM_OPTIONS,
        "-Xmx256m",
        f"-Duser.home={home}",
        "-Drocketmq.client.logUseSlf4j=true",
        f"-Drocketmq.serialize.type={serialize}",
        "-cp",
        java_classpath(version),
        "interop.Driver",
    )
    return Driver(f"java-{version}-{serialize}", command, folder, os.environ)


def _start(kind: str, main: str, version: str, folder: Path, heap: str, conf: Mapping[str, object]) -> Server:
    home = folder / "home"
    for name in ("logback_namesrv", "logback_broker"):
        logback = home / "conf" / f"{name}.xml"
        logback.parent.mkdir(parents=True, exist_ok=True)
        logback.write_text(_LOGBACK)
    conf_file = write_conf(folder / f"{kind}.conf", conf)
    options = (*JVM_OPTIONS, heap, f"-Duser.home={home}", "-cp", f"{java_jars(version)}/*")
    command = ("java", *options, main, "-c", str(conf_file))
    return Server(f"{kind}-{version}", command, folder, {**os.environ, "ROCKETMQ_HOME": str(home)})


def apache_name_server(version: str, folder: Path, port: int = 0) -> Node:
    """Start Apache's name server (on a free port if none is given) and wait until it listens."""
    port = port or free_port()
    main = "org.apache.rocketmq.namesrv.NamesrvStartup"
    node = Node(_start("namesrv", main, version, folder, "-Xmx128m", {"listenPort": port}), port, folder)
    node.server.wait_for_port(port)
    return node


def apache_broker(
    version: str,
    folder: Path,
    name_servers: Sequence[Node],
    name: str = "broker-a",
    port: int = 0,
    **settings: object,
) -> Node:
    """Start Apache's broker (on a free port if none is given), wait until all its name servers know it."""
    port = port or free_port()
    segment = (
        "mapedFileSizeCommitLog" if version == "4.3.2" else "mappedFileSizeCommitLog"
    )  # renamed after 4.5.1
    quick = {"messageDelayLevel": " ".join(["1s"] * 18)}  # what failed comes again after a second, not ten
    conf = broker_conf(folder, name_servers, port, name) | {segment: 16 << 20} | quick | settings
    main = "org.apache.rocketmq.broker.BrokerStartup"
    node = Node(_start("broker", main, version, folder, "-Xmx512m", conf), port, folder)
    wait_for_registration(node, name_servers)
    return node


def apache_cluster(version: str, folder: Path) -> Cluster:
    """Start Apache's name server and one broker of `version`."""
    name_server = apache_name_server(version, folder / "namesrv")
    broker = apache_broker(version, folder / "broker", [name_server])
    return Cluster(f"apache-{version}", name_server, broker)
