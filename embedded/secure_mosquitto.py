"""The embedded broker as it is in production: TLS and accounts, by mosquitto/production.conf itself.

What is replaced there is where it listens and where its files are. The certificate is made anew for each start, the
authority once a folder; accounts stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from access.certificates import Certificate, issue, make_authority
from access.errors import AccessError
from access.folder import ACL, PASSWORDS, changing, put
from access.lists import Entry
from access.rights import DEVICE
from embedded.errors import EmbeddedError
from embedded.mosquitto import RULES, MosquittoServer, read_rules
from embedded.ports import LOOPBACK

PRODUCTION = RULES.with_name("production.conf")
ACCESS = "access"
HOSTS = (LOOPBACK, "localhost")


class SecureMosquittoServer(MosquittoServer):
    """One broker with TLS; `access` is the folder of its accounts, which are there before the first start."""

    @property
    def access(self) -> Path:
        """The folder of accounts and certificates."""
        return self.data / ACCESS

    @property
    def ca_file(self) -> Path:
        """Whom its clients have to trust."""
        return self.access / "ca.pem"

    @property
    def url(self) -> str:
        """`mqtts://127.0.0.1:PORT`, once launched."""
        return f"mqtts://{LOOPBACK}:{self.port}"

    def url_for(self, account: str, secret: str) -> str:
        """The same, for one account."""
        return f"mqtts://{account}:{secret}@{LOOPBACK}:{self.port}"

    def set_up(self, accounts: Mapping[str, tuple[str, str]], devices: list[Entry]) -> None:
        """Certificates, and these accounts (role and secret by name) and devices, whose secrets are set to these.

        Raises EmbeddedError.
        """
        try:
            self.make_folders(ACCESS)
            self._certify()
            with changing(self.access) as there:
                for name, (role, secret) in accounts.items():
                    if name in there.passwords:
                        there.remove([name])
                    there.add([name], role, [secret])
                known = [entry.device for entry in devices if entry.account in there.passwords]
                there.remove(known)
                there.add([entry.device for entry in devices], DEVICE, [entry.secret for entry in devices])
        except AccessError as error:
            raise EmbeddedError(str(error)) from None

    def _certify(self) -> None:
        key = self.folder / "ca.key"
        if key.exists() and self.ca_file.exists():
            authority = Certificate(self.ca_file.read_text("utf-8"), key.read_text("utf-8"))
        else:
            authority = make_authority("wattline up")
            put(key, authority.key)
            put(self.ca_file, authority.certificate, 0o644)
        server = issue(authority, "wattline up", hosts=HOSTS)
        put(self.access / "server.pem", server.certificate, 0o644)
        put(self.access / "server.key", server.key)

    def _configuration(self) -> str:
        for name in (PASSWORDS, ACL):
            if not (self.access / name).exists():
                raise EmbeddedError(f"{self.access} has no accounts yet")
        return f"# Generated at each start.\n{localized(read_rules(PRODUCTION), self.port)}\n{read_rules(RULES)}"


def localized(production: str, port: int) -> str:
    """mosquitto/production.conf for a broker that is started in its data folder."""
    text = re.sub(r"^include_dir .*\n", "", production, flags=re.MULTILINE)
    text = re.sub(r"^(persistence_location) .*$", r"\1 ./", text, flags=re.MULTILINE)
    text = re.sub(r"^listener 8883$", f"listener {port} {LOOPBACK}", text, flags=re.MULTILINE)
    return text.replace("/mosquitto/access/", f"{ACCESS}/")
