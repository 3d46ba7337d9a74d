"""The name server's own configuration, read and changed while it runs (318, 319)."""

from __future__ import annotations

import asyncio
import difflib
import logging
import os

from msgspec.structs import replace

from pymq.config import absolute, properties_text, settings, update
from pymq.disk import Disk
from pymq.errors import ConfigError, ResponseError
from pymq.java_properties import parse_properties
from pymq.namesrv.namesrv_config import NamesrvConfig
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers import naming
from pymq.transport.dispatch import Answer, Request, row

log = logging.getLogger("pymq.namesrv")

FIXED = {"configStorePath", "kvConfigPath"}
"""Keys that name files to be written: not to be set by whoever reaches the port (5.x refuses them too)."""

LIVE = {"orderMessageEnable"}
"""Keys that take effect at once; the others do at the next start."""


class SettingsRequests:
    """Reading and changing the configuration. What is changed is written to configStorePath first."""

    def __init__(self, config: NamesrvConfig, disk: Disk) -> None:
        self._config = config
        self._disk = disk
        self._writing = asyncio.Lock()
        self.table = (
            row(naming.UpdateNamesrvConfigRequest, self.update),
            row(naming.GetNamesrvConfigRequest, self.get),
        )

    def get(self, request: Request[naming.GetNamesrvConfigRequest]) -> Answer:
        """319: all settings as a properties text."""
        return Answer(body=properties_text(self._config).encode())

    async def update(self, request: Request[naming.UpdateNamesrvConfigRequest]) -> Answer:
        """318: change settings, all that are named or none.

        Refused with a remark: a key that is unknown, one that is fixed, a value of the wrong type. StoreError
        when the file cannot be written.
        """
        async with self._writing:
            try:
                changed = await self._change(request.body.decode())
            except (ConfigError, UnicodeDecodeError) as error:
                raise ResponseError(ResponseCode.SYSTEM_ERROR, str(error)) from None
        for key, value in changed.items():
            when = "" if key in LIVE else "; takes effect at the next start"
            log.info("%s set to %r by %s%s", key, value, request.connection.address, when)
        return Answer()

    async def _change(self, text: str) -> dict[str, str]:
        self._check_keys(text)
        wanted = replace(self._config)
        changed = update(wanted, text)
        if changed:
            path = absolute(self._config.config_store_path)
            self._disk.make_folder(os.path.dirname(path))
            await self._disk.write_text(path, properties_text(wanted))
            update(self._config, text)
        return changed

    def _check_keys(self, text: str) -> None:
        config = type(self._config)
        known = {key for key, _ in settings(self._config)}
        known.update(config.ALIASES, config.MISSPELLINGS, config.IGNORED)
        for entry in parse_properties(text, "update"):
            if entry.key in FIXED:
                raise ResponseError(
                    ResponseCode.NO_PERMISSION, f"{entry.key} can only be set in the conf file, by hand"
                )
            if entry.key not in known:
                near = difflib.get_close_matches(entry.key, known, n=1)
                hint = f": did you mean {near[0]}?" if near else ""
                raise ConfigError(f"unknown key {entry.key}{hint}")
