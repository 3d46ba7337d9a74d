"""The name server's only lasting data: namespace → key → value (wire.md §4.6, §7.1).

Kept in one JSON file, written anew after each change: `{"configTable":{namespace:{key:value}}}`, as Apache
writes it. A change is seen, and answered, once it is on the disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping

import msgspec

from pymq.disk import Disk
from pymq.errors import BodyError, ConfigError
from pymq.protocol import tolerant_json

log = logging.getLogger("pymq.namesrv")

ORDER_TOPIC_CONFIG = "ORDER_TOPIC_CONFIG"
"""The namespace of ordered topics: topic → `broker-a:4;broker-b:4`."""

Namespaces = dict[str, dict[str, str]]


class _File(msgspec.Struct, rename="camel"):
    config_table: Namespaces = msgspec.field(default_factory=dict)


class KVConfig:
    """Values by namespace and key."""

    def __init__(self, path: str, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self._table: Namespaces = {}
        self._writing = asyncio.Lock()

    async def load(self) -> None:
        """Read the file, or the one before it (`.bak`) if it is unreadable; no file is an empty table.

        Raises ConfigError when neither can be read: starting empty would overwrite them.
        """
        try:
            self._table = await self._read(self._path) or {}
        except (BodyError, UnicodeDecodeError) as error:
            backup = self._path + ".bak"
            try:
                table = await self._read(backup)
            except (BodyError, UnicodeDecodeError):
                table = None
            if table is None:
                raise ConfigError(f"the KV config {self._path} cannot be read: {error}") from None
            log.warning("the KV config %s cannot be read, %s is taken: %s", self._path, backup, error)
            self._table = table

    async def _read(self, path: str) -> Namespaces | None:
        text = await self._disk.read_text(path)
        return None if text is None else tolerant_json.decode(text.encode(), _File).config_table

    def get(self, namespace: str, key: str) -> str | None:
        """One value."""
        return self._table.get(namespace, {}).get(key)

    def namespace(self, namespace: str) -> Mapping[str, str] | None:
        """All keys and values of a namespace, None when it is unknown."""
        return self._table.get(namespace)

    async def put(self, namespace: str, key: str, value: str) -> None:
        """Set a value. StoreError when the file cannot be written: then nothing has changed."""
        async with self._writing:
            values = {**self._table.get(namespace, {}), key: value}
            await self._store({**self._table, namespace: values})

    async def delete(self, namespace: str, key: str) -> None:
        """Forget a value; an unknown one is fine. StoreError as `put`."""
        async with self._writing:
            values = dict(self._table.get(namespace, {}))
            if values.pop(key, None) is not None:
                await self._store({**self._table, namespace: values})

    async def _store(self, table: Namespaces) -> None:
        self._disk.make_folder(os.path.dirname(self._path))
        await self._disk.write_text(self._path, tolerant_json.encode(_File(table)).decode())
        self._table = table
