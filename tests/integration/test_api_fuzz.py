"""Requests that no client should send, byte for byte, against the running API: whatever comes, it stays calm.

Every request is answered within ANSWER_SECONDS_MAX or its connection closed; no answer is a 500; every error is in the
contract's form; and afterwards the same process serves as before.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api_process import MeterRow, VehicleRow, prepared_database, running_api, store
from tests.backends import Database
from tests.devices import meter_reading, vehicle_reading
from tests.processes import WattlineProcess, get_status

NOW = datetime.now(UTC)
ANSWER_SECONDS_MAX = 3.0
EXAMPLES = 400
# Where the answer is given before all of a longer request has come, TCP may drop it together with the rest.
REQUEST_BYTES_READ = 60_000
STATUSES = {200, 202, 400, 403, 404, 405, 409, 413, 414, 415, 431, 503}

GETS = (
    "/v1/telemetry/meter",
    "/v1/telemetry/vehicle",
    "/v1/telemetry/meter/METER-1/status",
    "/v1/telemetry/meter/METER-1/history",
    "/v1/telemetry/vehicle/VEH-1/history",
    "/v1/analytics/performance/VEH-1",
    "/v1/analytics/fleet",
    "/v1/analytics/fleet/vehicles",
    "/v1/vehicles/VEH-1/meters",
)
WRITES = (
    ("POST", "/v1/telemetry/meter"),
    ("POST", "/v1/telemetry/vehicle"),
    ("PUT", "/v1/vehicles/VEH-1/meter"),
)
NAMES = ("hours", "end", "from", "to", "limit", "cursor", "staleSeconds", "sort", "order", "", "%00", "hours%20")

EXACTLY = settings(
    derandomize=True, database=None, deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow]
)

percent = st.binary(max_size=6).map(lambda raw: "".join(f"%{byte:02X}" for byte in raw))
broken_percent = st.sampled_from(
    ["%", "%0", "%zz", "%u0041", "%C0%AF", "%ED%A0%80", "%FF", "%00", "%0d%0a", "+", "%2B"]
)
letters = st.text(max_size=12).map(lambda text: quote(text, safe="", errors="replace"))
numbers = st.one_of(
    st.integers(-(10**40), 10**40).map(str),
    st.sampled_from(["0", "-0", "1e3", "1_000", "0x10", "1.0", "NaN", "inf", "%D9%A1", "%EF%BC%91", "9" * 5000, " 1"]),
)
moments = st.one_of(
    st.builds(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{}".format,
        *(st.integers(0, most) for most in (9999, 13, 32, 25, 60, 61)),
        st.sampled_from(["Z", "%2B23:59", "-23:59", "+00:00", "", "z", ".999999Z", ".1234567Z"]),
    ),
    st.sampled_from(
        ["0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59", "-0001-01-01T00:00:00Z", "1769868000"]
    ),
    st.datetimes(timezones=st.just(UTC)).map(lambda moment: quote(moment.isoformat())),
)
extremes = st.sampled_from(
    [
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "0001-01-02T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59-23:59",
        "2026-02-30T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-01-31T23:59:60Z",
        "0000-01-01T00:00:00Z",
    ]
)
values = st.one_of(numbers, moments, letters, percent, broken_percent, st.sampled_from(["asc", "desc", "efficiency"]))
pairs = st.one_of(
    st.tuples(st.sampled_from(["end", "from", "to"]), moments),
    st.tuples(st.sampled_from(["hours", "limit", "staleSeconds"]), numbers),
    st.tuples(st.sampled_from(NAMES), values),
)
queries = st.lists(pairs, max_size=3).map(lambda some: "&".join(f"{name}={value}" for name, value in some))
segments = st.one_of(
    letters,
    percent,
    broken_percent,
    st.sampled_from([".", "..", "", "METER-1", "%2e%2e", "%2F", "a" * 101, "*", "a;b"]),
)
paths = st.one_of(
    st.sampled_from(GETS),
    st.builds("/v1/telemetry/{}/{}/{}".format, st.sampled_from(["meter", "vehicle"]), segments, segments),
    st.builds("/v1/analytics/performance/{}".format, segments),
    st.builds("/v1/vehicles/{}/meters".format, segments),
    st.lists(segments, max_size=4).map(lambda parts: "/" + "/".join(parts)),
    st.integers(7_000, 20_000).map(lambda length: "/" + "a" * length),
)
methods = st.one_of(
    st.just("GET"),
    st.sampled_from(["HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE", "PROPFIND", "get", "G", "POST", "PUT"]),
)
accepts = st.sampled_from(["*/*", "text/csv", "text/csv;q=0, */*", ",;=", "text/csv;q=nan", "\xff", ""])

header_names = st.sampled_from(
    [
        b"Host", b"Origin", b"Authorization", b"Accept", b"Accept-Encoding", b"Cookie", b"Range", b"If-None-Match",
        b"X-Request-ID", b"X-Forwarded-For", b"Last-Event-ID", b"Upgrade", b"Content-Type", b"", b"\x00", b" a",
    ]
)  # fmt: skip
header_values = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"[::1", b"localhost:99999", b"null", b"Bearer \xff", b"websocket", b"bytes=-1-,", b"x" * 70_000]),
)

any_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=5,
)
meter_fields = st.fixed_dictionaries(
    {},
    optional={
        "meterId": st.sampled_from(["METER-1", "", "a\x00b", "é", "x" * 101]) | any_json,
        "kwhConsumedAc": st.floats() | st.integers() | any_json,
        "voltage": st.floats() | any_json,
        "timestamp": moments | any_json,
        "validFrom": moments | any_json,
        "validTo": moments | any_json,
        "soc": any_json,
        "\x00": any_json,
    },
)
# json writes NaN and lone surrogates as they are, which is the point.
json_bodies = (any_json | meter_fields | st.lists(meter_fields, max_size=3)).map(
    lambda value: json.dumps(value).encode()
)
right_bodies = st.sampled_from(
    [
        {"meterId": "METER-1", "validFrom": "2026-01-31T14:00:00Z"},
        {"meterId": "METER-1", "validFrom": "2026-01-30T14:00:00Z"},
        meter_reading("METER-1", NOW),
        vehicle_reading("VEH-1", NOW),
    ]
).map(lambda value: json.dumps(value).encode())
bodies = st.one_of(
    right_bodies,
    json_bodies,
    json_bodies.map(lambda body: body[:-1]),
    json_bodies.map(lambda body: b"\xef\xbb\xbf" + body),
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"",
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b'"\xff\xfe"',
            b'"\\ud800"',
            b"1" * 100_000,
            b"1e999999",
            b"[" + b"1," * 1_000 + b"1]",
            b"[]",
            b" " * 1_100_000,
        ]
    ),
)
content_types = st.just("application/json") | st.sampled_from(
    [
        "application/json; charset=utf-8",
        "application/json; charset=utf-16",
        "APPLICATION/JSON;;;",
        "text/plain",
        "multipart/form-data; boundary=",
        "application/x-www-form-urlencoded",
        "\xff",
        "",
    ]
)
encodings = st.sampled_from(
    ["", "Content-Encoding: gzip\r\n", "Content-Encoding: identity\r\n", "Expect: 100-continue\r\n"]
)


@pytest.fixture(scope="module")
def api(postgres_server: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WattlineProcess]:
    """An API that knows a meter and a vehicle; its broker is away."""
    with prepared_database(postgres_server) as url:
        now = datetime.now(UTC)
        store(url, [MeterRow("METER-1", now, 1.5)], [VehicleRow("VEH-1", now, 1.2)])
        with running_api(tmp_path_factory.mktemp("api"), url, MQTT_URL="mqtt://127.0.0.1:1") as process:
            yield process
            assert process.running
            assert get_status(f"{process.http_url}/readyz") == 200
            assert "Traceback" not in process.output()


def ask(api: WattlineProcess, method: str, request: bytes) -> int | None:
    """The status of the answer to these bytes, after which nothing more is sent; None: the connection was closed."""
    with socket.create_connection(("127.0.0.1", api.http_port), timeout=ANSWER_SECONDS_MAX) as connection:
        with suppress(ConnectionError):  # refused before it was whole; the answer may have come before
            connection.sendall(request)
        answer = http.client.HTTPResponse(connection, method=method)
        try:
            answer.begin()
            body = answer.read()
        except (ConnectionError, http.client.BadStatusLine, http.client.IncompleteRead):
            return None
    check(answer.status, answer.headers.get_content_type(), body, empty=method == "HEAD")
    return answer.status


def check(status: int, content_type: str, body: bytes, *, empty: bool) -> None:
    assert status in STATUSES, body
    if status < 400 or empty:
        return
    assert content_type == "application/json"
    failure = json.loads(body)
    assert list(failure) == ["success", "message", "errors"]
    assert failure["success"] is False
    assert failure["message"]
    assert all(list(problem) == ["field", "message"] for problem in failure["errors"])


@EXACTLY
@given(methods, paths, queries, accepts)
def test_any_address(api: WattlineProcess, method: str, path: str, query: str, accept: str) -> None:
    head = f"{method} {path}?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    assert ask(api, method, head.encode("latin-1")) is not None


@EXACTLY
@given(st.sampled_from(GETS), queries, accepts)
def test_any_query(api: WattlineProcess, path: str, query: str, accept: str) -> None:
    head = f"GET {path}?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    assert ask(api, "GET", head.encode("latin-1")) in {200, 400, 414}


@EXACTLY
@given(st.sampled_from(["end", "from", "to"]), extremes)
def test_any_moment_in_a_query(api: WattlineProcess, name: str, moment: str) -> None:
    path = "/v1/analytics/performance/VEH-1" if name == "end" else "/v1/telemetry/meter/METER-1/history"
    head = f"GET {path}?{name}={quote(moment)} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    assert ask(api, "GET", head.encode()) in {200, 400}


@EXACTLY
@given(st.sampled_from(WRITES), extremes, extremes)
def test_any_moment_in_a_body(api: WattlineProcess, route: tuple[str, str], moment: str, end: str) -> None:
    method, path = route
    reading = meter_reading("METER-1", NOW) if path.endswith("telemetry/meter") else vehicle_reading("VEH-1", NOW)
    link = {"meterId": "METER-1", "validFrom": moment, "validTo": end}
    body = json.dumps(link if method == "PUT" else {**reading, "timestamp": moment}).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    assert ask(api, method, request) in {200, 400, 409}


@EXACTLY
@given(st.sampled_from(WRITES), content_types, encodings, bodies)
def test_any_body(api: WattlineProcess, route: tuple[str, str], content_type: str, encoding: str, body: bytes) -> None:
    method, path = route
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n{encoding}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    status = ask(api, method, head.encode("latin-1") + body)
    assert status is not None or len(body) > REQUEST_BYTES_READ


@EXACTLY
@given(
    st.sampled_from(WRITES),
    st.one_of(
        st.sampled_from(["-1", "+1", "0x1", "1, 2", "9" * 30, "", "1\r\nContent-Length: 2"]).map(
            lambda length: f"Content-Length: {length}"
        ),
        st.just("Transfer-Encoding: chunked"),
        st.sampled_from(["Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked\r\nContent-Length: 3"]),
    ),
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [
                b"zz\r\n",
                b"-1\r\n",
                b"FFFFFFFFFFFFFFFFF\r\n",
                b"2\r\n{}\r\n0\r\n\r\n",
                b"1;x=y\r\n{\r\n0\r\nTrailer: x\r\n\r\n",
                b"5\r\n{}\r\n0\r\n\r\n",
            ]
        ),
    ),
)
def test_any_framing(api: WattlineProcess, route: tuple[str, str], framing: str, content: bytes) -> None:
    """The half that a client closes tells the server that no more of the body comes."""
    method, path = route
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
    ask_and_end(api, method, head.encode("latin-1") + content)


def ask_and_end(api: WattlineProcess, method: str, request: bytes) -> int | None:
    """The status that is answered, if one is. The request may be incomplete: our side is closed, and that ends it."""
    with socket.create_connection(("127.0.0.1", api.http_port), timeout=ANSWER_SECONDS_MAX) as connection:
        received = b""
        with suppress(ConnectionError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
    if not received:
        return None
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    if status != 100:
        check(status, "application/json", body, empty=method == "HEAD")
    return status


@EXACTLY
@given(st.sampled_from([("GET", GETS[0]), *WRITES]), st.lists(st.tuples(header_names, header_values), max_size=5))
def test_any_head(api: WattlineProcess, route: tuple[str, str], headers: list[tuple[bytes, bytes]]) -> None:
    method, path = route
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Connection: close", *(b": ".join(pair) for pair in headers)]
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    assert ask(api, method, head) is not None or len(head) > REQUEST_BYTES_READ


@EXACTLY
@given(st.binary(max_size=200))
def test_any_bytes(api: WattlineProcess, junk: bytes) -> None:
    ask_and_end(api, "GET", junk + b"\r\n\r\n")
