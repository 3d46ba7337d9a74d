"""What tools ask of the broker itself: figures (28), settings (26), and how far delays are (45)."""

from __future__ import annotations

from collections.abc import Iterable

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.delay_offsets import DelayOffsetTable
from pymq.broker.figures import Figures
from pymq.clock import Clock
from pymq.config import properties_text
from pymq.disk import Disk
from pymq.protocol.bodies.tables import KVTable
from pymq.protocol.codes import VERSION, VERSION_NAME, RequestCode
from pymq.protocol.headers.administration import (
    GetAllDelayOffsetRequest,
    GetBrokerConfigRequest,
    GetBrokerConfigResponse,
    GetBrokerRuntimeInfoRequest,
)
from pymq.store.messagestore import MessageStore
from pymq.store.tags_codes import SCHEDULE_TOPIC
from pymq.transport.dispatch import Answer, Request, Row, row

GIB = 1024**3


class BrokerInfoProcessor:
    """Serves figures and settings."""

    def __init__(
        self,
        config: BrokerConfig,
        figures: Figures,
        store: MessageStore,
        delay_offsets: DelayOffsetTable,
        disk: Disk,
        clock: Clock,
    ) -> None:
        self._config = config
        self._figures = figures
        self._store = store
        self._delay_offsets = delay_offsets
        self._disk = disk
        self._clock = clock

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [
            row(GetBrokerRuntimeInfoRequest, self.runtime),
            row(GetBrokerConfigRequest, self.settings),
            row(GetAllDelayOffsetRequest, self.delay_offsets),
        ]

    def settings(self, request: Request[GetBrokerConfigRequest]) -> Answer:
        """The effective configuration as properties text."""
        return Answer(0, GetBrokerConfigResponse(), properties_text(self._config).encode())

    def delay_offsets(self, request: Request[GetAllDelayOffsetRequest]) -> Answer:
        """How far the delay levels are delivered."""
        return Answer(body=self._delay_offsets.body().encode())

    def runtime(self, request: Request[GetBrokerRuntimeInfoRequest]) -> Answer:
        """The keys that mqadmin and the dashboard read (wire.md §5.3); all values are text."""
        table = {**self._program(), **self._traffic(), **self._storage(), **self._queues(), **self._delayed()}
        return Answer(body=KVTable({key: str(value) for key, value in table.items()}).encode())

    def _program(self) -> dict[str, object]:
        seconds = (self._clock.now_ms() - self._figures.started_ms) // 1000
        days, hours, minutes = seconds // 86_400, seconds // 3600 % 24, seconds // 60 % 60
        return {
            "bootTimestamp": self._figures.started_ms,
            "brokerVersion": VERSION,
            "brokerVersionDesc": VERSION_NAME,
            "runtime": f"[ {days} days, {hours} hours, {minutes} minutes, {seconds % 60} seconds ]",
            "startAcceptSendRequestTimeStamp": self._config.start_accept_send_request_time_stamp,
        }

    def _traffic(self) -> dict[str, object]:
        figures = self._figures
        average = figures.put_bytes / figures.put_messages if figures.put_messages else 0
        transferred = figures.rates("gets")
        return {
            "putTps": figures.rates("puts"),
            "getTransferedTps": transferred,
            "getTransferredTps": transferred,
            "getFoundTps": figures.rates("finds"),
            "getMissTps": figures.rates("misses"),
            "getTotalTps": figures.rates("pulls"),
            "putMessageTimesTotal": figures.put_messages,
            "putMessageSizeTotal": figures.put_bytes,
            "putMessageAverageSize": average,
            "putMessageFailedTimes": figures.put_failures,
            "msgPutTotalTodayNow": figures.put_messages,
            "msgPutTotalTodayMorning": figures.puts_this_morning,
            "msgPutTotalYesterdayMorning": figures.puts_yesterday_morning,
            "msgGetTotalTodayNow": figures.get_messages,
            "msgGetTotalTodayMorning": figures.gets_this_morning,
            "msgGetTotalYesterdayMorning": figures.gets_yesterday_morning,
        }

    def _storage(self) -> dict[str, object]:
        store = self._store
        folder = self._config.commit_log_folder
        usage = store.disk_usage()
        ratio = round(usage.ratio, 4)
        return {
            "commitLogMinOffset": store.commit_log_min_offset,
            "commitLogMaxOffset": store.commit_log_max_offset,
            "commitLogDirCapacity": (
                f"Total : {usage.total / GIB:.1f} GiB, Free : {usage.free / GIB:.1f} GiB."
            ),
            "commitLogDiskRatio": ratio,
            f"commitLogDiskRatio_{folder}": ratio,
            "consumeQueueDiskRatio": round(self._disk.usage(self._config.store_path_root_dir).ratio, 4),
            "dispatchBehindBytes": store.dispatch_behind_bytes,
            "earliestMessageTimeStamp": store.earliest_log_time(),
            "remainHowManyDataToFlush": f"{store.remaining_to_flush} B",
        }

    def _delayed(self) -> dict[str, object]:
        """For each delay level that was used: the next message to deliver, and the number after the last."""
        return {
            f"scheduleMessageOffset_{level}": (
                f"{offset},{self._store.max_offset(SCHEDULE_TOPIC, level - 1)}"
            )
            for level, offset in sorted(self._delay_offsets.body().offset_table.items())
        }

    def _queues(self) -> dict[str, object]:
        """There are no thread pools here, so nothing ever waits in front of one."""
        table: dict[str, object] = {"pageCacheLockTimeMills": 0}
        capacities = {
            "send": self._config.send_thread_pool_queue_capacity,
            "pull": self._config.pull_thread_pool_queue_capacity,
            "query": self._config.query_thread_pool_queue_capacity,
        }
        for name, capacity in capacities.items():
            table[f"{name}ThreadPoolQueueCapacity"] = capacity
            table[f"{name}ThreadPoolQueueSize"] = 0
            table[f"{name}ThreadPoolQueueHeadWaitTimeMills"] = 0
        return table
