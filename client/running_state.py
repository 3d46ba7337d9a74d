"""What a consumer is doing, as mqadmin's consumerStatus shows it (wire.md §5.2)."""

from __future__ import annotations

from collections.abc import Iterable

from pymq.client.consume_figures import ConsumeFigures
from pymq.client.delivery import Delivery
from pymq.client.process_queue import ProcessQueue
from pymq.protocol.bodies import ConsumerData, ConsumerRunningInfo, ProcessQueueInfo
from pymq.protocol.codes import VERSION_NAME


def running_info(
    member: ConsumerData,
    delivery: Delivery,
    figures: ConsumeFigures,
    name_servers: Iterable[str],
    started_ms: int,
) -> ConsumerRunningInfo:
    """The answer to GET_CONSUMER_RUNNING_INFO. `started_ms`: when the member joined, ms since 1970."""
    properties = {
        "PROP_NAMESERVER_ADDR": "".join(f"{address};" for address in name_servers),
        "PROP_CONSUME_TYPE": member.consume_type.value,
        "PROP_CONSUMEORDERLY": str(delivery.is_ordered).lower(),
        "PROP_THREADPOOL_CORE_SIZE": "1",
        "PROP_CLIENT_VERSION": VERSION_NAME,
        "PROP_CONSUMER_START_TIMESTAMP": str(started_ms),
        "messageModel": member.message_model.value,
        "consumeFromWhere": member.consume_from_where.value,
        "consumerGroup": member.group_name,
    }
    queues = {
        queue: _queue_info(process_queue, delivery.locked_ms(queue))
        for queue, process_queue in delivery.owned.items()
    }
    statuses = {each.topic: figures.status(each.topic) for each in member.subscription_data_set}
    return ConsumerRunningInfo(properties, list(member.subscription_data_set), queues, statuses)


def _queue_info(process_queue: ProcessQueue, locked_ms: int) -> ProcessQueueInfo:
    return ProcessQueueInfo(
        commit_offset=process_queue.committable,
        cached_msg_min_offset=process_queue.first_offset,
        cached_msg_max_offset=process_queue.last_offset,
        cached_msg_count=len(process_queue),
        cached_msg_size_in_mib=process_queue.size_bytes >> 20,
        locked=locked_ms > 0,
        last_lock_timestamp=locked_ms,
        droped=process_queue.is_dropped,
        last_pull_timestamp=process_queue.last_pull_ms,
        last_consume_timestamp=process_queue.last_consume_ms,
    )
