"""The README's promises that a machine can check."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from config.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_table_of_settings_is_that_of_the_program():
    rows = [line for line in README.splitlines() if line.startswith("| `") and line.split("`")[1].isupper()]
    expected = []
    for name, field in Settings.model_fields.items():
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        default = int(default) if isinstance(default, bool) else default  # as people write it into .env
        shown = "\N{EN DASH}" if default is None else f"`{default}`"
        expected.append(f"| `{name.upper()}` | {shown} | {field.description} |")
    assert rows == expected
