"""The local Prefect server, MLflow server and worker: `make up` and `make down`.

    python -m flows.local_services up --prefect-port 4200 --mlflow-port 5000
    python -m flows.local_services down

Everything they write is below runs/services/.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from jointrag.jsonl import write_atomically
from jointrag.preflight import port_is_free

ROOT = Path(__file__).resolve().parents[1]
SERVICES = ROOT / "runs" / "services"
HOST = "127.0.0.1"
POOL = "local"
START_S = 120.0
STOP_S = 15.0
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServiceError(RuntimeError):
    """A service cannot be started; the message says what to do."""


@dataclass(frozen=True)
class Service:
    """A process we started. `started`: its start time since boot, so that a reused pid is not taken for it."""

    name: str
    pid: int
    started: str
    port: int = 0

    @property
    def alive(self) -> bool:
        return _start_time(self.pid) == self.started


class Services:
    """The services whose records and data are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "services.json"

    def running(self) -> dict[str, Service]:
        """The processes that are alive, by name."""
        if not self._file.exists():
            return {}
        known = [Service(**fields) for fields in json.loads(self._file.read_text(encoding="utf-8"))]
        return {service.name: service for service in known if service.alive}

    def up(self, prefect_port: int, mlflow_port: int) -> None:
        """Start whatever is not running and wait until it answers. Raises ServiceError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "lock"):
            running = self.running()
            ports = {"prefect": prefect_port, "mlflow": mlflow_port}
            for name, wanted in ports.items():
                if name in running:
                    ports[name] = running[name].port
                elif not port_is_free(HOST, wanted):
                    raise ServiceError(
                        f"port {wanted} for {name} is in use by another program; "
                        f"choose another one: make up {name.upper()}_PORT={wanted + 1}"
                    )
            env = self.environment(ports["prefect"], ports["mlflow"])
            commands = {"prefect": self._prefect(ports["prefect"]), "mlflow": self._mlflow(ports["mlflow"])}
            for name, command in commands.items():
                if name not in running:
                    running[name] = self._start(name, command, env, ports[name])
            self._wait(running["prefect"], lambda: answers(f"http://{HOST}:{ports['prefect']}/api/health"))
            self._wait(running["mlflow"], lambda: answers(f"http://{HOST}:{ports['mlflow']}/health"))
            if "worker" not in running:
                _prefect("work-pool", "create", POOL, "--type", "process", "--overwrite", env=env)
                running["worker"] = self._start("worker", self._worker(), env, 0)
            self._wait(running["worker"], lambda: _worker_is_online(ports["prefect"]))
        print(f"Prefect  http://{HOST}:{ports['prefect']}")
        print(f"MLflow   http://{HOST}:{ports['mlflow']}")
        print(f"worker   pool {POOL!r}, log in {self.folder / 'worker.log'}")
        print(f"for the prefect command: export PREFECT_API_URL=http://{HOST}:{ports['prefect']}/api")

    def deploy(self) -> None:
        """Register every deployment of prefect.yaml. Raises ServiceError."""
        running = self.running()
        if not {"prefect", "mlflow"} <= set(running):
            raise ServiceError("the local services are not up; start them with: make up")
        env = self.environment(running["prefect"].port, running["mlflow"].port)
        print(
            "deployed", ", ".join(re.findall(r"'([\w-]+/[\w-]+)'\s+successfully", _prefect("deploy", "--all", env=env)))
        )

    def down(self) -> None:
        """Stop what is running: the worker first, so that its flow runs end in an orderly way."""
        if not self.folder.exists():
            return
        with FileLock(self.folder / "lock"):
            running = self.running()
            for name in ("worker", "mlflow", "prefect"):
                if name in running:
                    _stop(running[name])
                    print(f"stopped {name}")
            self._file.unlink(missing_ok=True)

    def environment(self, prefect_port: int, mlflow_port: int) -> dict[str, str]:
        """What a process needs to use these services."""
        return {
            **self.quiet(),
            "PREFECT_API_URL": f"http://{HOST}:{prefect_port}/api",
            "PREFECT_UI_URL": f"http://{HOST}:{prefect_port}",
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
            "MLFLOW_TRACKING_URI": f"http://{HOST}:{mlflow_port}",
        }

    def quiet(self) -> dict[str, str]:
        """Nothing is sent to anybody, and all data stays in our folder."""
        return {
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        }

    def _prefect(self, port: int) -> list[str]:
        return [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]

    def _mlflow(self, port: int) -> list[str]:
        data = (self.folder / "mlflow").resolve()
        data.mkdir(parents=True, exist_ok=True)
        return [
            *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{data / 'mlflow.db'}", "--artifacts-destination", str(data / "files")),
        ]

    def _worker(self) -> list[str]:
        return [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]

    def _start(self, name: str, command: list[str], env: dict[str, str], port: int) -> Service:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is not for it
            )
        service = Service(name, process.pid, _start_time(process.pid), port)
        everything = self.running() | {name: service}
        write_atomically(self._file, json.dumps([asdict(known) for known in everything.values()]))
        return service

    def _wait(self, service: Service, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        log = self.folder / f"{service.name}.log"
        while not ready():
            if not service.alive:
                raise ServiceError(f"{service.name} ended at once; see {log}:\n{_tail(log)}")
            if time.monotonic() > deadline:
                raise ServiceError(f"{service.name} does not answer after {START_S:.0f} s; see {log}:\n{_tail(log)}")
            time.sleep(0.2)


def answers(url: str) -> bool:
    """Whether a GET request succeeds."""
    try:
        with NO_PROXY.open(url, timeout=2) as response:
            return response.status == 200
    except (OSError, urllib.error.URLError):
        return False


def _worker_is_online(port: int) -> bool:
    request = urllib.request.Request(
        f"http://{HOST}:{port}/api/work_pools/{POOL}/workers/filter",
        data=b"{}",
        headers={"Content-Type": "application/json"},
    )
    try:
        with NO_PROXY.open(request, timeout=5) as response:
            return any(worker["status"] == "ONLINE" for worker in json.load(response))
    except (OSError, urllib.error.URLError):
        return False


def _prefect(*arguments: str, env: dict[str, str]) -> str:
    """Run the prefect command line; returns what it said."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True)
    if done.returncode != 0:
        raise ServiceError(f"prefect {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _stop(service: Service) -> None:
    """End the service and every process it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(service.pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + STOP_S
        while (left := group_members(service.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
        if not left:
            return


def group_members(group: int) -> list[int]:
    """The live processes of a process group."""
    pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if (fields := _stat(pid)) and int(fields[2]) == group]


def _start_time(pid: int) -> str:
    """The kernel's start time of a live process; "" when there is none."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name: state, parent, group …; None for what is not alive."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields


def _tail(log: Path, num_lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.local_services", description="Local Prefect and MLflow.")
    parser.add_argument("action", choices=["up", "deploy", "down"])
    parser.add_argument("--prefect-port", type=int, default=4200)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    parser.add_argument("--folder", type=Path, default=SERVICES, help="data, logs and pids")
    given = parser.parse_args()
    ports = (given.prefect_port, given.mlflow_port)
    if not all(0 < port < 65536 for port in ports) or len(set(ports)) < 2:
        parser.error(f"the ports {ports[0]} and {ports[1]} have to be two different numbers from 1 to 65535")
    services = Services(given.folder.resolve())
    try:
        match given.action:
            case "up":
                services.up(given.prefect_port, given.mlflow_port)
            case "deploy":
                services.deploy()
            case "down":
                services.down()
    except (ServiceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
