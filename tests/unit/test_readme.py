"""The README's promises that a machine can check."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from config.settings import Settings
from telemetry.kinds import KINDS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_table_of_settings_is_that_of_the_program() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| `") and line.split("`")[1].isupper()]
    expected = []
    for name, field in Settings.model_fields.items():
        if name == "max_kwh":
            expected += [
                f"| `{kind.max_kwh_setting}` | `{min(measure.most for measure in kind.energies):.0f}` "
                f"| {(field.description or '').format(kind=kind.name)} |"
                for kind in KINDS
                if kind.energies
            ]
            continue
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        default = int(default) if isinstance(default, bool) else default  # as people write it into .env
        shown = "\N{EN DASH}" if default is None else f"`{default}`"
        expected.append(f"| `{name.upper()}` | {shown} | {field.description} |")
    assert rows == expected
