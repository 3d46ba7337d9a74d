"""Java's transaction producers of both versions: what is committed comes once, what is rolled back never, and
the broker asks the producers of the group about what is left open.

One producer of each version lives through everything at the same time; the tests look at what came of it.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest

from pymq.errors import ResponseError
from pymq.network import SystemNetwork
from pymq.protocol.headers.administration import CreateTopicRequest
from pymq.protocol.message import MessageRecord
from pymq.protocol.properties import decode_properties
from pymq.protocol.sysflags import TRANSACTION_COMMIT
from pymq.transport.pool import Pool
from tests.broker.asking import pull, records
from tests.interop.apache import java_driver
from tests.interop.conftest import VERSIONS, JavaDrivers, fresh, message
from tests.interop.drivers import Driver, Started
from tests.interop.processes import Cluster
from tests.interop.python_client import eventually, python_client, take, texts

CHECK_MAX, TIMEOUT_MS, IMMUNE_MS = 3, 1_000, 4_000
"""The brokers' transactionCheckMax and transactionTimeOut (broker_conf); how long one is left alone."""
DELAY_MS = 1_000
"""Of the first delay level."""
DISCARDED = "TRANS_CHECK_MAX_TIME_TOPIC"

DECIDED_LATER = {
    "unknown-commit": ["UNKNOW", "COMMIT"],
    "unknown-rollback": ["UNKNOW", "ROLLBACK"],
    "null-commit": ["COMMIT"],
    "throws-commit": ["throw", "COMMIT"],
    "immune-commit": ["COMMIT"],
    "orphan": ["COMMIT"],
}
"""Messages that the producer leaves open, and what the checks answer."""
COMMITTED = sorted(["commit", "delayed", *(body for body in DECIDED_LATER if body != "unknown-rollback")])
UNDECIDED = "undecided"
FULL: dict[str, Any] = {"tags": "paid", "keys": "k1 k2", "flag": 7}
CUSTOMER = "Łukasz 消息"


def one(topic: str, body: str, local: str, checks: list[str] | None = None, **fields: Any) -> dict[str, Any]:
    """A message with what becomes of it; who is asked about it for no reason throws."""
    return message(topic, body, local=local, checks=",".join(checks or ["throw"]), **fields)


