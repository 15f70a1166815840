"""A broker that is a Java library: built by Maven from the project beside this file, run as a child process.

Maven fetches the library on the first run; what it builds is in `target/`, which git ignores.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
from pathlib import Path

from embedded.ports import LOOPBACK, free_ports
from processes.child import Program
from processes.service import Service

PROJECTS = Path(__file__).parent
BUILD_SECONDS = 600
HOW_TO_INSTALL = "no {} on PATH; install Java 11 or later and Maven (Debian, Ubuntu: apt-get install default-jdk maven)"


def missing() -> str | None:
    """One line on what is missing for any of them; None where nothing is."""
    return next((HOW_TO_INSTALL.format(name) for name in ("java", "mvn") if shutil.which(name) is None), None)


def built(project: str) -> Path:
    """The folder `target/` of a project, made where it is not there, or older than its pom.xml."""
    folder = PROJECTS / project
    target, done = folder / "target", folder / "target" / "built"
    target.mkdir(exist_ok=True)
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of this test run may want it too
        sources = [folder / "pom.xml", *folder.glob("src/**/*.java")]
        if not done.exists() or done.stat().st_mtime < max(source.stat().st_mtime for source in sources):
            command = ["mvn", "--quiet", "--batch-mode", "compile", "dependency:copy-dependencies"]
            subprocess.run(command, cwd=folder, check=True, timeout=BUILD_SECONDS)
            done.touch()
    return target


class JavaBroker(Service):
    """One broker with a folder and a port of its own; `configuration` writes its file and returns its argument."""

    start_seconds = stop_seconds = 120.0
    project: str

    def __init__(self, folder: Path) -> None:
        super().__init__(log=folder / "broker.log")
        self.name = self.label = self.project
        self.folder = folder
        self.port = free_ports(1)[0]

    @property
    def url(self) -> str:
        return f"mqtt://{LOOPBACK}:{self.port}"

    def configuration(self) -> Path:
        """The argument of its Main: what it reads."""
        raise NotImplementedError

    def prepare(self) -> Program:
        self.folder.mkdir(parents=True, exist_ok=True)
        target = built(self.project)
        classes = os.pathsep.join(map(str, (target / "classes", target / "dependency" / "*")))
        java = shutil.which("java")
        assert java is not None
        return Program(
            name=self.name,
            command=(java, "-Xmx512m", "-cp", classes, "Main", str(self.configuration())),
            log=self.log,
            environment={"PATH": os.defpath},
            directory=self.folder,
        )

    def is_ready(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return self.running and probe.connect_ex((LOOPBACK, self.port)) == 0


class HiveMq(JavaBroker):
    """HiveMQ CE."""

    project = "hivemq"

    def configuration(self) -> Path:
        for name in ("conf", "data", "extensions"):
            (self.folder / name).mkdir(exist_ok=True)
        (self.folder / "conf" / "config.xml").write_text(
            f"""<?xml version="1.0"?>
<hivemq>
  <listeners><tcp-listener><port>{self.port}</port><bind-address>{LOOPBACK}</bind-address></tcp-listener></listeners>
  <mqtt>
    <!-- 1,000 by itself, and what is more is thrown away -->
    <queued-messages><max-queue-size>5000000</max-queue-size></queued-messages>
    <!-- 10 by itself, and a device that sends more ahead is cut off -->
    <receive-maximum><server-receive-maximum>65535</server-receive-maximum></receive-maximum>
  </mqtt>
  <persistence><mode>file</mode></persistence>
  <anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics>
</hivemq>
""",
            encoding="utf-8",
        )
        return self.folder


class Moquette(JavaBroker):
    """Moquette: MQTT 3.1.1."""

    project = "moquette"

    def configuration(self) -> Path:
        file = self.folder / "moquette.conf"
        file.write_text(
            f"host {LOOPBACK}\nport {self.port}\nallow_anonymous true\ntelemetry_enabled false\n"
            f"data_path {self.folder}/\npersistence_enabled true\n",
            encoding="utf-8",
        )
        return file
