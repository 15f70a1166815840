"""`wattline up`: everything on one machine, started in order, kept running, stopped in the reverse order.

The only wiring of the servers, wattline's commands, their supervisor and the screen. Whatever happens here, nothing it
started is left running.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from config.errors import OK
from config.settings import load_settings
from embedded.account import account_for
from embedded.books import Books, read_sample
from embedded.broker_accounts import BrokerAccounts
from embedded.commands import Household, WattlineCommand
from embedded.errors import EmbeddedError
from embedded.interpreter import interpreter_for
from embedded.logins import Logins
from embedded.mosquitto import MosquittoServer
from embedded.ports import LOOPBACK, free_ports, trouble_with
from embedded.postgres import PostgresServer
from embedded.postgres_programs import postgres_programs
from embedded.run_file import end_left_running, sole_run, write_run
from embedded.screen import Screen
from embedded.secure_mosquitto import SecureMosquittoServer
from embedded.stopping import Stopping, StopRequested
from loadgen.fleet import device_ids
from processes.asking import fetch
from processes.errors import ProcessError
from processes.service import Service
from processes.supervisor import Supervisor

TICK_SECONDS = 0.2
BOOKS_SECONDS = 1.0
STOP_SECONDS = 30.0  # for all of them together; the ingestor's last flush is what may take a while
LEAST_STOP_SECONDS = 1.0  # for each, also when somebody else has used the deadline up
MIGRATE_SECONDS = 120.0
BROKER_SETTINGS = ("MQTT_GATEWAY_URL", "MQTT_MONITOR_URL", "MQTT_TLS_CA", "MQTT_TLS_CERT", "MQTT_TLS_KEY")


@dataclass(frozen=True)
class Options:
    """What a person chose. Ports: 0 = any free one. No devices or no interval: no simulated fleet."""

    meters: int
    vehicles: int
    interval_seconds: float
    http_port: int
    mqtt_port: int
    pg_port: int
    metrics_port: int
    data_dir: Path
    secure: bool = False
    """TLS, and an account for each of wattline's parts and each simulated device."""

    @property
    def fleet(self) -> Mapping[str, int]:
        """The simulated devices, by the name of their kind."""
        return {"meter": self.meters, "vehicle": self.vehicles} if self.interval_seconds else {}


def up(options: Options) -> int:
    """Run until asked to stop. Raises ProcessError, one line, when something cannot be had or does not start."""
    options.data_dir.mkdir(parents=True, exist_ok=True)
    with sole_run(options.data_dir):
        end_left_running(options.data_dir)
        run = _Run(options)
        run.stopping.listen()
        try:
            run.start()
            run.watch()
        except StopRequested:
            pass
        except ProcessError:
            if not run.stopping.requested:  # else it failed because we are being stopped
                raise
        finally:
            run.stop()
    return OK


