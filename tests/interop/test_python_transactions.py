"""pymq's client and its transactions, with pymq's servers and Apache's of both versions.

What the broker hears too late it asks about (after a second here), and more than once if it is busy: "exactly
once" is asked of pymq only, since Apache's brokers store again what is committed again.
"""

from __future__ import annotations

import asyncio
import logging

import pytest

import pymq
from pymq.client.transaction_checks import Checker
from tests.interop.conftest import ApacheClusters, fresh
from tests.interop.processes import Cluster
from tests.interop.python_client import eventually, python_client, take, take_until_quiet, text, texts

COMMIT, ROLLBACK, UNKNOWN = pymq.TransactionState
LONG = "x" * 10_000


@pytest.fixture(scope="module", params=["pymq", "4.3.2", "4.9.4"])
def servers(request: pytest.FixtureRequest) -> Cluster:
    """Name server and broker: pymq's, and Apache's of each version."""
    if request.param == "pymq":
        made: Cluster = request.getfixturevalue("cluster")
        return made
    clusters: ApacheClusters = request.getfixturevalue("apache_clusters")
    return clusters(request.param)


class Checks:
    """A checker that knows what to say about each message, by its body; an exception it raises."""

    def __init__(self, **answers: list[pymq.TransactionState | Exception]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    async def __call__(self, message: pymq.ReceivedMessage) -> pymq.TransactionState:
        assert message.properties["PGROUP"].startswith("producers")
        body = text(message)
        self.asked.append(body)
        answers = self._answers[body]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def producer(servers: Cluster, group: str, checker: Checker | None = None) -> pymq.Client:
    return python_client(servers, producer_group=group, transaction_checker=checker)


async def test_what_is_committed_comes_and_what_is_not_never_does(
    servers: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pymq.client.transaction")
    topic, group = fresh("transactions"), fresh("producers")
    # 4.3.2 stores the body of what it asks about uncompressed, and says that it is compressed.
    long = "short" if servers.kind == "apache-4.3.2" else LONG
    checks = Checks(
        later=[UNKNOWN, COMMIT],
        never=[UNKNOWN, ROLLBACK],
        failing=[KeyError("the database is away"), COMMIT],
        orphan=[COMMIT],
        slow=[COMMIT],
    )

    async def slow(client: pymq.Client) -> None:
        """Still at work when the broker asks: the checker is not, and the commit is good all the same."""
        async with client.transaction(topic, "slow") as tx:
            said = f"asked about transaction {tx.transaction_id}: UNKNOWN"

            async def asked() -> bool:
                return said in caplog.text

            await eventually("the broker asks about a block that is running", asked)

    async with producer(servers, group, checks) as client:
        async with producer(servers, group) as dying, dying.transaction(topic, "orphan") as tx:
            await tx.unknown()
        for body in ("later", "never", "failing"):
            async with client.transaction(topic, body, tags="paid", keys=body) as tx:
                await tx.unknown()
        slowly = asyncio.create_task(slow(client))
        async with client.transaction(topic, "committed", tags="paid", keys="k", shard_by="k") as committed:
            pass
        async with client.transaction(topic, long) as tx:
            await tx.commit()
        async with client.transaction(topic, "rolled back") as tx:
            await tx.rollback()
        with pytest.raises(KeyError):
            async with client.transaction(topic, "raised"):
                raise KeyError
        expected = sorted(["committed", long, "orphan", "later", "failing", "slow"])
        async with client.consumer(fresh("group"), topic, start="first") as consumer:
            got: list[pymq.ReceivedMessage] = []

            async def all_is_decided() -> bool:
                got.extend(await take(consumer, 100, seconds=0.2))
                return {*expected} <= {*texts(got)} and checks.asked.count("never") >= 2

            await eventually("what is committed arrives", all_is_decided, seconds=120)
            await slowly
            got += await take_until_quiet(consumer, 2.0)
        if servers.kind == "pymq":
            assert texts(got) == expected
        assert sorted(set(texts(got))) == expected
        [first, *_] = [each for each in got if text(each) == "committed"]
        assert (first.msg_id, first.tags, first.keys) == (committed.transaction_id, "paid", ("k",))
        assert first.queue == committed.result.queue
    if servers.kind == "pymq":  # Apache's may ask once more when the end is there
        assert "slow" not in checks.asked
    assert checks.asked.count("failing") >= 2
    assert "the database is away" in caplog.text


async def test_a_commit_the_broker_cannot_make_is_an_error_that_says_so(servers: Cluster) -> None:
    async with producer(servers, fresh("producers")) as client:
        async with client.transaction(fresh("transactions"), "x") as tx:
            await tx.rollback()
        stranger = client.transaction(fresh("transactions"), "x")
        async with stranger:
            stranger._half.commit_log_offset += 1
            with pytest.raises(pymq.TransactionUnsettled) as failed:
                await stranger.commit()
        assert failed.value.code == 1
        assert failed.value.address == servers.broker.address
        assert failed.value.remark
