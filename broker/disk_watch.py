"""Judges how full the disk is, so that sends are refused before nothing else has room (store.md §6)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pymq.broker.broker_config import BrokerConfig
from pymq.disk import Disk
from pymq.errors import StoreError
from pymq.store.retention import DiskLevel, RetentionRules

log = logging.getLogger("pymq.broker.disk")

_MIB = 1 << 20


class DiskWatch:
    """Sends are refused while a partition of the store is full by the rules of retention."""

    def __init__(
        self,
        config: BrokerConfig,
        rules: RetentionRules,
        disk: Disk,
        refuse_while_full: Callable[[str], None],
    ) -> None:
        """`refuse_while_full` is told why sends are to be refused; an empty text when they no longer are."""
        self._rules = rules
        self._disk = disk
        self._refuse_while_full = refuse_while_full
        self._folders = (config.commit_log_folder, config.store_path_root_dir)
        self._is_full = False
        self._is_unknown = False

    def start(self) -> None:
        """Judge for the first time, and say what is kept and by what rule sends are refused."""
        rules = self._rules
        log.info(
            "messages are deleted %d hours after they came (fileReservedTime), when it is %s o'clock"
            " (deleteWhen) or more than %d %% of the disk are used (diskMaxUsedSpaceRatio); %s",
            rules.file_reserved_time,
            rules.delete_when,
            rules.disk_max_used_space_ratio,
            self._forced,
        )
        log.info("sends are refused when %s", self._rule)
        self.judge()

    @property
    def _forced(self) -> str:
        """In words, when messages are deleted that are not old enough."""
        if not self._rules.clean_file_forcibly_enable:
            return "never earlier (cleanFileForciblyEnable=false)"
        if self._rules.disk_min_free_bytes:
            return f"the oldest earlier when less than {_mib(2 * self._rules.disk_min_free_bytes)} are free"
        percent = self._rules.disk_space_clean_forcibly_ratio
        return f"the oldest earlier when more than {percent} % are used (diskSpaceCleanForciblyRatio)"

    @property
    def _rule(self) -> str:
        """In words, when sends are refused."""
        if self._rules.disk_min_free_bytes:
            return f"less than {_mib(self._rules.disk_min_free_bytes)} are free (diskMinFreeBytes)"
        percent = self._rules.disk_space_warning_level_ratio
        return f"more than {percent} % are used (diskSpaceWarningLevelRatio)"

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
            if self._rules.level([usage]) is DiskLevel.FULL:
                used = round(100 * usage.ratio)
                return (
                    f"the disk of {folder} is too full, {_mib(usage.free)} are free and {used} % used:"
                    f" nothing is stored when {self._rule}"
                )
        return ""


def _mib(size: int) -> str:
    return f"{size / _MIB:,.0f} MiB"
