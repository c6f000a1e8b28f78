"""The services of compose.yaml as plain processes, beside local servers in place of its servers."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed
from waiting import eventually

from batch_pipeline.local.processes import start_process

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
PATIENCE_SECONDS = 120.0
_PORT = re.compile(r"(?:--port |127\.0\.0\.1:)(\d+)")  # in a health check
_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?:(:[-?])([^}]*))?\})")


def read_compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """compose.yaml as Compose reads it, with these variables. Fails if one has neither value nor default."""

    def value(match: re.Match[str]) -> str:
        name, kind, default = match.groups()
        if name is None:
            return "$"
        if name in variables:
            return variables[name]
        assert kind == ":-", f"{name} has no value"
        return str(default)

    def resolved(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: resolved(child) for key, child in node.items()}
        if isinstance(node, list):
            return [resolved(child) for child in node]
        return _VARIABLE.sub(value, node) if isinstance(node, str) else node

    read: dict[str, Any] = resolved(yaml.safe_load((REPOSITORY / "compose.yaml").read_text()))
    return read


@dataclass
class Composed:
    """Processes of the services. `places` maps hosts, ports and folders of the file to those of this machine."""

    compose: dict[str, Any]
    places: Mapping[str, str]
    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _healthy: set[str] = field(default_factory=set)

    def environment(self, service: str) -> dict[str, str]:
        """The service's variables, and nothing of the tests' own."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("BATCH_", "AWS_", "DAGSTER_"))
        }
        path = f"{PROGRAMS}:{kept.get('PATH', '')}"
        declared = {name: self.here(value) for name, value in self.compose["services"][service]["environment"].items()}
        return {**kept, "PATH": path, "DAGSTER_HOME": str(self.folder / "dagster_home"), **declared}

    def run(self, service: str) -> None:
        """Runs the service's command to its end."""
        done = self._execute(service, self.compose["services"][service]["command"])
        assert done.returncode == 0, done.stderr

    def start(self, *services: str) -> None:
        """Starts the commands of the services, each once those that it depends on are healthy; all are, at the end."""
        for service in services:
            described = self.compose["services"][service]
            for before in services:
                if before in described["depends_on"]:
                    self._wait_until_healthy(before)
            command = [self.here(word) for word in described["command"]]
            self.running[service] = start_process(
                [shutil.which(command[0], path=str(PROGRAMS)) or command[0], *command[1:]],
                log=self._log(service),
                environment=self.environment(service),
                folder=self.folder,
            )
        for service in reversed(services):  # by the time that the last to start is healthy, the others are
            self._wait_until_healthy(service)

    def _log(self, service: str) -> Path:
        return self.folder / f"{service}.log"

    def _wait_until_healthy(self, service: str) -> None:
        if (described := self.compose["services"][service].get("healthcheck")) is None or service in self._healthy:
            return
        kind, *test = described["test"]
        command = test if kind == "CMD" else shlex.split(f"/bin/sh -c {shlex.quote(test[0])}")
        for port in _PORT.findall(" ".join(map(self.here, command))):
            # A check that imports Dagster takes the processor that the service needs to start.
            eventually(lambda port=int(port): self._is_open(service, port))
        assert self._is_healthy(service, command), f"{service}: {self._log(service).read_text()[-2000:]}"
        self._healthy.add(service)

    @retry(
        retry=retry_if_result(lambda healthy: not healthy),
        stop=stop_after_delay(PATIENCE_SECONDS),
        wait=wait_fixed(2.0),
        retry_error_callback=lambda state: False,
    )
    def _is_healthy(self, service: str, test: list[str]) -> bool:
        assert self.running[service].poll() is None, self._log(service).read_text()[-2000:]
        return self._execute(service, test).returncode == 0

    def _is_open(self, service: str, port: int) -> bool:
        assert self.running[service].poll() is None, self._log(service).read_text()[-2000:]
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", port)) == 0

    def _execute(self, service: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.here(word) for word in command],
            env=self.environment(service),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def here(self, word: Any) -> str:
        """The word with each place replaced by where it is here."""
        text = str(word)
        for name, place in self.places.items():
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w.])", place.replace("\\", r"\\"), text)
        return text

    def stop(self) -> dict[str, int]:
        """Sends SIGTERM to the processes in the reverse order of starting; returns their exit codes."""
        codes = {}
        for service, process in reversed(self.running.items()):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            codes[service] = process.wait(PATIENCE_SECONDS)
        return codes


@contextmanager
def tcp_to_socket(path: Path) -> Iterator[int]:
    """A port of 127.0.0.1 that leads to a Unix socket: the embedded PostgreSQL has no port."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:

        def pump(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    caller, _ = listener.accept()
                    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                    server.connect(str(path))
                    stack.callback(caller.close)
                    stack.callback(server.close)
                    for pair in ((caller, server), (server, caller)):
                        threading.Thread(target=pump, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
