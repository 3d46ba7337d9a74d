"""A Spring Boot application on RocketMQ's starter against pymq's servers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.interop.apache import apache_broker, apache_name_server
from tests.interop.conftest import JavaDrivers, fresh
from tests.interop.drivers import Driver
from tests.interop.foreign import spring_driver
from tests.interop.processes import Cluster
from tests.interop.pymq_servers import pymq_broker, pymq_name_server
from tests.interop.python_client import python_client, take, text

STARTERS = ("2.2.3", "2.3.1")
"""They have RocketMQ's Java clients 5.0.0 and 5.3.0."""
LEVEL_3_MS = 2000
SETTINGS: dict[str, Any] = {"enablePropertyFilter": "true", "messageDelayLevel": "1s 1s 2s"}
ON_APACHE = os.environ.get("PYMQ_INTEROP_SERVERS")


@pytest.fixture(scope="module")
def quick_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """pymq's servers (Apache's when PYMQ_INTEROP_SERVERS names a version) that know SQL92 and retry soon."""
    folder = tmp_path_factory.mktemp("spring-servers")
    if ON_APACHE:
        name_server = apache_name_server(ON_APACHE, folder / "namesrv")
        broker = apache_broker(ON_APACHE, folder / "broker", [name_server], **SETTINGS)
    else:
        name_server = pymq_name_server(folder / "namesrv")
        broker = pymq_broker(folder / "broker", [name_server], **SETTINGS)
    made = Cluster("quick", name_server, broker)
    yield made
    made.kill()


@dataclass(frozen=True)
class Shop:
    """The application (spring/src/shop/Shop.java) and its topics."""

    driver: Driver
    cluster: Cluster
    orders: str
    steps: str
    news: str
    prices: str
    pulled: str

    def send(self, how: str, to: str, order: dict[str, Any] | None = None, **more: Any) -> Any:
        """Have it send an order, or a `text`."""
        fields = more if order is None else more | {"order": order}
        return self.driver.ask("send", how=how, to=to, **fields)

    def handled(self, listener: str, count: int, seconds: float = 30.0) -> list[dict[str, Any]]:
        """What a listener has handled, as soon as that is `count` messages, or after `seconds`."""
        found: list[dict[str, Any]] = self.driver.ask(
            "received", listener=listener, count=count, wait_ms=int(seconds * 1000)
        )
        return found

    def of(self, listener: str, order_id: str, count: int) -> list[dict[str, Any]]:
        """What a listener has handled of one order, as soon as that is `count` messages."""
        known = 0
        while True:
            entries = self.handled(listener, known + 1)
            found = [entry for entry in entries if entry["id"] == order_id]
            if len(found) >= count or len(entries) == known:
                return found
            known = len(entries)


@pytest.fixture(scope="module", params=STARTERS)
def shop(
    request: pytest.FixtureRequest,
    quick_cluster: Cluster,
    java_drivers: JavaDrivers,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shop]:
    """The application, connected."""
    topics = {kind: fresh(f"shop-{kind}") for kind in ("orders", "steps", "news", "prices", "pulled")}
    group = fresh("shop")
    with java_drivers("4.9.4").start("start_admin", namesrv=quick_cluster.namesrv) as admin:
        for topic in (*topics.values(), f"%RETRY%{group}-stock"):  # Java looks for new ones every 30 s only
            admin.admin("create_topic", addr=quick_cluster.broker.address, topic=topic, queues=4)
    settings = {f"shop.{kind}": name for kind, name in topics.items()}
    settings |= {
        "shop.group": group,
        "rocketmq.name-server": quick_cluster.namesrv,
        "rocketmq.producer.group": fresh("shop-producer"),
        "rocketmq.pull-consumer.group": fresh("shop-pull"),
        "rocketmq.pull-consumer.topic": topics["pulled"],
    }
    driver = spring_driver(request.param, tmp_path_factory.mktemp("spring"), settings)
    yield Shop(driver, quick_cluster, **topics)
    driver.close()


