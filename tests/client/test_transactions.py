"""Transactions, as the broker sees them and as their user does."""

from __future__ import annotations

import asyncio
import datetime
import threading
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from pymq.client import (
    Client,
    ClientClosed,
    Message,
    MessageInvalid,
    ReceivedMessage,
    SendFailed,
    TransactionState,
    TransactionUnsettled,
    transaction_states,
)
from pymq.client.transaction_checks import Checker
from pymq.errors import ConfigError, ConnectFailed, ResponseError
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.messaging import EndTransactionRequest, SendMessageRequestV2
from pymq.protocol.message import decode_record
from pymq.transport.connection import Connection
from pymq.transport.dispatch import Answer
from tests.client.fake_cluster import FAST, HALF_TOPIC, FakeBroker, FakeCluster, queue, until

END = RequestCode.END_TRANSACTION
COMMIT, ROLLBACK, UNKNOWN = TransactionState
CODES = {COMMIT: 8, ROLLBACK: 12, UNKNOWN: 0}


def producer(cluster: FakeCluster, checker: Checker | None = None, namespace: str = "") -> Client:
    return Client(
        cluster.name_servers,
        settings=FAST,
        producer_group="shop",
        transaction_checker=checker,
        namespace=namespace,
    )


@pytest.fixture
async def mq(cluster: FakeCluster) -> AsyncIterator[Client]:
    """A producer without a checker."""
    async with producer(cluster) as client:
        yield client


