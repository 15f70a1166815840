"""The kinds of readings, each declared once: everything that differs between a meter and a vehicle follows from here.

Topics, validation, tables, SQL, JSON, CSV, metrics' labels and the load generator are made from these declarations when
the program starts. A new kind is one entry in KINDS and one migration (docs/recipes.md). What is about a *pair* of
kinds, such as the efficiency of a vehicle at its meter, is not: it names both, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, LiteralString

from telemetry.silence import SILENT

Use = Literal["sum", "mean", "newest"]
"""What an hour makes of a measure: it adds up, it is averaged, or only its newest value matters."""

TOPIC_ROOT = "v1/telemetry"


@dataclass(frozen=True)
class Measure:
    """One number of a reading."""

    name: str
    """In JSON: `kwhConsumedAc`."""
    column: str
    """In every table: `kwh_consumed_ac`."""
    unit: str
    least: float
    most: float
    """Both ends are allowed."""
    use: Use
    meaning: str
    """For people, without the unit."""
    typical: tuple[float, float]
    """Where a simulated device without a model of its own stays."""
    example: float


@dataclass(frozen=True)
class Kind:
    """A kind of device and what it reports. Columns, rows and JSON have its measures in the order given here."""

    name: str
    """In topics, tables, routes and metrics: `meter`."""
    id_prefix: str
    """What the ids of simulated devices begin with."""
    meaning: str
    """What a reading says, as one sentence for the description of the API."""
    measures: tuple[Measure, ...]
    plural: str = field(default="")
    """For people, and in the stream's JSON; empty: the name with an s."""

    @property
    def many(self) -> str:
        return self.plural or f"{self.name}s"

    @property
    def title(self) -> str:
        """The name as part of a CamelCase name."""
        return self.name.capitalize()

    @property
    def one(self) -> str:
        """For people: `a meter`."""
        return f"{'an' if self.name[0] in 'aeio' else 'a'} {self.name}"

    @property
    def id_field(self) -> str:
        """In JSON and in paths: `meterId`."""
        return f"{self.name}Id"

    @property
    def id_column(self) -> str:
        """In every table: `meter_id`."""
        return f"{self.name}_id"

    @property
    def history(self) -> str:
        """The table of all readings, a partition a day."""
        return f"{self.name}_readings_history"

    @property
    def status(self) -> str:
        """The table of each device's newest reading."""
        return f"{self.name}_status"

    @property
    def hourly(self) -> str:
        """The table of sums over hours."""
        return f"{self.name}_hourly"

    @property
    def route(self) -> str:
        """Where HTTP asks for it: `/v1/telemetry/meter`."""
        return f"/{TOPIC_ROOT}/{self.name}"

    @property
    def device_route(self) -> str:
        """Where HTTP asks for one of its devices: `/v1/telemetry/meter/{meterId}`; what is asked for follows."""
        return f"{self.route}/{{{self.id_field}}}"

    @property
    def topic_prefix(self) -> str:
        """What its topics begin with; the device's id follows."""
        return f"{TOPIC_ROOT}/{self.name}/"

    @property
    def total_field(self) -> str:
        """How many devices there are, in the stream's JSON: `totalMeters`."""
        return f"total{self.many.capitalize()}"

    @property
    def example_id(self) -> str:
        """An id for descriptions and examples."""
        return f"{self.id_prefix}001"

    @property
    def example(self) -> dict[str, object]:
        """A payload for descriptions and examples."""
        numbers = {measure.name: measure.example for measure in self.measures}
        return {self.id_field: self.example_id, **numbers, "timestamp": "2026-01-31T14:00:00Z"}

    @property
    def max_kwh_setting(self) -> str:
        """The setting that limits the energy of one reading: `METER_MAX_KWH`."""
        return f"{self.name.upper()}_MAX_KWH"

    @property
    def summed(self) -> tuple[tuple[Measure, str], ...]:
        """The measures of which hours are kept, each with its column in the hourly table."""
        columns = {"sum": "{}", "mean": "{}_sum"}
        return tuple(
            (measure, columns[measure.use].format(measure.column))
            for measure in self.measures
            if measure.use in columns
        )

    @property
    def energies(self) -> tuple[Measure, ...]:
        """The measures that are energies and add up."""
        return tuple(measure for measure in self.measures if measure.use == "sum" and measure.unit == "kWh")

    def sql(self, template: LiteralString) -> bytes:
        """A statement for this kind: `template` with the names of SQL_NAMES in braces replaced."""
        return template.format_map(self._names).encode()

    @cached_property
    def _names(self) -> Mapping[str, str]:
        columns = [measure.column for measure in self.measures]
        hours = [column for _, column in self.summed]
        sums = [f"sum({measure.column})" for measure, _ in self.summed]
        return {
            "kind": self.name,
            "id": self.id_column,
            "history": self.history,
            "status": self.status,
            "hourly": self.hourly,
            "measures": ", ".join(columns),
            "as_floats": ", ".join(f"{column}::float8" for column in columns),
            "arrays": "%b::text[], %b::timestamptz[]" + ", %b::float8[]" * len(columns),
            "silent": SILENT,
            "newer_measures": ", ".join(f"{column} = excluded.{column}" for column in columns),
            "hours": ", ".join(hours),
            "sums": ", ".join(sums),
            "kwh": " + ".join(f"sum({measure.column})" for measure in self.energies) or "0",
            "named_sums": ", ".join(f"{text} AS {column}" for text, column in zip(sums, hours, strict=True)),
            "sums_of_hours": ", ".join(f"sum({column}) AS {column}" for column in hours),
        }


