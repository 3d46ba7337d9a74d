"""Judges how full the disk is, so that sends are refused before nothing else has room (store.md §6)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pymq.broker.broker_config import BrokerConfig
from pymq.disk import Disk, DiskUsage
from pymq.errors import StoreError

log = logging.getLogger("pymq.broker.disk")

_MIB = 1 << 20


class DiskWatch:
    """Sends are refused while a partition of the store is too full.

    It is with less than diskMinFreeBytes free, where that is set, else with more than
    diskSpaceWarningLevelRatio percent used.
    """

    def __init__(self, config: BrokerConfig, disk: Disk, refuse_while_full: Callable[[str], None]) -> None:
        """`refuse_while_full` is told why sends are to be refused; an empty text when they no longer are."""
        self._disk = disk
        self._refuse_while_full = refuse_while_full
        self._min_free_bytes = config.disk_min_free_bytes
        self._max_percent = config.disk_space_warning_level_ratio
        self._folders = (config.commit_log_folder, config.store_path_root_dir)
        self._is_full = False
        self._is_unknown = False

    def start(self) -> None:
        """Judge for the first time, and say by what rule."""
        log.info("this version never deletes messages; sends are refused when %s", self._rule)
        self.judge()

    @property
    def _rule(self) -> str:
        """In words, when sends are refused."""
        if self._min_free_bytes:
            return f"less than {_mib(self._min_free_bytes)} are free (diskMinFreeBytes)"
        return f"more than {self._max_percent} % are used (diskSpaceWarningLevelRatio)"

    def judge(self) -> None:
        """Look at the disk, and refuse or allow from now on. A look that fails changes nothing."""
        try:
            reason = self._reason()
        except StoreError as error:
            if not self._is_unknown:
                log.warning("how full the disk is cannot be told: %s", error)
            self._is_unknown = True
            return
        self._is_unknown = False
        self._refuse_while_full(reason)
        if bool(reason) != self._is_full:
            self._is_full = bool(reason)
            if reason:
                log.error("sends are refused: %s", reason)
            else:
                log.warning("sends are accepted again: the disk has room")

    def _reason(self) -> str:
        for folder in self._folders:
            usage = self._disk.usage(folder)
            if self._judged_full(usage):
                used = round(100 * usage.ratio)
                return (
                    f"the disk of {folder} is too full, {_mib(usage.free)} are free and {used} % used:"
                    f" nothing is stored when {self._rule}"
                )
        return ""

    def _judged_full(self, usage: DiskUsage) -> bool:
        if self._min_free_bytes:
            return usage.free < self._min_free_bytes
        return round(100 * usage.ratio) > self._max_percent


def _mib(size: int) -> str:
    return f"{size / _MIB:,.0f} MiB"