class Recorder:
    """A checker that says what it is told to, and keeps what it was asked."""

    def __init__(self, *answers: TransactionState | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[ReceivedMessage] = []

    async def __call__(self, message: ReceivedMessage) -> TransactionState:
        self.asked.append(message)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def ends(broker: FakeBroker) -> list[EndTransactionRequest]:
    return broker.requests(EndTransactionRequest)


def told(broker: FakeBroker) -> list[int]:
    return [end.commit_or_rollback for end in ends(broker)]


async def connection_of(client: Client, broker: FakeBroker) -> Connection:
    """The connection by which the broker knows the producer."""
    await until(lambda: client.client_id in broker.producers)
    return broker.producers[client.client_id]


async def wait_for(condition: Callable[[], bool]) -> None:
    await until(condition, within_s=20)


# -- the block ----------------------------------------------------------------------------------------


async def test_the_end_of_the_block_commits_and_nobody_sees_the_message_before(
    cluster: FakeCluster, broker: FakeBroker, mq: Client
) -> None:
    async with mq.transaction("orders", b"body", tags="t", keys="o-1", queue=queue(2)) as tx:
        assert sum(cluster.bodies()) == 0
        assert (tx.state, tx.result.queue, tx.result.msg_id) == (None, queue(2), tx.transaction_id)
    assert tx.state is COMMIT
    assert cluster.bodies() == [0, 0, 1, 0]
    stored = decode_record(broker.queues["orders", 2][0])
    properties = stored.read_properties()
    assert stored.body == b"body"
    assert properties["UNIQ_KEY"] == tx.transaction_id
    assert (properties["TRAN_MSG"], properties["PGROUP"]) == ("true", "shop")
    assert (properties["TAGS"], properties["KEYS"]) == ("t", "o-1")


async def test_a_broker_is_told_what_javas_clients_tell_it(broker: FakeBroker, mq: Client) -> None:
    await mq.send("orders", b"so that the half message is not the first in the log")
    async with mq.transaction("orders", b"x") as tx:
        pass
    [sent] = [each for each in broker.requests(SendMessageRequestV2) if each.sys_flag]
    assert sent.sys_flag == 4
    half = decode_record(broker.queues[HALF_TOPIC, 0][0])
    assert ends(broker) == [
        EndTransactionRequest("shop", 0, half.physical_offset, 8, tx.transaction_id, False, tx.transaction_id)
    ]
    assert half.physical_offset > 0


async def test_an_exception_rolls_back_and_goes_on_to_the_caller(
    cluster: FakeCluster, broker: FakeBroker, mq: Client
) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with mq.transaction("orders", b"x") as tx:
            raise KeyError("mine")
    assert tx.state is ROLLBACK
    assert told(broker) == [12]
    assert sum(cluster.bodies()) == 0


async def test_an_exception_goes_on_even_when_the_rollback_fails(
    broker: FakeBroker, mq: Client, caplog: pytest.LogCaptureFixture
) -> None:
    broker.refusals[END] = [ResponseError(ResponseCode.SYSTEM_ERROR, "no such half")]
    with pytest.raises(KeyError, match="mine"):
        async with mq.transaction("orders", b"x"):
            raise KeyError("mine")
    assert "the ROLLBACK of transaction" in caplog.text
    assert "no such half" in caplog.text


@pytest.mark.parametrize("state", [COMMIT, ROLLBACK, UNKNOWN])
async def test_what_the_block_says_itself_is_not_said_again(
    broker: FakeBroker, mq: Client, state: TransactionState
) -> None:
    async with mq.transaction("orders", b"x") as tx:
        await {COMMIT: tx.commit, ROLLBACK: tx.rollback, UNKNOWN: tx.unknown}[state]()
        if state is not UNKNOWN:
            await {COMMIT: tx.commit, ROLLBACK: tx.rollback}[state]()
    assert tx.state is state
    await until(lambda: told(broker) == [CODES[state]])


async def test_a_transaction_ends_in_one_way_only(cluster: FakeCluster, mq: Client) -> None:
    tx = mq.transaction("orders", b"x")
    with pytest.raises(RuntimeError, match="has not begun"):
        await tx.commit()
    with pytest.raises(RuntimeError, match="has not begun"):
        _ = tx.result
    async with tx:
        await tx.rollback()
        for other in (tx.commit, tx.unknown):
            with pytest.raises(RuntimeError, match="ended already, by ROLLBACK"):
                await other()
    with pytest.raises(RuntimeError, match="begun before"):
        await tx.__aenter__()
    assert sum(cluster.bodies()) == 0


async def test_one_that_was_left_open_can_be_ended_later(cluster: FakeCluster, mq: Client) -> None:
    async with mq.transaction("orders", b"x") as tx:
        await tx.unknown()
    assert sum(cluster.bodies()) == 0
    await tx.commit()
    assert sum(cluster.bodies()) == 1


async def test_a_long_body_is_compressed_and_consumers_get_it_whole(broker: FakeBroker, mq: Client) -> None:
    async with mq.transaction("orders", b"x" * 5000, queue=queue(0)):
        pass
    [half] = [decode_record(each) for each in broker.queues[HALF_TOPIC, 0]]
    assert half.sys_flag == 4 | 1
    assert half.read_body() == b"x" * 5000


# -- what cannot be -----------------------------------------------------------------------------------


async def test_what_no_broker_would_take_is_said_at_once(mq: Client) -> None:
    for message in (
        Message(b"x", delay=datetime.timedelta(seconds=1)),
        Message(b"x", delay_level=3),
        Message(b"x", deliver_at=datetime.datetime.now()),
    ):
        with pytest.raises(MessageInvalid, match="cannot be delayed"):
            mq.transaction("orders", message)
    for seconds in (0, -1, float("nan"), True, "5"):
        with pytest.raises(MessageInvalid, match="check_immunity="):
            mq.transaction("orders", b"x", check_immunity=seconds)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout="):
        mq.transaction("orders", b"x", timeout=0)


async def test_a_checker_needs_a_group_of_its_own(cluster: FakeCluster) -> None:
    with pytest.raises(ConfigError, match="producer_group"):
        Client(cluster.name_servers, transaction_checker=Recorder())
    with pytest.raises(ConfigError, match="transaction_checker=5"):
        producer(cluster, 5)  # type: ignore[arg-type]


async def test_the_immunity_is_told_in_whole_seconds(broker: FakeBroker, mq: Client) -> None:
    async with mq.transaction("orders", b"x", check_immunity=1.2):
        pass
    half = decode_record(broker.queues[HALF_TOPIC, 0][0])
    assert half.read_properties()["CHECK_IMMUNITY_TIME_IN_SECONDS"] == "2"


async def test_a_half_message_that_is_not_stored_runs_no_block(broker: FakeBroker, mq: Client) -> None:
    broker.refusals[RequestCode.SEND_MESSAGE_V2] = [ResponseError(ResponseCode.MESSAGE_ILLEGAL, "too long")]
    with pytest.raises(SendFailed, match="too long"):
        async with mq.transaction("orders", b"x"):
            pytest.fail("the block ran")
    assert ends(broker) == []


async def test_a_broker_that_takes_no_transactions_is_named_with_its_setting(
    broker: FakeBroker, mq: Client
) -> None:
    refusal = ResponseError(ResponseCode.NO_PERMISSION, "forbidden")
    broker.refusals[RequestCode.SEND_MESSAGE_V2] = [refusal] * 4
    with pytest.raises(SendFailed, match="rejectTransactionMessage"):
        await mq.transaction("orders", b"x").__aenter__()
    with pytest.raises(SendFailed) as failed:
        await mq.send("orders", b"x", shard_by="k")
    assert "rejectTransactionMessage" not in str(failed.value)


@pytest.mark.parametrize("code", [10, 11, 12])
async def test_a_half_message_that_is_not_stored_safely_is_rolled_back(
    broker: FakeBroker, mq: Client, code: int
) -> None:
    broker.status = ResponseCode(code)
    with pytest.raises(SendFailed) as failed:
        async with mq.transaction("orders", b"x"):
            pytest.fail("the block ran")
    error = failed.value
    assert (error.code, error.broker, error.address) == (code, broker.name, broker.address)
    assert ResponseCode(code).name in error.remark
    assert "begin the transaction again" in str(error)
    await until(lambda: told(broker) == [12])


# -- ends that fail -----------------------------------------------------------------------------------


async def test_a_commit_is_tried_again_while_its_broker_is_not_ready(
    cluster: FakeCluster, broker: FakeBroker, mq: Client
) -> None:
    codes = (ResponseCode.SYSTEM_BUSY, ResponseCode.SERVICE_NOT_AVAILABLE, ResponseCode.SLAVE_NOT_AVAILABLE)
    broker.refusals[END] = [ResponseError(code, "not now") for code in codes]
    async with mq.transaction("orders", b"x"):
        pass
    assert told(broker) == [8] * 4
    assert sum(cluster.bodies()) == 1


@pytest.mark.parametrize("code", [ResponseCode.FLUSH_DISK_TIMEOUT, ResponseCode.FLUSH_SLAVE_TIMEOUT])
async def test_a_commit_that_is_stored_less_safely_is_done_and_a_warning_says_so(
    broker: FakeBroker, mq: Client, caplog: pytest.LogCaptureFixture, code: ResponseCode
) -> None:
    broker.refusals[END] = [ResponseError(code)]
    async with mq.transaction("orders", b"x") as tx:
        pass
    assert told(broker) == [8]
    assert tx.state is COMMIT
    assert f"has done it, but {code.name}" in caplog.text


async def test_a_commit_waits_for_its_broker_to_come_back(
    cluster: FakeCluster, broker: FakeBroker, mq: Client
) -> None:
    async with mq.transaction("orders", b"x", timeout=30) as tx:
        await broker.stop()
        committing = asyncio.create_task(tx.commit())
        await asyncio.sleep(0.05)
        assert not committing.done()
        await broker.restart()
        await committing
    assert sum(cluster.bodies()) == 1


async def test_a_commit_that_nobody_confirmed_says_so_and_is_repeated_when_the_broker_asks(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    checker = Recorder()
    async with producer(cluster, checker) as mq:
        with pytest.raises(TransactionUnsettled) as failed:
            async with mq.transaction("orders", b"x", timeout=1.5) as tx:
                await broker.stop()
        error = failed.value
        assert (error.state, error.topic, error.msg_id) == (COMMIT, "orders", tx.transaction_id)
        assert (error.broker, error.address, error.code) == (broker.name, broker.address, None)
        assert len(error.attempts) > 1
        assert isinstance(error.__cause__, ConnectFailed)
        text = str(error)
        for word in (
            tx.transaction_id,
            broker.address,
            f"{len(error.attempts)} attempts",
            "will ask",
            "shop",
        ):
            assert word in text
        assert "\n" not in text
        with pytest.raises(RuntimeError, match="ended already, by COMMIT"):
            await tx.rollback()

        await broker.restart()
        copy = broker.check(await connection_of_anew(mq, broker))
        await wait_for(lambda: sum(cluster.bodies()) == 1)
        assert ends(broker)[-1] == copy
    assert checker.asked == []


async def test_an_unconfirmed_commit_is_remembered_whatever_is_committed_since(
    cluster: FakeCluster, broker: FakeBroker, mq: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction_states, "REMEMBERED", 5)
    broker.refusals[END] = [ResponseError(ResponseCode.SYSTEM_ERROR, "no")]
    with pytest.raises(TransactionUnsettled):
        async with mq.transaction("orders", b"first"):
            pass
    for _ in range(10):
        async with mq.transaction("orders", b"x"):
            pass
    copy = broker.check(await connection_of(mq, broker), 0)
    await wait_for(lambda: len(ends(broker)) == 12)
    assert ends(broker)[-1] == copy
    assert sum(cluster.bodies()) == 11


async def connection_of_anew(client: Client, broker: FakeBroker) -> Connection:
    """The connection of the producer after a restart of the broker."""
    await wait_for(lambda: any(each is broker.producers.get(client.client_id) for each in broker.connections))
    return broker.producers[client.client_id]


async def test_a_refused_commit_says_what_the_broker_said(broker: FakeBroker, mq: Client) -> None:
    broker.refusals[END] = [
        ResponseError(ResponseCode.SYSTEM_ERROR, "Find prepared transaction message failed")
    ]
    with pytest.raises(TransactionUnsettled, match="Find prepared transaction message failed") as failed:
        async with mq.transaction("orders", b"x"):
            pass
    assert (failed.value.code, len(failed.value.attempts)) == (1, 1)
    assert "TRANS_CHECK_MAX_TIME_TOPIC" in str(failed.value)


@pytest.mark.parametrize("is_pymq", [True, False])
async def test_only_a_broker_that_commits_once_is_told_twice(
    cluster: FakeCluster, broker: FakeBroker, is_pymq: bool
) -> None:
    """Apache's brokers store a message again that is committed again; they do not speak msgpack."""
    async with producer(cluster) as mq:
        mq._instance._pool._offer_msgpack = is_pymq
        async with mq.transaction("orders", b"x", timeout=30) as tx:
            broker.silent.add(END)
            committing = asyncio.create_task(tx.commit())
            await until(lambda: told(broker) == [8])
            broker.silent.clear()
            broker.connections[0].abort()  # the answer never comes
            if is_pymq:
                await committing
            else:
                with pytest.raises(TransactionUnsettled, match="was lost"):
                    await committing
        assert told(broker) == [8] * (2 if is_pymq else 1)


async def test_a_commit_goes_on_when_who_waits_for_it_is_cancelled(
    cluster: FakeCluster, broker: FakeBroker, mq: Client
) -> None:
    broker.refusals[END] = [ResponseError(ResponseCode.SYSTEM_BUSY, "not now")]

    async def story() -> None:
        async with mq.transaction("orders", b"x"):
            pass

    task = asyncio.create_task(story())
    await until(lambda: told(broker) == [8])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: sum(cluster.bodies()) == 1)


async def test_two_who_commit_at_once_commit_once(broker: FakeBroker, mq: Client) -> None:
    async with mq.transaction("orders", b"x") as tx:
        await asyncio.gather(tx.commit(), tx.commit())
    await tx.commit()
    assert told(broker) == [8]


async def test_closing_the_client_waits_for_an_end_under_way(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    before = asyncio.all_tasks()
    async with producer(cluster, Recorder()) as mq:
        async with mq.transaction("orders", b"x") as tx:
            broker.refusals[END] = [ResponseError(ResponseCode.SYSTEM_BUSY, "not now")] * 2
            committing = asyncio.create_task(tx.commit())
            await until(lambda: len(ends(broker)) == 1)
            await mq.close()
        await committing
    assert sum(cluster.bodies()) == 1
    assert asyncio.all_tasks() == before


async def test_the_block_of_a_closed_client_leaves_its_transaction_open(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    mq = producer(cluster)
    with pytest.raises(ClientClosed):
        await mq.transaction("orders", b"x").__aenter__()
    await mq.start()
    with pytest.raises(ClientClosed, match="stays open"):
        async with mq.transaction("orders", b"x"):
            await mq.close()
    assert ends(broker) == []


# -- a block that is stopped --------------------------------------------------------------------------


async def _cancel_a_block(mq: Client) -> None:
    began = asyncio.Event()

    async def story() -> None:
        async with mq.transaction("orders", b"x"):
            began.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(story())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_block_is_left_to_the_checker(cluster: FakeCluster, broker: FakeBroker) -> None:
    checker = Recorder(COMMIT)
    async with producer(cluster, checker) as mq:
        await _cancel_a_block(mq)
        await until(lambda: told(broker) == [0])
        broker.check(await connection_of(mq, broker))
        await until(lambda: sum(cluster.bodies()) == 1)
    assert len(checker.asked) == 1


async def test_a_cancelled_block_is_rolled_back_where_nobody_could_tell(
    broker: FakeBroker, mq: Client
) -> None:
    await _cancel_a_block(mq)
    await until(lambda: told(broker) == [12])
    broker.check(await connection_of(mq, broker))
    await until(lambda: told(broker) == [12, 12])


# -- check-back ---------------------------------------------------------------------------------------


async def test_the_checker_gets_the_message_and_its_word_counts(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    checker = Recorder(UNKNOWN, ROLLBACK, COMMIT)
    async with producer(cluster, checker) as mq:
        for state in (UNKNOWN, ROLLBACK, COMMIT):
            message = Message(b"x" * 5000, tags="t", keys="o-1", properties={"own": "1"})
            count = len(ends(broker)) + 1
            async with mq.transaction("orders", message, queue=queue(3)) as tx:
                await tx.unknown()
            await until(lambda count=count: len(ends(broker)) == count)  # type: ignore[misc]
            copy = broker.check(await connection_of(mq, broker))
            await until(lambda count=count: len(ends(broker)) > count)  # type: ignore[misc]
            expected = msgspec.structs.replace(copy, commit_or_rollback=CODES[state])
            assert ends(broker)[-1] == expected
            asked = checker.asked[-1]
            assert (asked.topic, asked.queue, asked.body) == ("orders", queue(3), b"x" * 5000)
            assert (asked.msg_id, asked.tags, asked.keys) == (tx.transaction_id, "t", ("o-1",))
            assert asked.properties["own"] == "1"
    assert cluster.bodies() == [0, 0, 0, 1]


async def test_a_checker_that_fails_is_asked_again(
    cluster: FakeCluster, broker: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    checker = Recorder(KeyError("the database is away"), "yes", COMMIT)  # type: ignore[arg-type]
    async with producer(cluster, checker) as mq:
        async with mq.transaction("orders", b"x") as tx:
            await tx.unknown()
        for count in range(3):
            broker.check(await connection_of(mq, broker))
            await until(lambda count=count: len(ends(broker)) == count + 2)  # type: ignore[misc]
    assert told(broker) == [0, 0, 0, 8]
    assert "the database is away" in caplog.text
    assert "said 'yes', which is no pymq.TransactionState" in caplog.text


async def test_a_checker_that_takes_too_long_is_given_up_and_asked_again(
    cluster: FakeCluster, broker: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async def checker(message: ReceivedMessage) -> TransactionState:
        await asyncio.sleep(0 if ends(broker)[1:] else 60)
        return COMMIT

    settings = msgspec.structs.replace(FAST, transaction_check_timeout_s=0.05)
    async with Client(
        cluster.name_servers, settings=settings, producer_group="shop", transaction_checker=checker
    ) as mq:
        async with mq.transaction("orders", b"x") as tx:
            await tx.unknown()
        for count in range(2):
            broker.check(await connection_of(mq, broker))
            await until(lambda count=count: len(ends(broker)) == count + 2)  # type: ignore[misc]
    assert told(broker) == [0, 0, 8]
    assert "longer than 0.05 s" in caplog.text


async def test_a_plain_function_checks_in_a_thread(cluster: FakeCluster, broker: FakeBroker) -> None:
    threads = []

    def checker(message: ReceivedMessage) -> TransactionState:
        threads.append(threading.current_thread())
        return COMMIT

    async with producer(cluster, checker) as mq:
        async with mq.transaction("orders", b"x") as tx:
            await tx.unknown()
        broker.check(await connection_of(mq, broker))
        await until(lambda: sum(cluster.bodies()) == 1)
    assert threads[0] is not threading.main_thread()


async def test_while_the_block_runs_nobody_else_decides_and_its_commit_names_the_newest_copy(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    checker = Recorder()
    async with producer(cluster, checker) as mq:
        async with mq.transaction("orders", b"x"):
            for count in (1, 2):
                copy = broker.check(await connection_of(mq, broker))
                await until(lambda count=count: told(broker) == [0] * count)  # type: ignore[misc]
        assert told(broker) == [0, 0, 8]
        assert ends(broker)[-1] == msgspec.structs.replace(copy, from_transaction_check=False)
        assert copy.tran_state_table_offset == 2
    assert checker.asked == []
    assert sum(cluster.bodies()) == 1


async def test_a_transaction_is_checked_once_at_a_time_and_the_answer_is_for_who_asked_last(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    asked = []
    decided = asyncio.Event()

    async def checker(message: ReceivedMessage) -> TransactionState:
        asked.append(message)
        await decided.wait()
        return COMMIT

    async with producer(cluster, checker) as mq:
        async with mq.transaction("orders", b"x") as tx:
            await tx.unknown()
        connection = await connection_of(mq, broker)
        broker.check(connection)
        await until(lambda: len(asked) == 1)
        copies = [broker.check(connection) for _ in range(3)]
        await mq.send("orders", b"its answer comes behind the questions", queue=queue(0))
        decided.set()
        await until(lambda: told(broker) == [0, 8])
    assert ends(broker)[-1] == copies[-1]
    assert len(asked) == 1
    assert cluster.bodies() in ([2, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1])


async def test_while_a_commit_is_being_told_a_question_is_not_answered_by_another_one(
    cluster: FakeCluster, broker: FakeBroker, mq: Client
) -> None:
    async with mq.transaction("orders", b"x", timeout=30) as tx:
        broker.silent.add(END)
        committing = asyncio.create_task(tx.commit())
        await until(lambda: told(broker) == [8])
        broker.check(await connection_of(mq, broker))
        await until(lambda: told(broker) == [8, 0])
        broker.silent.clear()
        committing.cancel()


async def test_without_a_checker_the_last_word_of_the_block_is_the_answer(
    cluster: FakeCluster, broker: FakeBroker, mq: Client
) -> None:
    async with mq.transaction("orders", b"x"):
        pass
    for queue_id in range(4):
        broker.queues["orders", queue_id].clear()
    broker.check(await connection_of(mq, broker))  # a power cut took the commit: it asks again
    await until(lambda: told(broker) == [8, 8])


async def test_a_message_that_was_delivered_is_not_committed_again(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    """A broker that asks just when the commit comes asks about a copy that the commit did not name."""
    checker = Recorder(COMMIT)
    async with producer(cluster, checker) as mq:
        async with mq.transaction("orders", b"x"):
            pass
        copy = broker.check(await connection_of(mq, broker))
        await until(lambda: told(broker) == [8, 12])
        assert ends(broker)[-1] == msgspec.structs.replace(copy, commit_or_rollback=12)
        async with mq.transaction("orders", b"by the checker") as tx:
            await tx.unknown()
        for count in (1, 2):
            checker.answers = [COMMIT]
            broker.check(await connection_of(mq, broker))
            await until(lambda count=count: len(ends(broker)) == 3 + count)  # type: ignore[misc]
        assert told(broker) == [8, 12, 0, 8, 12]
    assert sum(cluster.bodies()) == 2


async def test_what_nobody_here_knows_is_said_to_be_unknown_and_who_should_is_named(
    cluster: FakeCluster, broker: FakeBroker, mq: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with producer(cluster) as other, other.transaction("orders", b"x") as tx:
        await tx.unknown()
        await mq.send("orders", b"y")
        broker.check(await connection_of(mq, broker))
        await until(lambda: told(broker) == [0, 0])
    assert "give a transaction_checker to the clients of producer group shop" in caplog.text


async def test_a_producer_that_has_died_is_replaced_by_one_that_has_sent_nothing(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    async with producer(cluster) as first, first.transaction("orders", b"x") as tx:
        await tx.unknown()
    checker = Recorder(COMMIT)
    async with producer(cluster, checker) as second:
        broker.check(await connection_of(second, broker))
        await until(lambda: sum(cluster.bodies()) == 1)
        [heartbeat] = [each for each in broker.heartbeats if each.client_id == second.client_id][:1]
        assert [each.group_name for each in heartbeat.producer_data_set] == ["shop"]
    assert checker.asked[0].msg_id == tx.transaction_id


async def test_a_checker_is_known_though_a_name_server_is_away(cluster: FakeCluster) -> None:
    addresses = f"127.0.0.1:1;{cluster.name_servers}"
    for _ in range(3):
        async with Client(
            addresses, settings=FAST, producer_group="shop", transaction_checker=Recorder()
        ) as mq:
            await connection_of(mq, cluster.brokers[0])


class CannotListBrokers(FakeCluster):
    def _cluster(self, request: object) -> Answer:
        return Answer(ResponseCode.REQUEST_CODE_NOT_SUPPORTED, remark="no such request")


async def test_a_name_server_that_cannot_list_all_brokers_does_not_keep_routes_from_being_fresh() -> None:
    async with CannotListBrokers() as cluster, producer(cluster, Recorder()) as mq:
        await mq.send("orders", b"x")
        await connection_of(mq, cluster.brokers[0])
        cluster.queue_nums = 7
        routes = mq._instance.routes
        await wait_for(lambda: (route := routes.known("orders")) is not None and len(route.writable) == 7)


async def test_a_question_about_another_group_is_not_answered(
    cluster: FakeCluster, broker: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with producer(cluster) as mq, mq.transaction("orders", b"x") as tx:
        await tx.unknown()
    checker = Recorder(COMMIT)
    async with Client(
        cluster.name_servers, settings=FAST, producer_group="other", transaction_checker=checker
    ) as other:
        broker.check(await connection_of(other, broker))
        await until(lambda: "producer group 'shop', and this client is of 'other'" in caplog.text)
    assert checker.asked == []
    assert told(broker) == [0]


def store_unheard(broker: FakeBroker) -> None:
    """Store the half message that was sent last, and end the connection before anything is said of it."""
    broker.silent.clear()
    properties = broker.requests(SendMessageRequestV2)[-1].properties
    broker.put(HALF_TOPIC, 0, b"x", f"{properties}\x02REAL_TOPIC\x01orders\x02REAL_QID\x010")
    for connection in broker.connections:
        connection.abort()


async def test_of_two_brokers_that_have_the_half_message_only_the_one_that_said_so_commits(
    cluster: FakeCluster,
) -> None:
    async with FakeCluster(brokers=2) as two, producer(two) as mq:
        for broker in two.brokers:
            broker.silent.add(RequestCode.SEND_MESSAGE_V2)
        tx = mq.transaction("orders", b"x")
        entering = asyncio.create_task(tx.__aenter__())
        await until(lambda: any(each.requests(SendMessageRequestV2) for each in two.brokers))
        first, second = sorted(two.brokers, key=lambda each: not each.requests(SendMessageRequestV2))
        second.silent.clear()
        store_unheard(first)
        await entering
        await tx.commit()
        assert tx.result.queue.broker_name == second.name
        first.check(await connection_of_anew(mq, first))
        await wait_for(lambda: told(first) == [12])
        assert told(second) == [8]


async def test_a_half_message_whose_send_failed_is_rolled_back_though_the_broker_has_it(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    checker = Recorder()
    settings = msgspec.structs.replace(FAST, send_retries=0)
    async with Client(
        cluster.name_servers, settings=settings, producer_group="shop", transaction_checker=checker
    ) as mq:
        broker.silent.add(RequestCode.SEND_MESSAGE_V2)
        tx = mq.transaction("orders", b"x")
        entering = asyncio.create_task(tx.__aenter__())
        await until(lambda: bool(broker.requests(SendMessageRequestV2)))
        store_unheard(broker)
        with pytest.raises(SendFailed) as failed:
            await entering
        assert failed.value.msg_id == tx.transaction_id
        assert "may be stored all the same: no consumer gets it" in failed.value.hint
        broker.check(await connection_of_anew(mq, broker))
        await wait_for(lambda: told(broker) == [12])
    assert checker.asked == []


async def test_in_a_namespace_brokers_see_it_and_nobody_else(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    cluster.topics.append("tenant%orders")
    checker = Recorder(COMMIT)
    async with producer(cluster, checker, namespace="tenant") as mq:
        async with mq.transaction("orders", b"x", queue=queue(1)) as tx:
            assert tx.result.queue == queue(1)
            await tx.unknown()
        broker.check(await connection_of(mq, broker))
        await until(lambda: sum(cluster.bodies("tenant%orders")) == 1)
    assert ends(broker)[-1].producer_group == "tenant%shop"
    assert (checker.asked[0].topic, checker.asked[0].queue) == ("orders", queue(1))
