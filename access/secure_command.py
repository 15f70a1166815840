"""`wattline secure`: what a set-up of one's own needs and does not have yet: secrets, certificates, accounts.

What is there stays, so it may be called at any time; a certificate in its last month is replaced. No secret is printed.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
from pathlib import Path

from access.certificates import Certificate, hosts_of, is_good_for, issue, make_authority
from access.errors import AccessError
from access.folder import changing, put
from access.passwords import new_secret
from access.rights import OURS
from access.telling import PID_FILE, tell_broker
from config.broker import INGESTOR_ACCOUNT
from config.env_file import ENV_FILE, read_env_file
from config.errors import OK
from config.logging import tell

FOLDER = Path("production")
# The names under which the parts of docker-compose.production.yml reach the broker, and this machine itself.
ALWAYS = ("localhost", "127.0.0.1", "mosquitto")
PARTS = {"ingestor": INGESTOR_ACCOUNT, "gateway": f"{OURS}gateway", "monitor": f"{OURS}monitor"}
# Mosquitto's in its image; containers run as this user where root made the files.
IMAGE_USER = 1883
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]+")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Secrets go into .env here, accounts and certificates into DIR; both for their owner alone. What is there "
        "already stays as it is, and a certificate in its last month is replaced. How it goes on: docs/production.md."
    )
    add = parser.add_argument
    add(
        "--dir",
        type=Path,
        default=FOLDER,
        metavar="DIR",
        help="where accounts and certificates go (default %(default)s)",
    )
    add(
        "--host",
        type=_host,
        action="append",
        default=[],
        metavar="NAME",
        help="a name or address under which devices reach the broker, again for each (localhost always is one)",
    )


def run(args: argparse.Namespace) -> int:
    """Exit status 0. Raises AccessError, SettingsError."""
    hosts = list(dict.fromkeys([*args.host, *ALWAYS]))
    access = args.dir / "mosquitto" / "access"
    try:
        _make_folders(args.dir, access, args.dir / "mosquitto" / "data")
        certificates = _certify(args.dir, access, hosts)
        variables = _secrets(access, hosts[0])
        accounts = _accounts(access, variables)
    except OSError as error:
        raise AccessError(f"{error.filename or args.dir}: {error.strerror}") from None
    tell(
        f"{ENV_FILE} has the secrets, {access} the broker's accounts; keep both, and {args.dir / 'ca.key'} even better"
    )
    if certificates or accounts:
        tell(f"{'; '.join(certificates + accounts)}; {tell_broker(access / PID_FILE, 0)}")
    return OK


def _make_folders(*folders: Path) -> None:
    for folder in folders:
        for each in (*reversed(folder.parents), folder):
            if not each.exists():
                each.mkdir(mode=0o700)
                if os.geteuid() == 0 and folder != folders[0] and each.name != folders[0].name:
                    os.chown(each, IMAGE_USER, IMAGE_USER)


def _certify(folder: Path, access: Path, hosts: list[str]) -> list[str]:
    """What was made: the authority, once, and the broker's certificate for all these names."""
    made = []
    key, ca = folder / "ca.key", access / "ca.pem"
    if key.exists() and ca.exists():
        authority = Certificate(ca.read_text("utf-8"), key.read_text("utf-8"))
    else:
        authority = make_authority("wattline")
        put(key, authority.key)
        put(ca, authority.certificate, 0o644)
        made.append("a new authority, which devices have to trust")
    server = access / "server.pem"
    before = server.read_text("utf-8") if server.exists() else None
    if before is None or not is_good_for(before, hosts):
        hosts = list(dict.fromkeys([*hosts, *(hosts_of(before) if before else ())]))
        issued = issue(authority, hosts[0], hosts=hosts)
        put(access / "server.key", issued.key)
        put(server, issued.certificate, 0o644)
        made.append(f"a certificate of the broker for {', '.join(hosts)}")
    return made


def _secrets(access: Path, host: str) -> dict[str, str]:
    """All of `.env`, with what was missing appended."""
    there = read_env_file(())
    wanted = {"DATABASE_PASSWORD": secrets.token_hex(24)}
    for part in ("INGEST", "API"):
        wanted[f"COMPOSE_{part}_PASSWORD"] = secrets.token_hex(24)
    wanted |= {"API_READ_TOKENS": new_secret(), "API_WRITE_TOKENS": new_secret()}
    for part in PARTS:
        wanted[f"BROKER_{part.upper()}_SECRET"] = new_secret()
    known = {**wanted, **there}
    address = {
        part: f"mqtts://{name}:{known[f'BROKER_{part.upper()}_SECRET']}@{host}:8883" for part, name in PARTS.items()
    }
    wanted |= {
        "MQTT_URL": address["ingestor"],
        "MQTT_CLIENT_ID": INGESTOR_ACCOUNT,
        "MQTT_GATEWAY_URL": address["gateway"],
        "MQTT_MONITOR_URL": address["monitor"],
        "MQTT_TLS_CA": str(access / "ca.pem"),
        "BROKER_ACCESS_DIR": str(access),
        "BROKER_USER": _user(),
        "COMPOSE_FILE": "docker-compose.yml:docker-compose.production.yml",
    }
    missing = {name: value for name, value in wanted.items() if name not in there}
    if missing:
        file = Path(ENV_FILE)
        before = file.read_text("utf-8") if file.exists() else ""
        if before and not before.endswith("\n"):
            before += "\n"
        text = "".join(f"{name}={value}\n" for name, value in missing.items())
        put(file, f"{before}# Made by `wattline secure`.\n{text}")
    return {**wanted, **there}


def _accounts(access: Path, variables: dict[str, str]) -> list[str]:
    """The accounts of the parts of wattline, which are made once."""
    with changing(access) as accounts:
        missing = {part: name for part, name in PARTS.items() if name not in accounts.passwords}
        for part, name in missing.items():
            accounts.add([name], part, [variables[f"BROKER_{part.upper()}_SECRET"]])
    return [f"accounts of {', '.join(missing)}"] if missing else []


def _user() -> str:
    """Whom the files belong to: the broker's container runs as that user."""
    return f"{IMAGE_USER}:{IMAGE_USER}" if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"


def _host(given: str) -> str:
    """A type for argparse."""
    if not NAME.fullmatch(given):
        raise argparse.ArgumentTypeError("a host's name or address is expected, without a port")
    return given