class _Run:
    """One run, from the first server to the last."""

    def __init__(self, options: Options) -> None:
        self._began = time.monotonic()
        self._options = options
        self._logs = options.data_dir / "logs"
        self._screen = Screen()
        self._books = Books()
        self._logins = Logins()
        self._started: list[Service] = []
        self._household: Household | None = None
        self.stopping = Stopping(self._kill_all)
        self._http_port, self._mqtt_port, self._metrics_port = _chosen_ports(options)
        self._postgres = PostgresServer(
            options.data_dir / "postgres", port=options.pg_port, log=self._logs / "postgres.log"
        )
        # A folder of its own: accounts have other client ids, and so other sessions.
        folder, log = options.data_dir / "mosquitto", self._logs / "mosquitto.log"
        self._spool = options.data_dir.absolute() / "spool"
        self._mosquitto: MosquittoServer
        self._accounts: BrokerAccounts | None = None
        if options.secure:
            secure = SecureMosquittoServer(folder.with_name("mosquitto-secure"), port=self._mqtt_port, log=log)
            devices = device_ids(options.fleet, "") if any(options.fleet.values()) else []
            self._mosquitto, self._accounts = secure, BrokerAccounts(secure, self._spool, devices)
        else:
            self._mosquitto = MosquittoServer(folder, port=self._mqtt_port, log=log)

    def start(self) -> None:
        """Servers, schema, commands; each only when what it needs is ready."""
        self._screen.say("starting PostgreSQL and Mosquitto ...")
        if self._accounts:
            self._accounts.set_up(account_for(self._postgres.data))
        self._bring_up(self._postgres, self._mosquitto)
        self._screen.say("starting wattline ...")
        self._migrate()
        self._bring_up(
            self._restricted("ingestor", "ingest", ready_port=self._metrics_port),
            self._restricted("api", "api", ready_port=self._http_port),
        )
        if load_settings().retention_days:
            self._bring_up(self._command("retention", "retention", "keep", environment=self._as_owner()))
        self._introduce()
        fleet = self._options
        if any(fleet.fleet.values()):
            sizes = ("--meters", str(fleet.meters), "--vehicles", str(fleet.vehicles))
            pace = ("--interval", f"{fleet.interval_seconds:g}", "--prefix", "")
            by = ("--accounts", self._accounts.devices_file(self._handed_over())) if self._accounts else ()
            self._bring_up(self._command("loadgen", "loadgen", *sizes, *pace, *by))

    def watch(self) -> None:
        """Keep everything running and show the books, until StopRequested."""
        supervisor = Supervisor(self._started, time.monotonic())
        books_due = 0.0
        while True:
            self.stopping.pause(TICK_SECONDS)
            now = time.monotonic()
            pids = self._pids()
            for news in supervisor.look(now):
                self._screen.say(news)
            if self._pids() != pids:
                self._write_run()
            if now >= books_due:
                books_due = now + (BOOKS_SECONDS if self._books.committed else 0)
                self._show_books(now)

    def stop(self) -> None:
        """In the reverse order of the start, under one deadline."""
        self._screen.end()
        if any(service.running for service in self._started):
            self._screen.say("stopping ...")
        deadline = time.monotonic() + STOP_SECONDS
        for service in reversed(self._started):
            service.stop(max(LEAST_STOP_SECONDS, deadline - time.monotonic()))

    def _bring_up(self, *services: Service) -> None:
        for service in services:
            self.stopping.pause(0)
            self._started.append(service)
            service.launch()
            self._write_run()
        for service in services:
            service.wait_ready(pause=self.stopping.pause)

    def _migrate(self) -> None:
        environment = {**self._as_owner(), "DATABASE_LOGINS": self._logins.setting()}
        migrate = self._command("migrate", "migrate", environment=environment)
        self._started.append(migrate)
        migrate.launch()
        deadline = time.monotonic() + MIGRATE_SECONDS
        while migrate.running:
            if time.monotonic() > deadline:
                raise EmbeddedError(f"wattline migrate took longer than {MIGRATE_SECONDS:.0f} s; see {migrate.log}")
            self.stopping.pause(TICK_SECONDS / 4)
        if migrate.exit_status != OK:
            raise EmbeddedError(migrate.why_it_ended())
        self._started.remove(migrate)

    def _set_up_household(self) -> Household:
        interpreter = interpreter_for(account_for(self._postgres.data))
        if interpreter.why_not:
            self._screen.say(f"wattline's own commands run as root: {interpreter.why_not}")
        environment = {
            **dict.fromkeys(BROKER_SETTINGS, ""),  # of another broker, perhaps
            "MQTT_URL": self._mosquitto.url,
            **(self._accounts.environment(interpreter.account is not None) if self._accounts else {}),
            "HOST": LOOPBACK,
            "PORT": str(self._http_port),
            "METRICS_HOST": LOOPBACK,
            "METRICS_PORT": str(self._metrics_port),
            **dict.fromkeys(("API_TLS_CERT", "API_TLS_KEY"), ""),  # loopback; a certificate's name is another one
            "API_WRITE_LOOPBACK": "1",  # to try it out; what comes to this port comes from this machine
        }
        spool, chosen = self._spool, load_settings().rejected_spool_dir
        # The account starts in that folder, and may not be able to enter the ones above.
        ours = "." if interpreter.account else str(spool)
        environment["REJECTED_SPOOL_DIR"] = ours if chosen is None else str(chosen.absolute())
        return Household(interpreter, spool, environment)

    def _command(
        self,
        name: str,
        *arguments: str,
        ready_port: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> WattlineCommand:
        """`environment`: what only this one is told."""
        common = self._common()
        household = replace(common, environment={**common.environment, **(environment or {})})
        return WattlineCommand(name, arguments, self._logs / f"{name}.log", household, ready_port)

    def _common(self) -> Household:
        self._household = self._household or self._set_up_household()
        return self._household

    def _restricted(self, name: str, command: str, ready_port: int) -> WattlineCommand:
        """One that has a login of its own."""
        environment = {**self._logins.environment(name, self._postgres)}
        if self._accounts:
            environment |= self._accounts.environment_of(name)
        return self._command(name, command, ready_port=ready_port, environment=environment)

    def _handed_over(self) -> bool:
        """Whether wattline's commands run as an account of their own, which may not enter our folders."""
        return self._common().interpreter.account is not None

    def _as_owner(self) -> dict[str, str]:
        """For what makes and drops tables. The account that runs it need not be able to read the password file."""
        handed_over = {"PGPASSWORD": self._postgres.password} if self._handed_over() else {}
        return {"DATABASE_URL": self._postgres.url, **handed_over}

    def _show_books(self, now: float) -> None:
        metrics = fetch(self._metrics_port, "/metrics")
        if metrics is None:
            self._screen.show("the ingestor does not answer", now)
            return
        first = not self._books.committed
        self._books.enter(read_sample(metrics), now)
        if first and self._books.committed:
            self._screen.say(f"first reading committed after {now - self._began:.1f} s")
        self._screen.show(self._books.line(), now)

    def _introduce(self) -> None:
        web = f"http://{LOOPBACK}:{self._http_port}"
        psql = shutil.which("psql") or postgres_programs(account_for(self._postgres.data)).psql
        lines = (
            ("web page", f"{web}/"),
            ("questions", f"{web}/api"),
            ("a vehicle", f"curl {web}/v1/analytics/performance/VEH-001"),
            ("a meter", f"curl {web}/v1/telemetry/meter/METER-001/status"),
            ("metrics", f"http://{LOOPBACK}:{self._metrics_port}/metrics"),
            ("MQTT", self._mosquitto.url),
            *self._how_to_get_in(),
            ("database", shlex.join((psql, self._postgres.url))),
            ("logs", f"{self._logs}/"),
        )
        text = "".join(f"\n  {name:<10} {value}" for name, value in lines)
        self._screen.say(f"wattline is ready; Ctrl-C stops it, {self._options.data_dir}/ keeps its data{text}")

    def _how_to_get_in(self) -> tuple[tuple[str, str], ...]:
        """What a device needs to know beside the address."""
        if not isinstance(self._mosquitto, SecureMosquittoServer) or not self._accounts:
            return ()
        return (
            ("authority", str(self._mosquitto.ca_file)),
            ("accounts", f"{self._accounts.devices_file(False)}; `wattline devices` adds more"),
        )

    def _pids(self) -> Sequence[int | None]:
        return [service.pid for service in self._started]

    def _write_run(self) -> None:
        web, metrics = (f"http://{LOOPBACK}:{port}" for port in (self._http_port, self._metrics_port))
        ports = {
            "http": self._http_port,
            "mqtt": self._mqtt_port,
            "metrics": self._metrics_port,
            "pg": self._postgres.port,
        }
        facts: dict[str, object] = {
            "httpUrl": web,
            "mqttUrl": self._mosquitto.url,
            "metricsUrl": f"{metrics}/metrics",
            "databaseUrl": self._postgres.url,
            "ports": ports,
        }
        if isinstance(self._mosquitto, SecureMosquittoServer):
            facts |= {"mqttTlsCa": str(self._mosquitto.ca_file), "accessDir": str(self._mosquitto.access)}
        write_run(self._options.data_dir, facts, self._started)

    def _kill_all(self) -> None:
        for service in self._started:
            service.send(signal.SIGKILL)


def _chosen_ports(options: Options) -> tuple[int, int, int]:
    """HTTP, MQTT, metrics: as asked for, or free ones. Raises EmbeddedError when one, or PostgreSQL's, is taken."""
    asked = {
        "--http-port": options.http_port,
        "--mqtt-port": options.mqtt_port,
        "--metrics-port": options.metrics_port,
        "--pg-port": options.pg_port,
    }
    given = {flag: port for flag, port in asked.items() if port}
    for flag, port in given.items():
        twin = next((other for other in given if given[other] == port and other != flag), None)
        if twin:
            raise EmbeddedError(f"{flag} and {twin} are both {port}: choose two ports")
        trouble = trouble_with(port)
        if trouble:
            raise EmbeddedError(f"port {port} {trouble}: choose another with {flag} ({flag} 0 = any free port)")
    free = iter(free_ports(len(asked)))
    http, mqtt, metrics, _ = (port or next(free) for port in asked.values())
    return http, mqtt, metrics
