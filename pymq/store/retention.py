"""What is kept and for how long: the rules by which files go, and when the disk is full (store.md §6).

Pure: who asks brings the time, the files' ages and the usage of the disks.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable

import msgspec

from pymq.disk import DiskUsage

HOUR_MS = 3_600_000
MANUAL_RUNS = 20
"""So many runs follow an admin's request to delete what is expired."""
FILES_PER_RUN = 10
FIRST_RUN_S = 60.0
"""The first run comes this long after the start."""
_USED_MIN, _USED_MAX = 10, 95
"""Percent; diskMaxUsedSpaceRatio is held between them."""


class DiskLevel(enum.IntEnum):
    """How short a disk is of room."""

    ROOMY = 0
    SHORT = 1
    """What is expired goes now, whatever the hour."""
    CRITICAL = 2
    """The oldest goes now, expired or not, where that is allowed."""
    FULL = 3
    """As CRITICAL, and no message is accepted."""


class RetentionRules(msgspec.Struct, frozen=True, kw_only=True):
    """The settings, named as Apache's. Times in ms and ratios in percent where nothing else is said."""

    delete_when: str = "04"
    """Local hours from 0 to 23 with `;` between them, as whoever reads the configuration has checked."""
    file_reserved_time: int = 72
    """Hours since a file was last changed."""
    disk_max_used_space_ratio: int = 75
    disk_space_clean_forcibly_ratio: int = 85
    disk_space_warning_level_ratio: int = 90
    disk_min_free_bytes: int = 0
    """Our own. When not 0 the disk is FULL with less free and CRITICAL with less than twice as much free,
    whatever the two ratios above say."""
    clean_file_forcibly_enable: bool = True
    clean_resource_interval: int = 10_000
    delete_commit_log_files_interval: int = 100
    """Pause between two files of a run."""
    delete_consume_queue_files_interval: int = 100
    """Pause behind a queue that lost files."""
    redelete_hanged_file_interval: int = 120_000
    """Pause before a file that could not be deleted is tried again."""

    @property
    def hours(self) -> frozenset[int]:
        """The local hours of deleteWhen."""
        return frozenset(map(int, re.findall(r"\d+", self.delete_when)))

    def level(self, usages: Iterable[DiskUsage]) -> DiskLevel:
        """How short the shortest of these partitions is."""
        return max(map(self._level, usages), default=DiskLevel.ROOMY)

    def _level(self, usage: DiskUsage) -> DiskLevel:
        percent = round(100 * usage.ratio)
        least = self.disk_min_free_bytes
        if usage.free < least if least else percent > self.disk_space_warning_level_ratio:
            return DiskLevel.FULL
        if usage.free < 2 * least if least else percent > self.disk_space_clean_forcibly_ratio:
            return DiskLevel.CRITICAL
        used_max = min(max(self.disk_max_used_space_ratio, _USED_MIN), _USED_MAX)
        return DiskLevel.SHORT if percent > used_max else DiskLevel.ROOMY

    def runs(self, local_hour: int, level: DiskLevel, asked: bool) -> bool:
        """Whether a run deletes at all: its hour has come, space demands it, or an admin `asked`."""
        return asked or level > DiskLevel.ROOMY or local_hour in self.hours

    def is_expired(self, modified_ms: int, now_ms: int) -> bool:
        """Whether a file that was last changed at `modified_ms` (ms since 1970) has been kept long enough."""
        return modified_ms + self.file_reserved_time * HOUR_MS <= now_ms

    def is_forced(self, level: DiskLevel) -> bool:
        """Whether files go that are not expired."""
        return self.clean_file_forcibly_enable and level >= DiskLevel.CRITICAL
