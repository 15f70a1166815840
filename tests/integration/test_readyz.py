"""/readyz of API and ingestor, which strangers may ask: the kind of trouble, no address, no name, no text of libpq."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from tests.api_process import prepare
from tests.backends import Broker
from tests.processes import WattlineProcess
from tests.waiting import wait_until

Start = Callable[..., WattlineProcess]
NOT_FOR_STRANGERS = ("127.0.0.1", "localhost", "5432", "postgres", "server", "FATAL", "stranger", "meter_", "schema_m")


def told(url: str, words: str) -> str:
    """The body of a red /readyz once it says these words."""

    def answer() -> str:
        try:
            response = httpx.get(f"{url}/readyz", timeout=10)
        except httpx.HTTPError:
            return ""
        return response.text if response.status_code == 503 and words in response.text else ""

    return wait_until(answer, what=f"/readyz of {url} with {words!r}")


def assert_discreet(body: str) -> None:
    assert not [word for word in NOT_FOR_STRANGERS if word in body], body


def as_stranger(url: str) -> str:
    """Somebody without a password."""
    return url.replace("//postgres@", "//stranger@").partition("?")[0]


@pytest.mark.parametrize(
    ("url_of", "words", "logged"),
    [
        (lambda _: "postgresql://stranger:s3cret@127.0.0.1:1/energy_db", "connections are refused", "refused"),
        (as_stranger, "does not let us in", "no password supplied"),
        (lambda url: urlsplit(url)._replace(path="/nowhere").geturl(), "has no database", "nowhere"),
    ],
    ids=["nobody there", "no password", "no database"],
)
def test_a_database_that_cannot_be_had(  # noqa: PLR0913, PLR0917 - three of them are fixtures
    database_url: str, broker: Broker, start_wattline: Start, url_of: Callable[[str], str], words: str, logged: str
) -> None:
    url = url_of(database_url)
    api = start_wattline("api", DATABASE_URL=url)
    ingestor = start_wattline("ingest", DATABASE_URL=url, MQTT_URL=broker.url)
    for process, base in ((api, api.http_url), (ingestor, ingestor.metrics_url)):
        assert_discreet(told(base, words))
        assert "s3cret" not in process.output()
    assert logged in api.output()


def test_a_broker_that_is_away(database_url: str, start_wattline: Start) -> None:
    ingestor = start_wattline("ingest", DATABASE_URL=database_url, MQTT_URL="mqtt://127.0.0.1:1")
    assert_discreet(told(ingestor.metrics_url, "not connected to the broker"))


def test_a_right_that_is_missing(database_url: str, start_wattline: Start) -> None:
    prepare(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("REVOKE ALL ON schema_migrations FROM wattline_api")
    api = start_wattline("api", DATABASE_URL=database_url)
    assert_discreet(told(api.http_url, "it has been logged"))
    assert "permission denied" in api.output()