SQL_NAMES: Mapping[str, str] = {
    "kind": "the kind's name, meter",
    "id": "the column of its device ids, meter_id",
    "history": "meter_readings_history",
    "status": "meter_status",
    "hourly": "meter_hourly",
    "measures": "the columns of the measures: kwh_consumed_ac, voltage",
    "as_floats": "the measures, each with ::float8",
    "arrays": "binary parameters for unnest: ids, timestamps, one array a measure",
    "silent": "of a row of the status table: the device is silent; needs the parameter silent_after",
    "newer_measures": "for DO UPDATE SET: each measure from excluded",
    "hours": "the columns of the hourly sums",
    "sums": "the sums over readings that these columns hold",
    "kwh": "the energy of readings, all of its measures together: sum(kwh_consumed_ac)",
    "named_sums": "the sums, named like the columns",
    "sums_of_hours": "the sums over hours, named like the columns",
}
"""What a template may name in braces, with what it becomes."""


METER = Kind(
    name="meter",
    id_prefix="METER-",
    meaning="AC energy (kWh) that a meter measured since its previous reading, and the voltage (V).",
    measures=(
        Measure(
            name="kwhConsumedAc",
            column="kwh_consumed_ac",
            unit="kWh",
            least=0,
            most=1_000_000,
            use="sum",
            meaning="AC energy since the previous reading",
            typical=(0.0, 0.4),
            example=0.1834,
        ),
        Measure(
            name="voltage",
            column="voltage",
            unit="V",
            least=0,
            most=1_000_000,
            use="newest",
            meaning="mains voltage",
            typical=(230.0, 245.0),
            example=238.4,
        ),
    ),
)

VEHICLE = Kind(
    name="vehicle",
    id_prefix="VEH-",
    meaning=(
        "DC energy (kWh) that reached the battery since the previous reading, state of charge (%), temperature (°C)."
    ),
    measures=(
        Measure(
            name="soc",
            column="soc",
            unit="%",
            least=0,
            most=100,
            use="newest",
            meaning="state of charge",
            typical=(20.0, 90.0),
            example=75,
        ),
        Measure(
            name="kwhDeliveredDc",
            column="kwh_delivered_dc",
            unit="kWh",
            least=0,
            most=1_000_000,
            use="sum",
            meaning="DC energy since the previous reading",
            typical=(0.0, 0.35),
            example=0.1544,
        ),
        Measure(
            name="batteryTemp",
            column="battery_temp",
            unit="°C",
            least=-100,
            most=200,
            use="mean",
            meaning="battery temperature",
            typical=(15.0, 40.0),
            example=31.5,
        ),
    ),
)

KINDS: tuple[Kind, ...] = (METER, VEHICLE)
BY_NAME: Mapping[str, Kind] = {kind.name: kind for kind in KINDS}


class SqlByKind(dict[str, bytes]):
    """A statement as it runs for each kind, by its name: rendered once, when the program starts."""

    def __init__(self, template: LiteralString) -> None:
        super().__init__({kind.name: kind.sql(template) for kind in KINDS})
        self.template = template