def test_a_template_sends_in_every_way_and_listeners_have_it_all(shop: Shop) -> None:
    first = shop.send("sync", f"{shop.orders}:book", {"id": "sync", "cents": 5}, headers={"KEYS": "k1"})
    assert first["status"] == "SEND_OK"
    assert shop.send("async", shop.orders, {"id": "async"})["status"] == "SEND_OK"
    assert shop.send("batch", shop.orders, orders=[{"id": "b0"}, {"id": "b1"}])["status"] == "SEND_OK"
    shop.send("oneway", shop.orders, {"id": "oneway"})
    shop.send("plain", shop.orders, {"id": "plain"})
    for each in ("sync", "async", "b0", "b1", "oneway", "plain"):
        assert shop.of("stock", each, 1)
    found, *_ = shop.of("stock", "sync", 1)
    assert (found["msg_id"], found["tags"], found["keys"]) == (first["msg_id"], "book", "k1")


def test_a_listener_that_throws_has_the_message_again(shop: Shop) -> None:
    shop.send("sync", shop.orders, {"id": "twice", "failures": 2})
    assert [each["reconsume_times"] for each in shop.of("stock", "twice", 3)] == [0, 1, 2]


def test_listeners_select_by_tag_and_by_sql(shop: Shop) -> None:
    shop.send("sync", f"{shop.orders}:toy", {"id": "bear", "cents": 900}, headers={"worth": 900})
    shop.send("sync", f"{shop.orders}:tool", {"id": "saw", "cents": 2000}, headers={"worth": 2000})
    shop.send("sync", f"{shop.orders}:gift", {"id": "ring", "cents": 9000}, headers={"worth": 9000})
    for listener, selected in (("gifts", {"bear", "ring"}), ("audit", {"ring", "saw"})):
        for each in selected:
            assert shop.of(listener, each, 1)
        assert {each["id"] for each in shop.handled(listener, 0)} == selected


def test_ordered_sends_are_handled_in_order(shop: Shop) -> None:
    steps = [f"step {number}" for number in range(20)]
    for step in steps:
        shop.send("ordered", shop.steps, text=step, hash="order-7")
    assert [each["step"] for each in shop.handled("steps", len(steps))] == steps


def test_delays_by_level_and_by_milliseconds(shop: Shop) -> None:
    delays = {"level": LEVEL_3_MS} if ON_APACHE else {"level": LEVEL_3_MS, "delay": 1500}
    for how, delay_ms in delays.items():
        sent_ms = int(time.time() * 1000)
        shop.send(how, shop.orders, {"id": how}, level=3, delay_ms=delay_ms)
        handled, *_ = shop.of("stock", how, 1)
        assert handled["at_ms"] >= sent_ms + delay_ms


def test_transactions_are_committed_rolled_back_and_asked_about(shop: Shop) -> None:
    states = {
        decision: shop.send(
            "transaction",
            shop.orders,
            {"id": f"tx {decision}"},
            decision=decision,
            headers={"KEYS": decision},
        )["state"]
        for decision in ("COMMIT", "ROLLBACK", "UNKNOWN")
    }
    assert states == {
        "COMMIT": "COMMIT_MESSAGE",
        "ROLLBACK": "ROLLBACK_MESSAGE",
        "UNKNOWN": "UNKNOW",
    }
    assert shop.of("stock", "tx COMMIT", 1)
    assert shop.of("stock", "tx UNKNOWN", 1)
    assert {each["keys"] for each in shop.handled("checks", 1)} == {"UNKNOWN"}
    assert [each for each in shop.handled("stock", 0) if each["id"] == "tx ROLLBACK"] == []


def test_a_request_has_its_reply(shop: Shop) -> None:
    assert shop.driver.ask("request", to=shop.prices, order={"id": "book", "cents": 5}) == "book costs 5"


def test_broadcasting_and_pulling(shop: Shop) -> None:
    shop.send("sync", shop.news, text="open")
    assert shop.handled("news", 1) == [{"news": "open"}]
    if not ON_APACHE:  # its brokers take a 5.x client's lite pull from version 5.0 on
        shop.send("sync", shop.pulled, text="for who asks")
        assert shop.driver.ask("pull", wait_ms=20_000) == ["for who asks"]


async def test_python_and_spring_read_each_other(shop: Shop) -> None:
    async with python_client(shop.cluster) as mq:
        await mq.send(shop.orders, '{"id": "from python", "cents": 7, "failures": 0}', tags="gift")
        async with mq.consumer(fresh("python"), shop.news, start="first") as consumer:
            sent = shop.send("sync", f"{shop.news}:t", text="to python")
            got = await take(consumer, 2)
    assert [(text(each), each.tags) for each in got if each.msg_id == sent["msg_id"]] == [("to python", "t")]
    assert shop.of("gifts", "from python", 1)[0]["cents"] == 7
