"""Real RocketMQ clients and servers beside pymq's.

Everything here runs wherever `java` and `mvn` are installed (`go`, `npm` and `node` for those clients) and is
skipped elsewhere. The jars and builds are kept in the user's cache folder. The tests of foreign clients with
pymq can be turned on Apache's own servers, to see whether a test asks for what RocketMQ really does:

    PYMQ_INTEROP_SERVERS=4.9.4 pytest tests/interop/test_java_with_pymq.py
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.interop.apache import apache_cluster, java_driver
from tests.interop.drivers import Driver, DriverError, Started
from tests.interop.foreign import go_driver, node_driver
from tests.interop.processes import Cluster, kill_what_runs, wait_until
from tests.interop.pymq_servers import pymq_cluster
from tests.patience import patience

__all__ = ["patience"]

VERSIONS = ("4.3.2", "4.9.4")
TOPIC_NOT_EXIST, CONSUMER_NOT_ONLINE = 17, 206
JavaDrivers = Callable[..., Driver]
ApacheClusters = Callable[[str], Cluster]
_names = itertools.count(1)


def need(*programs: str) -> None:
    """Skip, saying why, where a program is not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)} on this machine")


def fresh(kind: str) -> str:
    """A topic's or group's name that no other test uses."""
    return f"{kind}-{next(_names)}"


def message(topic: str, body: str, **fields: Any) -> dict[str, Any]:
    """A message for the drivers: topic, body, tags, keys, delay_level, properties, broker and queue_id."""
    return {"topic": topic, "body": body} | fields


def are_prompt(late_ms: list[int]) -> bool:
    """Whether the last three came within 200 ms; AssertionError when no three of forty did.

    Some are late on a machine that pauses; all would be if a held pull were looked at every few seconds only.
    """
    assert len(late_ms) < 40, f"milliseconds from store to consumer: {late_ms}"
    return len(late_ms) >= 3 and max(late_ms[-3:]) < 200


def wait_for_commits(admin: Started, group: str, member: Started, got: list[dict[str, Any]]) -> None:
    """Return once a group has committed these messages: of a member that leaves before some come again."""

    def are_committed() -> bool:
        with contextlib.suppress(DriverError):  # not every client can be made to
            member.ask("commit_all")
        try:
            rows = admin.admin("consume_stats", group=group)
        except DriverError as error:
            if error.code not in (TOPIC_NOT_EXIST, CONSUMER_NOT_ONLINE):
                raise
            return False
        stands = {(row["topic"], row["queue_id"]): row["consumer_offset"] for row in rows}
        return all(stands.get((each["topic"], each["queue_id"]), 0) > each["queue_offset"] for each in got)

    wait_until("what was consumed is committed", are_committed)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """Ends servers whose fixture or test failed half-way."""
    yield
    kill_what_runs()


@pytest.fixture(scope="session")
def java_drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JavaDrivers]:
    """Gives the one JVM of a client version and header serialisation, started when first asked for."""
    need("java", "mvn")
    drivers: dict[tuple[str, str], Driver] = {}

    def driver(version: str, serialize: str = "JSON") -> Driver:
        key = version, serialize
        if key not in drivers:
            drivers[key] = java_driver(
                version, serialize, tmp_path_factory.mktemp(f"java-{version}-{serialize}")
            )
        return drivers[key]

    yield driver
    for each in drivers.values():
        each.close()


@pytest.fixture(
    scope="session", params=[(v, s) for v in VERSIONS for s in ("JSON", "ROCKETMQ")], ids="-".join
)
def java(request: pytest.FixtureRequest, java_drivers: JavaDrivers) -> Driver:
    """A Java client, of each version and with each header serialisation."""
    version, serialize = request.param
    return java_drivers(version, serialize)


@pytest.fixture(scope="session", params=VERSIONS)
def java_json(request: pytest.FixtureRequest, java_drivers: JavaDrivers) -> Driver:
    """A Java client of each version, for what does not depend on the serialisation of headers."""
    return java_drivers(request.param)


@pytest.fixture(scope="session", params=VERSIONS)
def java_version(request: pytest.FixtureRequest) -> str:
    """Each version of RocketMQ that pymq is compared with."""
    version: str = request.param
    return version


@pytest.fixture
def go(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """RocketMQ's Go client (v2)."""
    need("go")
    driver = go_driver(tmp_path_factory.mktemp("go"))
    yield driver
    driver.close()


@pytest.fixture
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """Node's client, ali-ons."""
    need("node", "npm")
    driver = node_driver(tmp_path_factory.mktemp("node"))
    yield driver
    driver.close()


@pytest.fixture(scope="session")
def apache_clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheClusters]:
    """Gives Apache's name server and broker of a version, started when first asked for."""
    need("java", "mvn")
    clusters: dict[str, Cluster] = {}

    def cluster(version: str) -> Cluster:
        if version not in clusters:
            clusters[version] = apache_cluster(version, tmp_path_factory.mktemp(f"apache-{version}"))
        return clusters[version]

    yield cluster
    for each in clusters.values():
        each.kill()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """pymq's name server and one broker (Apache's when PYMQ_INTEROP_SERVERS names a version)."""
    if version := os.environ.get("PYMQ_INTEROP_SERVERS"):
        clusters: ApacheClusters = request.getfixturevalue("apache_clusters")
        yield clusters(version)
        return
    made = pymq_cluster(tmp_path_factory.mktemp("pymq"))
    yield made
    made.kill()


@pytest.fixture(scope="session", params=["pymq", "apache"])
def servers(request: pytest.FixtureRequest) -> Cluster:
    """Name server and broker, pymq's and then Apache's 4.9.4."""
    if request.param == "pymq":
        made: Cluster = request.getfixturevalue("cluster")
        return made
    clusters: ApacheClusters = request.getfixturevalue("apache_clusters")
    return clusters("4.9.4")


@pytest.fixture(scope="session")
def admin(cluster: Cluster, java_drivers: JavaDrivers) -> Iterator[Started]:
    """Java's admin API, connected to the cluster."""
    with java_drivers("4.9.4").start("start_admin", namesrv=cluster.namesrv) as started:
        yield started
