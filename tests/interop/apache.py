"""Apache RocketMQ itself: fetched by Maven into the user's cache folder, started as name servers and brokers."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tests.interop.drivers import Driver
from tests.interop.processes import HOST, Cluster, Node, Server, free_port

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
        [str(part) for part in command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout.decode(errors='replace')[-4000:]}"


def java_classpath(version: str) -> str:
    """The class path of the driver, the client, the tools and both servers of one RocketMQ version."""
    pom = JAVA_SOURCES / "pom.xml"
    program = sorted((JAVA_SOURCES / "src/main/java").rglob("*.java"))
    logback = JAVA_SOURCES / "src/main/resources/logback.xml"

    def fetch(folder: Path) -> None:
        run("mvn", "-q", "-B", "-f", pom, f"-Drocketmq.version={version}", f"-DoutputDirectory={folder}",
            "dependency:copy-dependencies")  # fmt: skip

    jars = built(f"rocketmq-{version}", [pom], fetch)

    def compile_driver(folder: Path) -> None:
        run("javac", "-encoding", "UTF-8", "-proc:none", "-nowarn", "-cp", f"{jars}/*", "-d", folder, *program)
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
    logs = home / "conf"
    logs.mkdir(parents=True, exist_ok=True)
    for name in ("logback_namesrv", "logback_broker"):
        (logs / f"{name}.xml").write_text(_LOGBACK)
    conf_file = folder / f"{kind}.conf"
    conf_file.write_text("".join(f"{key}={value}\n" for key, value in conf.items()))
    command = ("java", *JVM_OPTIONS, *heap.split(), f"-Duser.home={home}", "-cp", java_classpath(version), main,
               "-c", str(conf_file))  # fmt: skip
    return Server(kind, command, folder, {**os.environ, "ROCKETMQ_HOME": str(home)})


def apache_name_server(version: str, folder: Path) -> Node:
    """Start Apache's name server and wait until it listens."""
    port = free_port()
    server = _start("namesrv", "org.apache.rocketmq.namesrv.NamesrvStartup", version, folder,
                    "-Xms32m -Xmx128m", {"listenPort": port})  # fmt: skip
    server.wait_for_port(port)
    return Node(server, port, folder)


def broker_conf(folder: Path, namesrv: str, port: int, name: str) -> dict[str, object]:
    """A small master's settings, in the words that 4.3.2, 4.9.4 and pymq share."""
    return {
        "namesrvAddr": namesrv,
        "brokerClusterName": "DefaultCluster",
        "brokerName": name,
        "brokerId": 0,
        "deleteWhen": "04",
        "fileReservedTime": 48,
        "brokerRole": "ASYNC_MASTER",
        "flushDiskType": "ASYNC_FLUSH",
        "brokerIP1": HOST,
        "brokerIP2": HOST,
        "listenPort": port,
        "autoCreateTopicEnable": "true",
        "storePathRootDir": folder / "store",
        "storePathCommitLog": folder / "store/commitlog",
    }


def apache_broker(version: str, folder: Path, namesrv: str, name: str = "broker-a") -> Node:
    """Start Apache's broker and wait until all its three ports listen."""
    port = free_port()
    # renamed after 4.5.1
    segment = "mapedFileSizeCommitLog" if version == "4.3.2" else "mappedFileSizeCommitLog"
    conf = broker_conf(folder, namesrv, port, name) | {segment: 16 << 20}
    server = _start("broker", "org.apache.rocketmq.broker.BrokerStartup", version, folder,
                    "-Xms128m -Xmx512m -XX:MaxDirectMemorySize=512m", conf)  # fmt: skip
    for each in (port, port - 2, port + 1):
        server.wait_for_port(each)
    return Node(server, port, folder)


def apache_cluster(version: str, folder: Path) -> Cluster:
    """Start Apache's name server and one broker of `version`."""
    name_server = apache_name_server(version, folder / "namesrv")
    broker = apache_broker(version, folder / "broker", name_server.address)
    return Cluster(f"apache-{version}", name_server, broker)