def story(topic: str) -> list[dict[str, Any]]:
    """A message for each thing that a transaction can come to; its body is its name."""

    def later(body: str, local: str, **fields: Any) -> dict[str, Any]:
        return one(topic, body, local, DECIDED_LATER[body], **fields)

    customer, immune = {"customer": CUSTOMER}, {"CHECK_IMMUNITY_TIME_IN_SECONDS": IMMUNE_MS // 1_000}
    return [
        one(topic, "commit", "COMMIT", **FULL, properties=customer),
        one(topic, "rollback", "ROLLBACK"),
        one(topic, "delayed", "COMMIT", delay_level=1),
        later("unknown-commit", "UNKNOW", **FULL, properties=customer),
        later("unknown-rollback", "UNKNOW"),
        later("null-commit", "null"),
        later("throws-commit", "throw"),
        later("immune-commit", "UNKNOW", properties=immune),
        one(topic, UNDECIDED, "UNKNOW", ["UNKNOW"]),
    ]


class Told(NamedTuple):
    """What came of one version's messages."""

    servers: str
    """Whose: "pymq" or "apache-4.9.4"."""
    topic: str
    sent: dict[str, dict[str, Any]]
    got: list[dict[str, Any]]
    """By a consumer in Java."""
    python_got: list[str]
    """Bodies, by a consumer in Python."""
    checks: list[dict[str, Any]]
    """Messages as the producer was asked about them."""
    given_up: list[MessageRecord]

    def asked(self, body: str) -> list[dict[str, Any]]:
        """The checks of one message, in order."""
        return [check for check in self.checks if check["body"] == body]

    def came(self, body: str) -> dict[str, Any]:
        """The one message that came of it."""
        [one] = [each for each in self.got if each["body"] == body]
        return one


class Teller:
    """A topic, with one version's producer and consumer, while it happens."""

    def __init__(self, servers: Cluster, pool: Pool) -> None:
        self._servers, self._pool = servers, pool
        self._topic, self._group = fresh("transactions"), fresh("deciding")
        self._sent: dict[str, dict[str, Any]] = {}

    async def begin(self, java: Driver) -> None:
        """Make the topic (Java looks for new ones every 30 s only) and start both."""
        header = CreateTopicRequest(self._topic, 2, 2, 6)
        await self._pool.call(self._servers.broker.address, header, timeout_s=60)
        self._producer = await self._start(java)
        reading: dict[str, Any] = {"group": fresh("reader"), "from": "FIRST_OFFSET", "topic": self._topic}
        self._consumer = await java.start_async("start_consumer", namesrv=self._servers.namesrv, **reading)

    async def _start(self, java: Driver, **fields: Any) -> Started:
        settings = {"namesrv": self._servers.namesrv, "group": self._group} | fields
        return await java.start_async("start_transactions", **settings)

    async def start_short_lived(self, java: Driver) -> None:
        """Start another producer of the group, in a process that ends."""
        self._short_lived = await self._start(java, undecided=True)  # should it be asked before it ends

    async def leave_an_orphan(self, local: str) -> None:
        """Let that one send a message."""
        orphan = one(self._topic, "orphan", local, DECIDED_LATER["orphan"])
        await self._short_lived.ask_async("send_in_transaction", messages=[orphan])

    async def send(self) -> None:
        """Send all."""
        messages = story(self._topic)
        sent = await self._producer.ask_async("send_in_transaction", messages=messages)
        self._sent = dict(zip((each["body"] for each in messages), sent, strict=True))

    async def end(self) -> Told:
        """Wait until all is decided or given up, and give what came."""
        await eventually("the undecided one is given up", self._has_given_up, 120)
        await eventually("the last check arrives", self._is_asked_enough)
        got = await self._consumer.received_async(len(COMMITTED))
        async with (
            python_client(self._servers) as client,
            client.consumer(fresh("reader"), self._topic, start="first") as consumer,
        ):
            python_got = texts(await take(consumer, len(got)))
        checks = await self._producer.ask_async("checks")
        for each in (self._consumer, self._producer):
            await asyncio.to_thread(each.stop)
        kind, given_up = self._servers.kind, await self._given_up()
        return Told(kind, self._topic, self._sent, got, python_got, checks, given_up)

    async def _is_asked_enough(self) -> bool:
        checks = await self._producer.ask_async("checks")
        return [check["body"] for check in checks].count(UNDECIDED) >= CHECK_MAX

    async def _has_given_up(self) -> bool:
        return any(each.body.decode() == UNDECIDED for each in await self._given_up())

    async def _given_up(self) -> list[MessageRecord]:
        found: list[MessageRecord] = []
        address = self._servers.broker.address
        try:
            while got := records(await pull(self._pool, address, DISCARDED, offset=len(found))):
                found += got
        except ResponseError:  # nothing was given up yet: there is no such topic
            return []
        return [each for each in found if decode_properties(each.properties)["REAL_TOPIC"] == self._topic]


async def tell(servers: Cluster, javas: dict[str, Driver], short_lived: Driver) -> dict[str, Told]:
    """Let it happen to a producer of each version at the same time."""
    pool = Pool(SystemNetwork(), {})
    tellers = {version: Teller(servers, pool) for version in javas}
    try:
        for version, teller in tellers.items():
            await teller.begin(javas[version])
            await teller.start_short_lived(short_lived)
        first, second = tellers.values()
        await first.leave_an_orphan("UNKNOW")
        with pytest.raises(AssertionError, match="ended"):
            await second.leave_an_orphan("halt")  # ends the process
        for teller in tellers.values():
            await teller.send()
        return {version: await teller.end() for version, teller in tellers.items()}
    finally:
        await pool.close()


@pytest.fixture(scope="module")
def all_told(
    cluster: Cluster, java_drivers: JavaDrivers, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Told]:
    """What came of each version's messages."""
    javas = {version: java_drivers(version) for version in VERSIONS}
    short_lived = java_driver("4.3.2", "JSON", tmp_path_factory.mktemp("short-lived"))
    try:
        return asyncio.run(tell(cluster, javas, short_lived))
    finally:
        short_lived.close()


@pytest.fixture(params=VERSIONS)
def told(all_told: dict[str, Told], request: pytest.FixtureRequest) -> Told:
    """What came of one version's messages."""
    version: str = request.param
    return all_told[version]


@pytest.fixture
def told_by_pymq(told: Told) -> Told:
    """The same, where Apache's own broker does not do it."""
    if told.servers != "pymq":
        pytest.skip("not so with Apache's broker (semantics.md Part E)")
    return told


def test_exactly_what_is_committed_comes_and_each_once(told_by_pymq: Told) -> None:
    assert sorted(each["body"] for each in told_by_pymq.got) == COMMITTED
    assert told_by_pymq.python_got == COMMITTED


def test_nothing_comes_that_is_rolled_back_or_undecided(told: Told) -> None:
    assert {each["body"] for each in told.got} <= set(COMMITTED)
    assert set(told.python_got) <= set(COMMITTED)


def test_a_committed_message_is_what_was_sent(told: Told) -> None:
    came, sent = told.came("commit"), told.sent["commit"]
    assert (came["tags"], came["keys"], came["flag"]) == ("paid", "k1 k2", 7)
    assert came["properties"]["customer"] == CUSTOMER
    assert (came["msg_id"], came["queue_id"]) == (sent["msg_id"], sent["queue_id"])
    assert came["sys_flag"] == TRANSACTION_COMMIT
    assert came["properties"]["TRAN_MSG"] == "true"  # by which Java's consumers know the transaction's id
    assert sent["transaction_id"] == sent["msg_id"]
    assert sent["state"] == "COMMIT_MESSAGE"


def test_a_message_that_is_committed_at_a_check_is_what_was_sent(told_by_pymq: Told) -> None:
    came, sent = told_by_pymq.came("unknown-commit"), told_by_pymq.sent["unknown-commit"]
    assert (came["tags"], came["keys"], came["flag"]) == ("paid", "k1 k2", 7)  # Apache loses the flag
    assert came["properties"]["customer"] == CUSTOMER
    assert (came["msg_id"], came["queue_id"]) == (sent["msg_id"], sent["queue_id"])


def test_the_delay_that_old_clients_send_along_counts(all_told: dict[str, Told]) -> None:
    old, new = (all_told[version] for version in ("4.3.2", "4.9.4"))
    assert "DELAY" not in new.came("delayed")["properties"], "4.9.4's client takes it away"
    if old.servers == "pymq":  # Apache's broker loses the message
        came = old.came("delayed")
        assert came["store_ms"] - came["born_ms"] >= DELAY_MS


@pytest.mark.parametrize("body", [body for body in DECIDED_LATER if body != "immune-commit"])
def test_what_the_producer_leaves_open_is_checked_until_it_is_decided(told: Told, body: str) -> None:
    expected, asked = DECIDED_LATER[body], told.asked(body)
    answers = [check["answer"] for check in asked]
    assert answers[: len(expected)] == expected
    assert set(answers[len(expected) :]) <= {expected[-1]}, "asked once more while the answer was on its way"
    numbers = [int(check["properties"]["TRANSACTION_CHECK_TIMES"]) for check in asked]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert numbers[0] == 1 or body == "orphan", "an earlier check may have gone to the producer that died"


def test_the_message_in_a_check_is_the_message_that_was_sent(told: Told) -> None:
    check, sent = told.asked("unknown-commit")[0], told.sent["unknown-commit"]
    assert check["topic"] == told.topic
    assert (check["queue_id"], check["transaction_id"]) == (sent["queue_id"], sent["msg_id"])
    assert (check["tags"], check["keys"], check["flag"]) == ("paid", "k1 k2", 7)
    assert check["properties"]["customer"] == CUSTOMER


def test_no_message_is_checked_before_its_time(told: Told) -> None:
    for check in told.checks:
        assert check["at_ms"] - check["born_ms"] >= TIMEOUT_MS, check["body"]


def test_a_message_with_an_immunity_time_is_left_alone_so_long(told_by_pymq: Told) -> None:
    check = told_by_pymq.asked("immune-commit")[0]
    assert check["at_ms"] - check["born_ms"] >= IMMUNE_MS
    assert check["properties"]["TRANSACTION_CHECK_TIMES"] == "1"


def test_what_nobody_decides_is_given_up_after_the_last_check(told: Told) -> None:
    assert len(told.asked(UNDECIDED)) == CHECK_MAX
    [given_up] = [each for each in told.given_up if each.body.decode() == UNDECIDED]
    table = decode_properties(given_up.properties)
    assert table["TRANSACTION_CHECK_TIMES"] == str(CHECK_MAX)
    assert table["UNIQ_KEY"] == told.sent[UNDECIDED]["msg_id"]


def test_nothing_else_is_given_up(told_by_pymq: Told) -> None:
    assert [each.body.decode() for each in told_by_pymq.given_up] == [UNDECIDED]
