"""SIGHUP: what may change while a process runs is read again; nothing ends, and one line says what changed.

Tokens, who may write, hosts and logging take effect at once; certificate files are read at the next connect to the
broker. Everything else waits for a restart, and is named. Settings that cannot be used change nothing.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from config.env_file import ENV_FILE
from config.errors import SettingsError
from config.logging import configure_logging
from config.settings import Settings

AT_ONCE = frozenset(
    {
        "api_read_tokens",
        "api_write_tokens",
        "api_write_loopback",
        "api_allowed_hosts",
        "api_trusted_proxies",
        "log_level",
        "log_format",
    }
)
"""The settings that take effect without a restart."""

logger = logging.getLogger(__name__)


class Rereading:
    """The settings in force, and how they are read again. From its making on, SIGHUP does not end the process."""

    def __init__(
        self, load: Callable[[], Settings], check: Callable[[Settings], object], apply: Callable[[Settings], None]
    ) -> None:
        """`check` raises SettingsError for what only shows when it is used, such as certificate files; `apply` puts
        the settings in force. Raises what `load` raises.
        """
        self._early = False
        signal.signal(signal.SIGHUP, self._note)
        self._load, self._check, self._apply = load, check, apply
        self.settings = load()
        self._had_file = Path(ENV_FILE).exists()

    def listen(self) -> None:
        """Take SIGHUP from now on, in the running event loop; one that came before counts."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reread)
        if self._early:
            self.reread()

    def reread(self) -> None:
        """Read the settings, and apply what may change; never raises."""
        try:
            found = self._found()
        except SettingsError as error:
            logger.error("SIGHUP: everything stays as it was: %s", error)  # noqa: TRY400 - one line for a person
            return
        self._had_file = Path(ENV_FILE).exists()
        changed = [name for name in Settings.model_fields if getattr(found, name) != getattr(self.settings, name)]
        at_once = {name: getattr(found, name) for name in changed if name in AT_ONCE}
        waiting = [name for name in changed if name not in AT_ONCE and name != "max_kwh"]
        # By the name of its kind, each as somebody has written it.
        waiting += sorted(f"{kind}_max_kwh" for kind in dict(found.max_kwh.items() ^ self.settings.max_kwh.items()))
        self.settings = self.settings.model_copy(update=at_once)
        # The person who sends the signal sees its line, whatever the level was and will be.
        configure_logging("INFO", self.settings.log_format)
        logger.info("SIGHUP: %s", _told(at_once, waiting))
        configure_logging(self.settings.log_level, self.settings.log_format)
        self._apply(self.settings)

    def _found(self) -> Settings:
        """The settings as they are now. Raises SettingsError."""
        if self._had_file and not Path(ENV_FILE).exists():
            # Perhaps it is just being replaced, and without it reading may be open.
            raise SettingsError(f"{ENV_FILE}: is not there any more")
        found = self._load()
        self._check(found)
        return found

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._early = True


def _told(at_once: dict[str, object], waiting: list[str]) -> str:
    """Which settings changed; never what they are, for some are secret."""
    names = [f"{name.upper()}{' (unset now)' if value is None else ''}" for name, value in at_once.items()]
    told = f"changed {', '.join(names)}" if names else "no setting changed that takes effect at once"
    if waiting:
        told += f"; a restart is needed for {', '.join(name.upper() for name in waiting)}"
    return f"{told}; certificate files are read at the next connect to the broker"
