"""Settings that this version of the API could not keep."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("name", ["API_READ_TOKENS", "API_WRITE_TOKENS", "API_CORS_ORIGINS"])
def test_the_api_does_not_start_without_the_protection_that_was_asked_for(start_wattline, database_url, name):
    api = start_wattline("api", DATABASE_URL=database_url, **{name: "s3cret"})
    assert api.wait() == 2
    assert name in api.output()
    assert "s3cret" not in api.output()
