"""`/v1/readings/annulments`: readings taken out of every answer, put back, and who did it and why.

What the command `wattline readings` does, by the same room `ledger`. The API makes no other change of readings, so each
takes the rights of its database user for just its transaction; all else is done as API_ROLE.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Annotated, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.database.questions import Database
from analytics_api.http import parameters
from analytics_api.http.answers import answer, page_answer, timestamp
from analytics_api.http.audit import note_change
from analytics_api.http.bodies import BODY_BYTES_FEW, Moment, json_body, validated
from analytics_api.http.cursors import page_of, read_cursor, write_cursor
from analytics_api.http.errors import (
    ConflictError,
    ForbiddenError,
    InvalidBodyError,
    InvalidParameterError,
    NotFoundError,
    Problem,
)
from ledger.annul import Annulled, annul, kind_of
from ledger.listing import ANNULMENTS, Annulment
from ledger.restore import Restored, restore
from ledger.stretch import Change, LedgerError, NothingThereError, Stretch, Text
from telemetry.kinds import BY_NAME, KINDS, Kind
from telemetry.readings import DEVICE_ID_RULE, DeviceId, instant, told_as

ID_MAX = 2**53 - 1  # the largest that every reader of JSON keeps exactly
LISTING = "annulments"

T = TypeVar("T")

_OWN_RIGHTS = "SET LOCAL ROLE NONE"


KIND_RULE = " or ".join(kind.name for kind in KINDS)
KindName = Annotated[str, Field(pattern=f"^({'|'.join(kind.name for kind in KINDS)})$"), told_as(KIND_RULE)]
AnnulmentId = Annotated[int, Field(strict=True, ge=1, le=ID_MAX)]

_KIND: TypeAdapter[str] = TypeAdapter(KindName)
_DEVICE_ID: TypeAdapter[str] = TypeAdapter(DeviceId)
_KEY: TypeAdapter[tuple[int]] = TypeAdapter(tuple[AnnulmentId])


class RestoreBody(BaseModel):
    """Who restores; with dryRun the answer says what it would change, and nothing is changed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    by: Text
    dryRun: bool = False  # noqa: N815 - as JSON has it


class AnnulmentBody(RestoreBody):
    """Which readings: those of a device in [from, to). `kind` is needed only where two kinds have such a device."""

    kind: KindName | None = None
    deviceId: DeviceId  # noqa: N815
    start: Annotated[Moment, Field(alias="from")]
    end: Annotated[Moment, Field(alias="to")]
    reason: Text


def routes(database: Database) -> list[BaseRoute]:
    return [
        Route("/v1/readings/annulments", partial(make, database), methods=["POST"]),
        Route("/v1/readings/annulments", partial(listed, database)),
        Route("/v1/readings/annulments/{annulmentId}/restore", partial(put_back, database), methods=["POST"]),
    ]


async def make(database: Database, request: Request) -> Response:
    """Annul; 404 where there is no such reading, 409 where it cannot be done."""
    body = validated(AnnulmentBody, await json_body(request, BODY_BYTES_FEW), "an annulment")
    start, end = instant(body.start), instant(body.end)
    if end <= start:
        raise InvalidBodyError("A stretch of time ends after it began.", Problem("to", "must be later than from"))

    tried = ", only tried" if body.dryRun else ""
    note_change(request, f"{body.deviceId} from {timestamp(start)} to {timestamp(end)}{tried}")

    async def work(connection: AsyncConnection[TupleRow]) -> tuple[Kind, Annulled]:
        kind = BY_NAME[body.kind] if body.kind else await kind_of(connection, body.deviceId, start, end)
        stretch = Stretch(kind, body.deviceId, start, end)
        return kind, await annul(connection, stretch, reason=body.reason, who=body.by)

    kind, done = await _changed(database, work, dry_run=body.dryRun)
    number = None if body.dryRun else done.annulment_id
    return answer(_change(number, kind, body.deviceId, done))


async def put_back(database: Database, request: Request) -> Response:
    """Restore what can be; `left` is what cannot, because another reading of that moment is stored now."""
    number = _annulment_id(request)
    body = validated(RestoreBody, await json_body(request, BODY_BYTES_FEW), "a restore")

    async def work(connection: AsyncConnection[TupleRow]) -> Restored:
        return await restore(connection, number, who=body.by)

    done = await _changed(database, work, dry_run=body.dryRun)
    return answer({**_change(number, done.kind, done.device_id, done), "left": done.left})


async def listed(database: Database, request: Request) -> Response:
    """The annulments, newest first."""
    limit = parameters.limit(request)
    cursor = parameters.cursor(request)
    chosen = {
        "kind": _known(request, "kind", _KIND, f"must be {KIND_RULE}"),
        "device_id": _known(request, "deviceId", _DEVICE_ID, f"must be {DEVICE_ID_RULE}"),
        "before": None if cursor is None else read_cursor(LISTING, _KEY, cursor)[0],
    }
    rows = await database.rows(ANNULMENTS, {**chosen, "rows": limit + 1})
    page, next_cursor = page_of(
        [Annulment(*row) for row in rows], limit, lambda last: write_cursor(LISTING, (last.id,))
    )
    return page_answer([_record(annulment) for annulment in page], next_cursor)


async def _changed(
    database: Database, work: Callable[[AsyncConnection[TupleRow]], Awaitable[T]], *, dry_run: bool
) -> T:
    async def with_own_rights(connection: AsyncConnection[TupleRow]) -> T:
        try:
            async with connection.transaction(force_rollback=dry_run):
                await connection.execute(_OWN_RIGHTS)
                return await work(connection)
        except NothingThereError as error:
            raise NotFoundError(_sentence(error)) from error
        except LedgerError as error:
            raise ConflictError(_sentence(error)) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise ForbiddenError(
                "The database user of this API may not change readings; use wattline readings instead."
            ) from error

    return await database.write(with_own_rights)


def _change(number: int | None, kind: Kind, device_id: str, change: Change) -> dict[str, object]:
    return {
        "id": number,
        "kind": kind.name,
        "deviceId": device_id,
        "readings": change.readings,
        "kwh": round(change.kwh, 4),
        "hours": change.hours,
        "statusChanged": change.status_changed,
    }


def _record(annulment: Annulment) -> dict[str, object]:
    return {
        "id": annulment.id,
        "kind": annulment.kind,
        "deviceId": annulment.device_id,
        "from": timestamp(annulment.start),
        "to": timestamp(annulment.end),
        "reason": annulment.reason,
        "by": annulment.who,
        "annulledAt": timestamp(annulment.annulled_at),
        "readings": annulment.readings,
        "restored": annulment.restored,
        "restoredAt": _timestamp(annulment.restored_at),
        "restoredBy": annulment.restored_by,
    }


def _timestamp(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)


def _annulment_id(request: Request) -> int:
    text = request.path_params["annulmentId"]
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:20]) <= ID_MAX):
        raise InvalidParameterError("annulmentId", "must be the number of an annulment")
    return int(text)


def _known(request: Request, name: str, shape: TypeAdapter[str], message: str) -> str | None:
    text = parameters.only(request, name)
    try:
        return None if text is None else shape.validate_python(text)
    except ValueError:
        raise InvalidParameterError(name, message) from None


def _sentence(error: LedgerError) -> str:
    said = str(error)
    return f"{said[0].upper()}{said[1:]}."
