import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from embedded.commands import Household, WattlineCommand
from embedded.interpreter import Interpreter
from embedded.ports import free_ports

NEWER = b"""{"success": false, "message": "Not ready: the database schema is newer than this program.",
"errors": [{"field": "schema", "message": "is at version 3, this program knows 2"}]}"""


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of somebody who answers 503 and these bytes to everything."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(request.param)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def _command(tmp_path: Path, port: int | None) -> WattlineCommand:
    household = Household(Interpreter("python"), tmp_path, {})
    return WattlineCommand("api", ("api",), tmp_path / "api.log", household, port)


@pytest.mark.parametrize(
    ("answering", "said"),
    [
        (
            NEWER,
            ": Not ready: the database schema is newer than this program. schema is at version 3, this program knows 2",
        ),
        (b"not ready:\n  the database is away\n", ": not ready: the database is away"),
        (b"[]", ": []"),
        (b"", ": "),
    ],
    indirect=["answering"],
)
def test_who_is_not_ready_says_why(tmp_path: Path, answering: int, said: str) -> None:
    assert _command(tmp_path, answering).why_not_ready() == said


def test_who_does_not_answer_is_told_as_such(tmp_path: Path) -> None:
    assert _command(tmp_path, free_ports(1)[0]).why_not_ready() == ": it does not answer"
