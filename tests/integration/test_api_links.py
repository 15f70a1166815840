"""Links: one meter a vehicle and one vehicle a meter at any time, whatever is put, repeated, or put by many at once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, cast

import httpx
import psycopg
import pytest

from tests.api_client import api_client, async_api_client
from tests.api_process import MeterRow, VehicleRow, prepared_database, running_api, store
from tests.backends import Database

pytestmark = pytest.mark.citus_too

RFC_3339 = "must be RFC 3339 with an offset, like 2026-01-31T14:00:00Z"
ID_CHARACTERS = "must be 1 to 100 characters of A-Z a-z 0-9 . _ : -"
MAY, JUNE, JULY, AUGUST = (f"2026-0{month}-01T00:00:00.000Z" for month in (5, 6, 7, 8))
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Served:
    """The API and the database behind it."""

    client: httpx.Client
    url: str

    def put(self, vehicle_id: str, **body: object) -> httpx.Response:
        return self.client.put(f"/v1/vehicles/{vehicle_id}/meter", json=body)

    def linked(self, vehicle_id: str, **body: object) -> dict[str, Any]:
        response = self.put(vehicle_id, **body)
        assert response.status_code == 200, response.text
        data: dict[str, Any] = response.json()["data"]
        return data

    def refused(self, vehicle_id: str, **body: object) -> str:
        """What a 409 says; it has changed nothing."""
        before = self.everything()
        response = self.put(vehicle_id, **body)
        assert response.status_code == 409, response.text
        assert response.json()["errors"] == []
        assert self.everything() == before
        message: str = response.json()["message"]
        return message

    def links(self, vehicle_id: str) -> list[tuple[str, str, str | None]]:
        response = self.client.get(f"/v1/vehicles/{vehicle_id}/meters")
        assert response.status_code == 200, response.text
        assert response.json()["nextCursor"] is None
        found = response.json()["data"]
        assert all(link["vehicleId"] == vehicle_id for link in found)
        return [(link["meterId"], link["validFrom"], link["validTo"]) for link in found]

    def everything(self) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute("SELECT * FROM vehicle_meter_links ORDER BY vehicle_id, valid_from").fetchall()


@pytest.fixture(scope="module")
def served(postgres_server: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with (
        prepared_database(postgres_server) as url,
        running_api(tmp_path_factory.mktemp("api"), url, METER_ID_CONVENTION="CAR-:BOX-") as process,
        api_client(process.http_url, timeout=10) as client,
    ):
        yield Served(client, url)


@pytest.fixture
def car() -> str:
    """A vehicle that no other test links; BOX-… of the same number are its meters."""
    return f"CAR-{next(_numbers)}"


def test_a_link_begins_with_its_first_put(served: Served, car: str) -> None:
    data = served.linked(car, meterId="BOX:a", validFrom="2026-05-01T02:00:00.123456+02:00", validTo=JULY)
    assert data == {
        "vehicleId": car,
        "meterId": "BOX:a",
        "validFrom": "2026-05-01T00:00:00.123Z",
        "validTo": JULY,
        "warnings": ["Meter BOX:a has never sent a reading (or was forgotten); check the id."],
    }
    assert served.links(car) == [("BOX:a", "2026-05-01T00:00:00.123Z", JULY)]
    (stored,) = (link for link in served.everything() if link[0] == car)
    assert stored[2] == datetime(2026, 5, 1, 0, 0, 0, 123456, UTC)


def test_a_later_link_closes_the_open_one(served: Served, car: str) -> None:
    served.linked(car, meterId=f"{car}.1", validFrom=MAY)
    assert served.linked(car, meterId=f"{car}.2", validFrom=JUNE)["validTo"] is None
    assert served.linked(car, meterId=f"{car}.1", validFrom=JULY, validTo=AUGUST)["validTo"] == AUGUST
    assert served.links(car) == [(f"{car}.1", MAY, JUNE), (f"{car}.2", JUNE, JULY), (f"{car}.1", JULY, AUGUST)]


def test_a_put_says_what_it_changed(served: Served, car: str) -> None:
    def said(**body: object) -> str:
        message: str = served.put(car, meterId=f"{car}.1", **body).json()["message"]
        return message

    feeds = f"Meter {car}.1 feeds vehicle {car} from {JUNE} until"
    assert said(validFrom=JUNE) == f"{feeds} further notice."
    assert said(validFrom=JUNE, validTo=None) == f"{feeds} further notice, as before: nothing has changed."
    assert said(validFrom=JUNE, validTo=JULY) == f"{feeds} {JULY} now; it was until further notice."
    assert said(validFrom=JUNE, validTo=AUGUST) == f"{feeds} {AUGUST} now; it was until {JULY}."
    assert said(validFrom=JUNE) == f"{feeds} {AUGUST}, as before: nothing has changed."
    served.linked(car, meterId=f"{car}.2", validFrom=AUGUST)
    september = "2026-09-01T00:00:00.000Z"
    closed = f"Until then meter {car}.2 feeds it: that link ends there."
    assert said(validFrom=september).endswith(f"from {september} until further notice. {closed}")


def test_a_put_may_be_repeated(served: Served, car: str) -> None:
    for _ in range(2):
        served.linked(car, meterId=f"{car}.1", validFrom=MAY)
    assert served.links(car) == [(f"{car}.1", MAY, None)]
    for _ in range(2):
        served.linked(car, meterId=f"{car}.1", validFrom=MAY, validTo=JUNE)
    assert served.links(car) == [(f"{car}.1", MAY, JUNE)]


def test_a_put_repeated_after_a_later_link_changes_nothing(served: Served, car: str) -> None:
    served.linked(car, meterId=f"{car}.1", validFrom=MAY)
    served.linked(car, meterId=f"{car}.2", validFrom=JUNE)
    assert served.linked(car, meterId=f"{car}.1", validFrom=MAY)["validTo"] == JUNE
    assert served.links(car) == [(f"{car}.1", MAY, JUNE), (f"{car}.2", JUNE, None)]


def test_null_opens_a_link_again_where_nothing_follows(served: Served, car: str) -> None:
    served.linked(car, meterId=f"{car}.1", validFrom=MAY, validTo=JUNE)
    assert served.linked(car, meterId=f"{car}.1", validFrom=MAY, validTo=None)["validTo"] is None
    served.linked(car, meterId=f"{car}.2", validFrom=JULY)
    said = served.refused(car, meterId=f"{car}.1", validFrom=MAY, validTo=None)
    assert f"Meter {car}.2 feeds vehicle {car} from {JULY} until further notice" in said


def test_the_end_of_a_link_may_move_until_the_next_one(served: Served, car: str) -> None:
    served.linked(car, meterId=f"{car}.1", validFrom=MAY, validTo=JUNE)
    served.linked(car, meterId=f"{car}.2", validFrom=JULY)
    served.linked(car, meterId=f"{car}.1", validFrom=MAY, validTo=JULY)
    said = served.refused(car, meterId=f"{car}.1", validFrom=MAY, validTo=AUGUST)
    assert f"Meter {car}.2 feeds vehicle {car} from {JULY}" in said
    assert served.links(car) == [(f"{car}.1", MAY, JULY), (f"{car}.2", JULY, None)]


@pytest.mark.parametrize(
    ("valid_from", "valid_to"), [(MAY, JULY), (MAY, None), (JUNE, JULY), (JULY, AUGUST), (JUNE, None)]
)
def test_a_vehicle_has_one_meter_at_a_time(served: Served, car: str, valid_from: str, valid_to: str | None) -> None:
    end = "2026-07-15T00:00:00.000Z"
    served.linked(car, meterId=f"{car}.1", validFrom=JUNE, validTo=end)
    said = served.refused(car, meterId=f"{car}.2", validFrom=valid_from, validTo=valid_to)
    assert f"Meter {car}.1 feeds vehicle {car} from {JUNE} until {end}; a vehicle has one meter at a time" in said


def test_an_earlier_link_needs_an_end_before_the_open_one(served: Served, car: str) -> None:
    served.linked(car, meterId=f"{car}.2", validFrom=JUNE)
    assert "until further notice" in served.refused(car, meterId=f"{car}.1", validFrom=MAY)
    served.linked(car, meterId=f"{car}.1", validFrom=MAY, validTo=JUNE)
    assert served.links(car) == [(f"{car}.1", MAY, JUNE), (f"{car}.2", JUNE, None)]


def test_a_meter_feeds_one_vehicle_at_a_time_and_the_refusal_says_how_to_go_on(served: Served, car: str) -> None:
    served.linked(f"{car}.other", meterId=f"{car}.1", validFrom=MAY)
    served.linked(car, meterId=f"{car}.2", validFrom=MAY)
    said = served.refused(car, meterId=f"{car}.1", validFrom=JUNE)  # neither is its own open link closed
    assert f"Meter {car}.1 feeds vehicle {car}.other from {MAY} until further notice" in said
    assert f"PUT it again to /v1/vehicles/{car}.other/meter with the same meterId and validFrom, and a validTo" in said
    served.linked(f"{car}.other", meterId=f"{car}.1", validFrom=MAY, validTo=JUNE)
    served.linked(car, meterId=f"{car}.1", validFrom=JUNE)
    assert served.links(car) == [(f"{car}.2", MAY, JUNE), (f"{car}.1", JUNE, None)]


def test_a_deleted_link_never_was_and_its_time_is_free(served: Served, car: str) -> None:
    served.linked(car, meterId=f"{car}.wrong", validFrom=MAY, validTo=JUNE)
    served.linked(car, meterId=f"{car}.2", validFrom="2026-06-01T00:00:00.123456Z")
    where = f"/v1/vehicles/{car}/meter"
    response = served.client.delete(where, params={"validFrom": MAY})
    assert response.status_code == 200, response.text
    assert response.json()["data"] == {"vehicleId": car, "meterId": f"{car}.wrong", "validFrom": MAY, "validTo": JUNE}
    assert f"Meter {car}.wrong does not feed vehicle {car} from {MAY} until {JUNE}" in response.json()["message"]
    assert f"follows its name again: meter {car.replace('CAR', 'BOX')}" in response.json()["message"]
    assert served.client.delete(where, params={"validFrom": MAY}).status_code == 404
    served.linked(car, meterId=f"{car}.right", validFrom=MAY, validTo=JUNE)
    shown = "2026-06-01T00:00:00.123Z"  # as answers show it
    message = served.client.delete(where, params={"validFrom": shown}).json()["message"]
    assert "a PUT gives it to the right one" in message
    assert served.links(car) == [(f"{car}.right", MAY, JUNE)]


def test_a_deletion_names_its_link(served: Served, car: str) -> None:
    for params in ({}, {"validFrom": "soon"}):
        response = served.client.delete(f"/v1/vehicles/{car}/meter", params=params)
        assert response.status_code == 400
        assert [problem["field"] for problem in response.json()["errors"]] == ["validFrom"]


def test_a_link_that_takes_the_meter_of_another_name_is_a_warning(served: Served, car: str) -> None:
    at = datetime(2026, 5, 1, tzinfo=UTC)
    other, meter = f"{car}.other", f"{car.replace('CAR', 'BOX')}.other"
    assert len(served.linked(car, meterId=meter, validFrom=MAY)["warnings"]) == 1
    store(served.url, [MeterRow(meter, at, 1.0)], [VehicleRow(other, at, 1.0), VehicleRow(car, at, 1.0)])
    (warning,) = served.linked(car, meterId=meter, validFrom=MAY)["warnings"]
    assert f"By its name meter {meter} feeds vehicle {other}" in warning
    served.linked(other, meterId=f"{car}.its", validFrom=MAY)
    assert served.linked(car, meterId=meter, validFrom=MAY)["warnings"] == []


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ({}, {"meterId": "is missing", "validFrom": "is missing"}),
        ({"meterId": "B", "validFrom": MAY, "until": JUNE}, {"until": "is not a field of a link"}),
        ({"meterId": "B 1", "validFrom": MAY}, {"meterId": ID_CHARACTERS}),
        ({"meterId": "B" * 101, "validFrom": MAY}, {"meterId": ID_CHARACTERS}),
        ({"meterId": "", "validFrom": MAY}, {"meterId": ID_CHARACTERS}),
        ({"meterId": 5, "validFrom": None}, dict.fromkeys(("meterId", "validFrom"), "input should be a valid string")),
        ({"meterId": "B", "validFrom": "2026-05-01T00:00:00"}, {"validFrom": RFC_3339}),
        ({"meterId": "B", "validFrom": "1777593600", "validTo": "soon"}, {"validFrom": RFC_3339, "validTo": RFC_3339}),
        ({"meterId": "B", "validFrom": "2026-02-30T00:00:00Z"}, {"validFrom": "is a moment that no calendar has"}),
        ({"meterId": "B", "validFrom": "0001-01-01T00:00:00+01:00"}, {"validFrom": "is a moment that no calendar has"}),
        ({"meterId": "B", "validFrom": MAY, "validTo": MAY}, {"validTo": "must be later than validFrom"}),
        ({"meterId": "B", "validFrom": JUNE, "validTo": MAY}, {"validTo": "must be later than validFrom"}),
        ([], {"": "a JSON object is expected"}),
        ("link", {"": "a JSON object is expected"}),
    ],
)
def test_what_is_no_link_is_refused_field_by_field(served: Served, body: object, problems: dict[str, str]) -> None:
    before = served.everything()
    response = served.client.put("/v1/vehicles/CAR/meter", json=body)
    assert response.status_code == 400, response.text
    assert {each["field"]: each["message"] for each in response.json()["errors"]} == problems
    assert served.everything() == before


def test_a_body_that_is_no_json(served: Served) -> None:
    path, headers = "/v1/vehicles/CAR/meter", {"Content-Type": "application/json"}
    broken = served.client.put(path, content=b'{"meterId":', headers=headers)
    assert (broken.status_code, broken.json()["message"][:20]) == (400, "The body is not JSON")
    assert served.client.put(path, headers=headers).status_code == 400
    surplus = {f"f{number}": number for number in range(60_000)}
    assert served.client.put(path, json=surplus).status_code == 413  # no link is so long
    assert served.client.put(path, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("vehicle_id", ["CAR%201", "C" * 101, "%C3%A4"])
def test_an_id_that_no_vehicle_has(served: Served, vehicle_id: str) -> None:
    for response in (
        served.put(vehicle_id, meterId="B", validFrom=MAY),
        served.client.get(f"/v1/vehicles/{vehicle_id}/meters"),
    ):
        assert response.status_code == 400
        assert [each["field"] for each in response.json()["errors"]] == ["vehicleId"]


def test_known_and_unknown_vehicles(served: Served, car: str) -> None:
    response = served.client.get(f"/v1/vehicles/{car}/meters")
    assert response.status_code == 404
    assert car in response.json()["message"]
    store(served.url, vehicles=[VehicleRow(car, datetime(2026, 5, 1, tzinfo=UTC), 1.0)])
    assert served.links(car) == []
    served.linked(f"{car}.linked", meterId=f"{car}.1", validFrom=MAY)  # before its first reading
    assert len(served.links(f"{car}.linked")) == 1


def test_many_at_once_leave_no_overlap_and_lose_nothing(served: Served) -> None:
    """Some 30 clients put links of few vehicles and meters: every link that was answered with 200 is there, with the
    end that was given or that a later link of its vehicle gave it.
    """
    rng = Random(4)
    start = datetime(2027, 1, 1, tzinfo=UTC)
    wanted: dict[tuple[str, str, datetime], datetime | None] = {}
    for _ in range(150):
        begin = start + timedelta(hours=rng.randrange(60))
        end = begin + timedelta(hours=rng.randrange(1, 5)) if rng.random() < 0.5 else None
        wanted[f"MANY-{rng.randrange(4)}", f"BOX-{rng.randrange(6)}", begin] = end
    taken: list[tuple[str, str, datetime]] = []
    statuses: list[int] = []
    unsure: set[tuple[str, str, datetime]] = set()  # 503, as on a busy machine: it may have been done all the same

    async def put(client: httpx.AsyncClient, queue: list[tuple[str, str, datetime]]) -> None:
        while queue:
            key = queue.pop()
            vehicle_id, meter_id, begin = key
            body = {"meterId": meter_id, "validFrom": begin.isoformat()}
            if (end := wanted[key]) is not None:
                body["validTo"] = end.isoformat()
            response = await client.put(f"/v1/vehicles/{vehicle_id}/meter", json=body)
            statuses.append(response.status_code)
            if response.status_code == 200:
                taken.append(key)
            if response.status_code == 503:
                assert len(unsure) < len(wanted) / 2
                unsure.add(key)
                queue.append(key)

    async def story() -> None:
        queue = [*wanted]
        async with (
            async_api_client(served.client.base_url, timeout=20) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(30):
                group.create_task(put(client, queue))

    asyncio.run(story())
    assert set(statuses) - {503} == {200, 409}
    stored = {
        (str(vehicle_id), str(meter_id), cast(datetime, begin)): cast("datetime | None", end)
        for vehicle_id, meter_id, begin, end in served.everything()
        if str(vehicle_id).startswith("MANY-")
    }
    assert set(taken) <= stored.keys() <= {*taken, *unsure}
    assert_no_overlap(stored)
    for link, end in stored.items():
        given = wanted[link]
        later = {begin for vehicle_id, _, begin in stored if vehicle_id == link[0] and begin > link[2]}
        assert end == given or (given is None and end in later)


def assert_no_overlap(stored: dict[tuple[str, str, datetime], datetime | None]) -> None:
    for one, other in itertools.combinations(stored, 2):
        if one[0] == other[0] or one[1] == other[1]:
            first, second = sorted((one, other), key=lambda link: link[2])
            end = stored[first]
            assert first[2] < second[2]
            assert end is not None
            assert end <= second[2]
