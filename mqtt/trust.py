"""Whom we trust and who we are by TLS: certificate files, read again for a new connection once they have changed.

Certificates are replaced under a running process. A file that cannot be used is said once, and the one before it stays
in use: a broken renewal must not cut what works.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable
from pathlib import Path

from config.errors import SettingsError
from config.seldom import Once

logger = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int] | None, ...]


class Trust:
    """The TLS context of the next connection."""

    def __init__(self, ca: str | None, certificate: str | None, key: str | None) -> None:
        """`ca` None is the system's authorities. Raises SettingsError when a file cannot be used."""
        self._ca, self._certificate, self._key = ca, certificate, key
        self._stamp = self._stamp_now()
        self._context = self._read()
        self._said = Once()

    def context(self) -> ssl.SSLContext:
        """With the files as they are now; with those of before while these cannot be used."""
        stamp = self._stamp_now()
        if stamp != self._stamp:
            try:
                self._context = self._read()
            except SettingsError as error:
                if self._said.is_new(str(error)):
                    logger.warning("%s; the file of before stays in use", error)
            else:
                self._stamp = stamp
                self._said.forget()
                logger.info("read the changed certificate files again")
        return self._context

    def _read(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._ca)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"MQTT_TLS_CA: cannot use {self._ca}: {_why(error)}") from None
        if self._ca is not None:
            # Python 3.13 asks of an authority for extensions that many private ones lack, those of a plain
            # `openssl req -x509` among them. A person who names a file means it, whatever the Python.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        # OpenSSL's own configuration may allow less, as Debian 12's does.
        context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
        if self._certificate is not None and self._key is not None:
            try:
                # With an encrypted key OpenSSL would ask on the terminal; an empty password makes it fail instead.
                context.load_cert_chain(self._certificate, self._key, password="")
            except (OSError, ssl.SSLError) as error:
                raise SettingsError(
                    f"MQTT_TLS_CERT, MQTT_TLS_KEY: cannot use {self._certificate}, {self._key}: {_why(error)}"
                ) from None
        return context

    def _stamp_now(self) -> Stamp:
        return tuple(_stamps(self._ca or ssl.get_default_verify_paths().cafile, self._certificate, self._key))


def _stamps(*paths: str | None) -> Iterable[tuple[int, int, int] | None]:
    """What changes when a file is written or replaced, a link to it too."""
    for path in paths:
        try:
            status = None if path is None else Path(path).stat()
        except OSError:
            status = None
        yield None if status is None else (status.st_ino, status.st_size, status.st_mtime_ns)


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not a usable PEM file ({error.reason or error})"
    return error.strerror or str(error)
