"""wattline's own commands as services: each a child process that gets everything by its environment.

They see the settings of `up` (environment, `.env`) except those that `up` itself decides: where the servers are and
which ports to use. For root they run as the servers' account, which need not be able to read `.env` or the password
file: their contents are handed over in the environment, which only root and that account can see.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from config.env_file import ENV_FILE
from embedded.interpreter import Interpreter
from processes.asking import ask, fetch
from processes.child import Account, Program
from processes.service import Service

WORDS_MAX = 500


@dataclass(frozen=True)
class Household:
    """What all commands of one `up` have in common: who runs them, where, and what they are told."""

    interpreter: Interpreter
    home: Path
    """A folder in which an account of their own starts, and may write."""
    environment: Mapping[str, str]


class WattlineCommand(Service):
    """`python -m wattline COMMAND ...`; ready when its /readyz answers 200, or at once where it has none."""

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, household: Household, ready_port: int | None = None
    ) -> None:
        super().__init__(log)
        self.name = name
        self.label = f"wattline {arguments[0]}"
        self._arguments = arguments
        self._household = household
        self._ready_port = ready_port

    def prepare(self) -> Program:
        """Environment and folder."""
        household, account = self._household, self._household.interpreter.account
        environment = {**os.environ, **household.environment, **household.interpreter.environment}
        if account:
            environment = {**_read_env_file(environment), **environment, **_identity(account)}
            household.home.mkdir(mode=0o700, exist_ok=True)
            os.chown(household.home, account.uid, account.gid)
        return Program(
            name=self.name,
            command=(household.interpreter.program, "-m", "wattline", *self._arguments),
            log=self.log,
            environment=environment,
            directory=household.home if account else None,
            account=account,
            descriptors=household.interpreter.folders,
        )

    def why_not_ready(self) -> str:
        """The answer of its /readyz."""
        status, answer = ask(self._ready_port, "/readyz") if self._ready_port is not None else (0, "")
        return f": {_in_words(answer)}" if status else ": it does not answer"

    def is_ready(self) -> bool:
        return self.running and (self._ready_port is None or fetch(self._ready_port, "/readyz") is not None)


def _in_words(answer: str) -> str:
    """The texts of an error in our own JSON; any other answer as it is, in one line."""
    try:
        error = json.loads(answer)
        texts = [error["message"], *(f"{item['field']} {item['message']}" for item in error.get("errors", ()))]
    except (ValueError, TypeError, KeyError, AttributeError):
        texts = answer.split()
    return " ".join(texts)[:WORDS_MAX]


def _read_env_file(environment: Mapping[str, str]) -> dict[str, str]:
    """The lines of `.env` that the environment leaves open; their names may be written in either case."""
    taken = {name.upper() for name in environment}
    lines = dotenv_values(ENV_FILE, encoding="utf-8") if Path(ENV_FILE).is_file() else {}
    return {name: value for name, value in lines.items() if value is not None and name.upper() not in taken}


def _identity(account: Account) -> dict[str, str]:
    """Nothing of root's home is looked for: what libraries keep there is not for this account."""
    return {"HOME": "/", "USER": account.name, "LOGNAME": account.name}
