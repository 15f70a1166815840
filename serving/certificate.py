"""The certificate that a server shows, and its key: TLS 1.2 and later, read again when somebody says so."""

from __future__ import annotations

import ssl

from config.errors import SettingsError


class Certificate:
    """The TLS context of the next connection."""

    def __init__(self, certificate: str, key: str) -> None:
        """PEM files; the first may hold the whole chain. Raises SettingsError where they cannot be used."""
        self._files = certificate, key
        self.context = _read(*self._files)

    def reread(self) -> None:
        """For connections from now on. Raises SettingsError, and leaves what was read before in use."""
        self.context = _read(*self._files)


def _read(certificate: str, key: str) -> ssl.SSLContext:
    # A new one each time: into an old one a certificate with another kind of key would go beside the one before.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # With an encrypted key OpenSSL would ask on the terminal; an empty password makes it fail instead.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise SettingsError(
            f"API_TLS_CERT, API_TLS_KEY: cannot use {certificate}, {key}: not a usable PEM file, or they do not belong "
            f"together ({error.reason or error})"
        ) from None
    except OSError as error:
        raise SettingsError(
            f"API_TLS_CERT, API_TLS_KEY: cannot use {certificate}, {key}: {error.strerror or error}"
        ) from None
    return context
