"""What the answers of the API have in common, as models, and the answers about the API itself.

`kind_schemas` has those about one kind of reading, `pair_schemas` those about pairs of devices. /openapi.json is
made of them, and tests hold the answers against them; no request runs through one. A field that no model names is an
error of the API, never of the client, so every model refuses it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Moment = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$",
        description="UTC, with milliseconds",
        examples=["2026-01-31T14:00:00.000Z"],
    ),
]
# A client that trusts a schema to the letter would refuse what a device may send but JSON cannot hold.
Measured = float | None
Count = Annotated[int, Field(ge=0)]
NextCursor = Annotated[str, Field(description="`cursor` of the next page; null on the last one")]


class Exact(BaseModel):
    """An object with these fields and no others."""

    model_config = ConfigDict(extra="forbid", json_schema_mode="serialization")  # type: ignore[typeddict-unknown-key]


class Problem(Exact):
    """One wrong field or parameter."""

    field: Annotated[str, Field(description="its name; `2.voltage` inside an array", examples=["hours"])]
    message: str


class Failure(Exact):
    """Every error."""

    success: Literal[False]
    message: Annotated[str, Field(description="one sentence for a person")]
    errors: list[Problem]


class Accepted(Exact):
    """What the broker has taken of an array."""

    accepted: Annotated[int, Field(ge=1)]


class Alive(Exact):
    """The process lives."""

    status: Literal["alive"]


class Ready(Exact):
    """The database answers and its schema is current."""

    status: Literal["ready"]
    schemaVersion: Annotated[int, Field(ge=1)]  # noqa: N815


class Success(Exact):
    """Every answer that is no error."""

    success: Literal[True]


class Page(Success):
    """A page of a list."""

    nextCursor: NextCursor | None  # noqa: N815


class AliveAnswer(Success):
    data: Alive


class ReadyAnswer(Success):
    data: Ready
