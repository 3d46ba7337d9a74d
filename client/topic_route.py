"""Where a topic is, as the client uses it (wire.md §7.4, semantics.md §11.1)."""

from __future__ import annotations

import msgspec

from pymq.protocol.bodies import MASTER_ID, PERM_READ, PERM_WRITE, MessageQueue, QueueData, TopicRouteData


class TopicRoute(msgspec.Struct, frozen=True):
    """A topic's queues and their brokers.

    Attributes:
        topic: the topic.
        writable: the queues to send to: by broker name, then queue id.
        readable: the queues to consume from: by broker name, then queue id.
        brokers: broker name → broker id → `host:port`.
        borrowed: no name server knows the topic; these are the queues that its first message will create.
    """

    topic: str
    writable: tuple[MessageQueue, ...]
    readable: tuple[MessageQueue, ...]
    brokers: dict[str, dict[int, str]]
    borrowed: bool = False


def topic_route(topic: str, data: TopicRouteData) -> TopicRoute:
    """Read a name server's answer."""
    brokers = {broker.broker_name: dict(broker.broker_addrs) for broker in data.broker_datas}
    queue_datas = sorted(data.queue_datas, key=lambda queue_data: queue_data.broker_name)
    if data.order_topic_conf:
        writable = _ordered_queues(topic, data.order_topic_conf)
    else:
        writable = [
            MessageQueue(topic, queue_data.broker_name, queue_id)
            for queue_data in queue_datas
            if queue_data.perm & PERM_WRITE and MASTER_ID in brokers.get(queue_data.broker_name, ())
            for queue_id in range(queue_data.write_queue_nums)
        ]
    readable = [
        MessageQueue(topic, queue_data.broker_name, queue_id)
        for queue_data in queue_datas
        if queue_data.perm & PERM_READ
        for queue_id in range(queue_data.read_queue_nums)
    ]
    return TopicRoute(topic, tuple(writable), tuple(readable), brokers)


def borrowed_route(topic: str, template: TopicRouteData, queue_nums: int) -> TopicRoute:
    """The route of a topic that does not exist yet, out of that of the topic it will be made from.

    No broker gets more than `queue_nums` queues. Nothing can be consumed from it.
    """

    def capped(queue_data: QueueData) -> QueueData:
        nums = min(queue_nums, queue_data.read_queue_nums)
        return msgspec.structs.replace(queue_data, read_queue_nums=nums, write_queue_nums=nums)

    data = TopicRouteData([capped(queue_data) for queue_data in template.queue_datas], template.broker_datas)
    route = topic_route(topic, data)
    return msgspec.structs.replace(route, readable=(), borrowed=True)


def _ordered_queues(topic: str, conf: str) -> list[MessageQueue]:
    """`broker-a:4;broker-b:4`: the fixed queues of an ordered topic. What cannot be read is passed over."""
    queues = []
    for part in conf.split(";"):
        name, _, nums = part.strip().rpartition(":")
        if name and nums.isdigit():
            queues += [MessageQueue(topic, name, queue_id) for queue_id in range(int(nums))]
    return queues
