"""Every setting of wattline, in one place: environment variables (or `.env`), their defaults, limits and reasons.

Only entry points call `load_settings`; everything else is handed what it needs. A wrong value becomes one line that
names the variable. The README's table is tested against this module.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from config.beside_up import places_beside_up
from config.broker import INGESTOR_ACCOUNT, BrokerAddress, broker_address
from config.database_url import check_database_url
from config.env_file import ENV_FILE, read_env_file
from config.errors import SettingsError
from config.hosts import host_name
from config.logins import Login, database_logins
from config.near_misses import tell_of_near_misses
from config.running import DATA_DIR
from config.tokens import Token, tokens

Network: TypeAlias = IPv4Network | IPv6Network

_MAX_KWH = re.compile(r"([A-Za-z]+)_MAX_KWH", re.IGNORECASE)
_ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")


class Settings(BaseSettings):
    """The settings of all commands. Units are the last word of a name; what stands below a field is its description
    in the README's table, and says what 0 means.
    """

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, extra="ignore", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )

    database_host: str = "localhost"
    """PostgreSQL host"""
    database_port: Annotated[int, Field(ge=1, le=65535)] = 5432
    """PostgreSQL port"""
    database_username: str = "postgres"
    """PostgreSQL user"""
    database_password: SecretStr | None = None
    """PostgreSQL password"""
    database_name: str = "energy_db"
    """database"""
    database_url: SecretStr | None = None
    """`postgresql://user:pass@host:port/name`; wins over the five above"""
    database_logins: Annotated[
        SecretStr | None,
        Field(
            description="comma-separated `user:role:password` that `wattline migrate` makes; a role is ingest, api, "
            "ledger or monitor, several with +"
        ),
    ] = None

    port: Annotated[int, Field(ge=0, le=65535)] = 3000
    """HTTP port of the API; 0 = any free port"""
    host: str = "127.0.0.1"
    """address the API listens on"""

    mqtt_url: SecretStr = SecretStr("mqtt://localhost:1883")
    """`mqtt[s]://user:pass@host:port`"""
    mqtt_gateway_url: SecretStr | None = None
    """the same for the API, with an account of its own to publish what is posted; unset = MQTT_URL"""
    mqtt_monitor_url: SecretStr | None = None
    """the same for the broker's own figures (`$SYS`), by an account of its own; unset = MQTT_URL"""
    mqtt_tls_ca: str | None = None
    """file of CA certificates to trust; unset = the system's"""
    mqtt_tls_cert: str | None = None
    """client certificate file"""
    mqtt_tls_key: str | None = None
    """client key file"""
    mqtt_client_id: Annotated[str, Field(min_length=1, max_length=200)] = "wattline-ingestor"
    """names the session at the broker; with MQTT_SHARE_GROUP each ingestor needs its own"""
    mqtt_share_group: Annotated[str | None, Field(pattern=r"^[^/+#\s]{1,100}$")] = None
    """ingestors with the same group share the load; unset = alone"""
    mqtt_session_expiry_seconds: Annotated[int, Field(ge=60, le=4294967295)] = 604800
    """how long the broker keeps our queue while we are away (7 days)"""
    mqtt_keepalive_seconds: Annotated[int, Field(ge=5, le=3600)] = 30
    """a connection to the broker that is silent for about this long is given up"""

    max_inflight: Annotated[int, Field(ge=10, le=65535)] = 65535
    """messages the broker may send ahead of our acknowledgement; 65,535 asks for 65,534"""
    max_pending_bytes: Annotated[int, Field(ge=1_000_000)] = 128_000_000
    """payload bytes held before reading pauses"""
    flush_interval_ms: Annotated[int, Field(ge=1, le=60_000)] = 250
    """longest wait of a reading before its batch is written"""
    flush_max_rows: Annotated[int | None, Field(ge=1)] = None
    """readings that close a batch early; unset = half of MAX_INFLIGHT"""
    flush_timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """a session of PostgreSQL that is silent for longer is given up"""
    metrics_host: str = "127.0.0.1"
    """address of /metrics, /healthz, /readyz of the ingestor"""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9464
    """their port; 0 = any free port"""

    retention_days: Annotated[int, Field(ge=0, le=36500)] = 0
    """days of history kept; 0 = keep everything"""
    max_clock_skew_seconds: Annotated[int, Field(ge=0, le=86400)] = 300
    """how far ahead of our clock a reading may be"""
    max_reading_age_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """how old a reading may be; never more than RETENTION_DAYS where that is set"""
    unknown_fields: Literal["refuse", "ignore"] = "refuse"
    """`ignore` takes a reading without the fields that are not of its kind, and counts it"""
    max_kwh: Annotated[dict[str, float], NoDecode] = {}
    """most energy of one reading of a {kind}, in kWh; more is refused as `invalid_value`"""
    rejected_max_per_second: Annotated[int, Field(ge=0)] = 1000
    """refused messages kept a second; other nonsense is only counted, valid readings wait; 0 = keep none"""
    rejected_max_bytes: Annotated[int, Field(ge=1_000_000)] = 1_000_000_000
    """size of all refused messages kept; past it the oldest go (1 GB)"""
    rejected_spool_dir: Path | None = None
    """folder for valid readings that even the quarantine refuses; unset = .wattline/spool"""
    rejected_retention_days: Annotated[int, Field(ge=1, le=36500)] = 30
    """days refused messages are kept"""

    silent_after_seconds: Annotated[int, Field(ge=1, le=366 * 86_400)] = 300
    """a device is silent after three of its usual intervals, and after this time at least"""

    meter_id_convention: Annotated[str, Field(pattern=r"^([A-Za-z0-9._-]{1,50}:[A-Za-z0-9._-]{1,50})?$")] = (
        "VEH-:METER-"
    )
    """vehicle prefix:meter prefix, before a vehicle's first link; empty = none"""
    efficiency_tolerance: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.02
    """how much more DC than AC may be measured (0.02 = 2 %); beyond it the health is UNKNOWN"""
    http_keepalive_seconds: Annotated[int, Field(ge=1, le=3600)] = 75
    """how long an idle HTTP connection is kept; longer than the proxy in front keeps it"""
    api_read_tokens: SecretStr | None = None
    """comma-separated bearer tokens for reading, or `NAME=sha256:…` of `wattline token`; unset = open"""
    api_write_tokens: SecretStr | None = None
    """the same for writing; unset = nobody writes"""
    api_write_loopback: bool = False
    """1 = without write tokens this machine may write, while HOST is loopback and no proxy is before"""
    api_allowed_hosts: Annotated[
        str | None,
        Field(
            description="comma-separated names under which a proxy here serves the API without tokens; "
            "unset = only names of this machine, while HOST is loopback"
        ),
    ] = None
    api_tls_cert: str | None = None
    """certificate file, with its chain, to serve the API by TLS; unset = plain HTTP"""
    api_tls_key: str | None = None
    """its key file"""
    api_trusted_proxies: str | None = None
    """comma-separated addresses or networks of proxies whose `X-Forwarded-For` says who asks; unset = none"""
    api_cors_origins: str | None = None
    """comma-separated origins that browsers may call the API from; unset = none"""

    broker_access_dir: Path | None = None
    """folder of the broker's accounts, for `wattline devices`; unset = that of `up --secure`"""
    wattline_data_dir: Path | None = None
    """folder of the `wattline up` to use where broker and database are not set; unset = .wattline"""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """least level logged"""
    log_format: Literal["text", "json"] = "text"
    """`text` for people, `json` for machines"""

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Where unset has a meaning; `MQTT_TLS_CA=` is what `${MQTT_TLS_CA:-}` makes of it in a compose file."""
        optional = {name for name, field in cls.model_fields.items() if field.default is None}
        return {name: value for name, value in values.items() if value != "" or name not in optional}

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("mqtt_url", "mqtt_gateway_url", "mqtt_monitor_url")
    @classmethod
    def _broker_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            broker_address(value.get_secret_value())
        return value

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_database_url(value.get_secret_value())
        return value

    @field_validator("database_logins")
    @classmethod
    def _logins(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            database_logins(value.get_secret_value())
        return value

    @field_validator("api_read_tokens", "api_write_tokens")
    @classmethod
    def _tokens(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            tokens(value.get_secret_value())
        return value

    @field_validator("api_allowed_hosts")
    @classmethod
    def _hosts(cls, value: str | None) -> str | None:
        if value is not None and not all(host_name(host) and host != "*" for host in _listed(value)):
            raise ValueError("expected names like fleet.example.com, separated by commas, without http:// and path")
        return value

    @field_validator("api_trusted_proxies")
    @classmethod
    def _proxies(cls, value: str | None) -> str | None:
        try:
            return None if value is None else ",".join(str(ip_network(each)) for each in _listed(value))
        except ValueError:
            raise ValueError(
                "expected addresses like 127.0.0.1 or networks like 10.1.0.0/16, separated by commas"
            ) from None

    @field_validator("api_cors_origins")
    @classmethod
    def _origins(cls, value: str | None) -> str | None:
        if value is not None and not all(_ORIGIN.fullmatch(origin) for origin in _listed(value)):
            raise ValueError(
                "expected origins as browsers send them, like https://fleet.example.com or http://localhost:8080, "
                "separated by commas"
            )
        return value

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if self.flush_max_rows is not None and self.flush_max_rows > self.max_inflight:
            raise ValueError(
                f"FLUSH_MAX_ROWS ({self.flush_max_rows}) must not exceed MAX_INFLIGHT ({self.max_inflight}): "
                "the broker never sends more than the window before we acknowledge"
            )
        if self.mqtt_share_group is not None and "mqtt_client_id" not in self.model_fields_set:
            raise ValueError(
                "MQTT_CLIENT_ID must be set when MQTT_SHARE_GROUP is: a stable name of its own for each ingestor"
            )
        if (self.mqtt_tls_cert is None) != (self.mqtt_tls_key is None):
            raise ValueError("MQTT_TLS_CERT and MQTT_TLS_KEY belong together: set both or neither")
        if (self.api_tls_cert is None) != (self.api_tls_key is None):
            raise ValueError("API_TLS_CERT and API_TLS_KEY belong together: set both or neither")
        urls = (self.mqtt_url, self.mqtt_gateway_url, self.mqtt_monitor_url)
        if (self.mqtt_tls_ca or self.mqtt_tls_cert) and not any(self.connecting_by(url).broker.tls for url in urls):
            raise ValueError("MQTT_TLS_... is set but MQTT_URL does not begin with mqtts://")
        return self

    @property
    def broker(self) -> BrokerAddress:
        """MQTT_URL, taken apart."""
        return broker_address(self.mqtt_url.get_secret_value())

    def connecting_by(self, url: SecretStr | None) -> Self:
        """The same settings with this address in place of MQTT_URL; None: as they are."""
        return self if url is None else self.model_copy(update={"mqtt_url": url})

    @property
    def has_ingestors_account(self) -> bool:
        """Whether MQTT_URL has the ingestor's own account, which may be its client id at the broker: whoever else
        connects by it with a clean start ends the ingestor's session, and all that is queued in it is gone.
        """
        return self.broker.username in (INGESTOR_ACCOUNT, self.mqtt_client_id)

    @property
    def database_conninfo(self) -> str:
        """A libpq connection string; it holds the password, so it never goes into a log."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        password = "" if self.database_password is None else ":" + quote(self.database_password.get_secret_value(), "")
        host = quote(self.database_host, "") if not self.database_host.startswith("[") else self.database_host
        return (
            f"postgresql://{quote(self.database_username, '')}{password}"
            f"@{host}:{self.database_port}/{quote(self.database_name, '')}"
        )

    @property
    def database_label(self) -> str:
        """`host:port/name`: for logs, without user and password."""
        parts = conninfo_to_dict(self.database_conninfo)
        return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"

    @property
    def logins(self) -> tuple[Login, ...]:
        """DATABASE_LOGINS, taken apart."""
        return () if self.database_logins is None else database_logins(self.database_logins.get_secret_value())

    @property
    def read_tokens(self) -> tuple[Token, ...] | None:
        """API_READ_TOKENS, taken apart; None = reading is open."""
        return None if self.api_read_tokens is None else tokens(self.api_read_tokens.get_secret_value())

    @property
    def write_tokens(self) -> tuple[Token, ...] | None:
        """API_WRITE_TOKENS, taken apart; None = no token is good for writing."""
        return None if self.api_write_tokens is None else tokens(self.api_write_tokens.get_secret_value())

    @property
    def trusted_proxies(self) -> tuple[Network, ...]:
        """API_TRUSTED_PROXIES, taken apart."""
        return tuple(map(ip_network, _listed(self.api_trusted_proxies))) if self.api_trusted_proxies else ()

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """API_ALLOWED_HOSTS, taken apart, each in its one spelling."""
        return frozenset(filter(None, map(host_name, _listed(self.api_allowed_hosts or ""))))

    @property
    def cors_origins(self) -> list[str]:
        """API_CORS_ORIGINS, taken apart."""
        return [] if self.api_cors_origins is None else _listed(self.api_cors_origins)

    @property
    def data_dir(self) -> Path:
        """WATTLINE_DATA_DIR, or `.wattline`."""
        return self.wattline_data_dir or DATA_DIR

    @property
    def spool_dir(self) -> Path:
        """REJECTED_SPOOL_DIR, or the folder `spool` in that of `wattline up`."""
        return self.rejected_spool_dir or self.data_dir / "spool"

    @property
    def rows_per_flush_max(self) -> int:
        """FLUSH_MAX_ROWS, or half the window, so that one batch is received while another is written."""
        return self.flush_max_rows if self.flush_max_rows is not None else max(1, self.max_inflight // 2)

    @property
    def reading_age_max_days(self) -> int:
        """MAX_READING_AGE_DAYS within RETENTION_DAYS: a late reading must not bring a dropped day back."""
        if self.retention_days == 0:
            return self.max_reading_age_days
        return min(self.max_reading_age_days, self.retention_days)


def load_settings(
    *,
    beside_up: bool = False,
    data_dir: Path | None = None,
    publishes: bool = False,
    **overrides: Any,  # noqa: ANN401 - each field has its type
) -> Settings:
    """The settings from environment and `.env`; `overrides` are command-line options, which win.

    With `beside_up`, a running `wattline up` answers for broker and database where neither is set: that of `data_dir`
    (an option: it wins over what is set), WATTLINE_DATA_DIR or `.wattline` here. `publishes`: no broker is guessed.
    Raises SettingsError, one line that names each wrong variable.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        variables = {**read_env_file(Settings.model_fields), **os.environ}
        given["max_kwh"] = _max_kwh(variables)
        settings = Settings(**given)
        if beside_up:
            places = places_beside_up(
                settings.model_fields_set, data_dir, settings.wattline_data_dir, publishes=publishes
            )
            settings = Settings(**given, **places)
        names = {name.upper() for name in Settings.model_fields}
        tell_of_near_misses(variables, names, settings.log_level, settings.log_format)
        return settings
    except ValidationError as error:
        problems = []
        for item in error.errors(include_url=False, include_input=False, include_context=False):
            name = ".".join(str(part) for part in item["loc"]).upper()
            text = item["msg"].removeprefix("Value error, ")
            problems.append(f"{name}: {text}" if name else text)
        raise SettingsError("; ".join(problems)) from None
    except UnicodeDecodeError:
        raise SettingsError(".env: is not UTF-8 text") from None
    except OSError as error:
        raise SettingsError(f".env: cannot be read: {error.strerror}") from None


def _max_kwh(variables: Mapping[str, str]) -> dict[str, float]:
    """METER_MAX_KWH and its like, by the name of the kind: which kinds there are is not known here."""
    limits = {}
    for name, value in variables.items():
        match = _MAX_KWH.fullmatch(name)
        if match is not None and value:
            try:
                limits[match[1].lower()] = limit = float(value)
            except ValueError:
                limit = -1.0
            if not 0 < limit < float("inf"):
                raise SettingsError(f"{name.upper()}: must be a number of kWh above 0")
    return limits


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]
