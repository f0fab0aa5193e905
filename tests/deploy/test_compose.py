"""The compose file: against the specification's schema, the repository and the real parsers."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from build_engines import cli as build_cli
from build_engines.options import TARGETS, check_options
from serving import __main__ as serving_cli
from serving.flags import server_options
from tests.deploy import compose
from tests.deploy.compose import Service
from tests.deploy.dockerfiles import Dockerfile
from triton_models.in_flight import POOL_THREADS

SERVICES = compose.services()
BUILDERS = {"gpu": "builder", "cpu": "builder-cpu"}
SERVERS = {"gpu": "triton", "cpu": "server-cpu"}
BESIDE = {
    "proxy": "proxy",
    "prometheus": "monitoring",
    "grafana": "monitoring",
    "jaeger": "tracing",
}
"""Services of other projects, and their profiles."""
PYTHON = "/opt/venv/bin/python"


def _validate(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema"]
    command += ["--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_file_follows_the_specification() -> None:
    result = _validate(compose.COMPOSE)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("sound", "broken", "complaint"),
    [
        ("    profiles: [gpu]", "    profile: gpu", "'profile' does not match any"),
        ("cap_drop: [ALL]", "cap_drop: ALL", "'ALL' is not of type 'array'"),
        ("  triton:\n", "  triton:\n    ports: 8001\n", "8001 is not of type 'array'"),
        ("service_completed_successfully", "service_done", "'service_done' is not one of"),
    ],
)
def test_a_broken_file_is_refused(sound: str, broken: str, complaint: str, tmp_path: Path) -> None:
    text = compose.COMPOSE.read_text()
    assert sound in text
    path = tmp_path / "docker-compose.yml"
    path.write_text(text.replace(sound, broken, 1))
    result = _validate(path)
    assert result.returncode != 0
    assert complaint in result.stdout


def test_each_profile_has_a_builder_and_a_server_of_one_image() -> None:
    assert set(SERVICES) == {*BUILDERS.values(), *SERVERS.values(), *BESIDE}
    for profile in BUILDERS:
        builder, server = SERVICES[BUILDERS[profile]], SERVICES[SERVERS[profile]]
        assert builder["profiles"] == server["profiles"] == [profile]
        assert builder["image"] == server["image"]
        assert builder["build"] == server["build"]
        condition = {"condition": "service_completed_successfully"}
        assert server["depends_on"] == {BUILDERS[profile]: condition}
        assert builder["restart"] == "no"
        assert server["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    uid, gid = service["user"].split(":")
    assert int(uid) > 0 and int(gid) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "cap_add", "pid", "devices", "userns_mode"} & service.keys()
    assert service["ipc"] == "private"
    assert service["init"] is True
    # tritonserver has a pool of threads for each model, and there may be many networks.
    assert service["pids_limit"] >= 64 * POOL_THREADS
    # Docker's tmpfs is noexec unless told otherwise, and the Python backend's stub runs from it.
    assert [entry.partition(":")[0] for entry in service["tmpfs"]] == ["/tmp"]
    assert "exec" in service["tmpfs"][0].partition(":")[2].split(",")


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    _, tag = SERVICES[name]["image"].rsplit(":", 1)
    assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag)


@pytest.mark.parametrize("name", [*BUILDERS.values(), *SERVERS.values()])
def test_folders_exist_in_the_image_and_belong_to_the_user(name: str) -> None:
    service = SERVICES[name]
    dockerfile = Dockerfile(compose.ROOT / service["build"]["dockerfile"])
    assert (compose.ROOT / service["build"]["context"]).resolve() == compose.ROOT
    assert service["user"] == dockerfile.user
    made = dockerfile.folders_made_for(service["user"])
    for target, writable in _mounts(service).items():
        if target != "/checkpoints":
            assert target in made
        # A server writes nothing but its temporary folder.
        assert writable == (name in BUILDERS.values() and target != "/checkpoints")


def _mounts(service: Service) -> dict[str, bool]:
    """Target of each mount → whether it is writable."""
    mounts = {}
    for volume in service["volumes"]:
        if isinstance(volume, str):
            _, target, *options = volume.split(":")
            mounts[target] = "ro" not in options
        else:
            assert volume["bind"] == {"create_host_path": False}
            mounts[volume["target"]] = not volume["read_only"]
    return mounts


def test_the_gpu_is_reserved_for_builder_and_server() -> None:
    reserved = []
    for profile, gpus in (("gpu", 1), ("cpu", 0)):
        for service in (SERVICES[BUILDERS[profile]], SERVICES[SERVERS[profile]]):
            devices = service.get("deploy", {}).get("resources", {}).get("reservations", {})
            assert len(devices.get("devices", [])) == gpus
            reserved += devices.get("devices", [])
    capabilities = ["gpu", "compute", "utility"]
    assert reserved == [{"driver": "nvidia", "device_ids": ["0"], "capabilities": capabilities}] * 2


@pytest.mark.parametrize("name", BUILDERS.values())
def test_builders_command_lines(name: str) -> None:
    service = SERVICES[name]
    assert service["network_mode"] == "none"
    python, flag, module, *arguments = shlex.split(service["command"])
    assert (python, flag, module) == (PYTHON, "-m", "build_engines")
    options = build_cli._parser().parse_args(arguments)
    check_options(options.name)
    target = build_cli._target(options)
    mounts = _mounts(service)
    assert mounts[str(options.repository)]
    assert str(options.checkpoint).startswith("/checkpoints/")
    if name == "builder":
        assert (target.name, target.precision) == ("tensorrt", "fp16")
        assert target.timing_cache is not None
        assert mounts[str(target.timing_cache.parent)]


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_fits_the_gpu_builder(target: str) -> None:
    command = SERVICES["builder"]["command"].replace("--target tensorrt", f"--target {target}")
    command = command.replace("--precision fp16", "--precision fp32")  # all have it
    options = build_cli._parser().parse_args(shlex.split(command)[3:])
    assert build_cli._target(options).name == target


@pytest.mark.parametrize("name", SERVERS.values())
def test_servers_command_lines(name: str) -> None:
    service = SERVICES[name]
    python, flag, module, *arguments = shlex.split(service["command"])
    assert (python, flag, module) == (PYTHON, "-m", "serving")
    parsed = serving_cli._parser().parse_args(arguments)
    options = server_options(parsed)
    assert [str(folder) for folder in options.repositories] == ["/pipelines"]
    assert "/pipelines" in _mounts(service)
    ports = [port.rsplit(":", 1)[1] for port in service["ports"]]
    opened = (options.grpc_port, options.metrics_port, options.health_port)
    assert ports == [str(port) for port in opened]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    # EmbeddedServer.drain and stop take up to 10 s more.
    stopping_s = options.drain_timeout_s + options.stop_timeout_s + 10
    assert stopping_s < _seconds(service["stop_grace_period"])
    assert options.start_timeout_s <= _seconds(service["healthcheck"]["start_period"])


def test_the_old_server_stays_on_this_machine() -> None:
    for name, old in ((SERVERS["gpu"], False), (SERVERS["cpu"], True)):
        arguments = shlex.split(SERVICES[name]["command"])[3:]
        assert serving_cli._parser().parse_args(arguments).allow_old_server == old
    raw = compose.COMPOSE.read_text()
    (own,) = re.findall(r"\n  server-cpu:\n(.*?)\n\n", raw, re.DOTALL)
    assert own.count('- "127.0.0.1:') == 3
    assert "${LISTEN" not in own


@pytest.mark.parametrize("name", SERVERS.values())
def test_proxy_and_monitoring_find_every_server(name: str) -> None:
    service = SERVICES[name]
    assert service["networks"]["default"]["aliases"] == ["segs-servers"]
    options = serving_cli._parser().parse_args(shlex.split(service["command"])[3:])
    proxy = (compose.ROOT / "deploy" / "proxy" / "envoy.yaml").read_text()
    address = r"address: segs-servers, port_value: (\d+) .*\n.*health_check_config: .*: (\d+)"
    (backend,) = re.findall(address, proxy)
    assert backend == (str(options.grpc_port), str(options.grpc_health_port))
    jobs = YAML(typ="safe").load(compose.ROOT / "deploy" / "monitoring" / "prometheus.yml")
    found = [
        (job["job_name"], *job["dns_sd_configs"][0]["names"], job["dns_sd_configs"][0]["port"])
        for job in jobs["scrape_configs"]
    ]
    assert found == [
        ("segs-servers", "segs-servers", options.metrics_port),
        ("segs-health", "segs-servers", options.health_port),
        ("segs-proxy", "segs-proxy", 9902),
    ]
    assert SERVICES["proxy"]["networks"]["default"]["aliases"] == ["segs-proxy"]


@pytest.mark.parametrize(("name", "profile"), BESIDE.items())
def test_services_of_others(name: str, profile: str) -> None:
    service = SERVICES[name]
    assert service["profiles"] == [profile]
    assert re.fullmatch(r"\S+:v?\d+\.\d+\.\d+", service["image"])
    for volume in service.get("volumes", ()):
        source = volume.partition(":")[0]
        if source.startswith("."):
            assert (compose.ROOT / source).exists()
            assert volume.endswith(":ro")


@pytest.mark.parametrize("name", SERVERS.values())
def test_health_asks_the_supervisor(name: str) -> None:
    health = SERVICES[name]["healthcheck"]
    kind, python, flag, module, *arguments = health["test"]
    assert (kind, python, flag, module) == ("CMD", PYTHON, "-m", "serving")
    options = serving_cli._parser().parse_args(arguments)
    assert options.command == "healthcheck"
    assert options.timeout < _seconds(health["timeout"])
    server = serving_cli._parser().parse_args(shlex.split(SERVICES[name]["command"])[3:])
    assert options.url == f"http://127.0.0.1:{server.health_port}"


def _seconds(duration: str) -> int:
    units = {"s": 1, "m": 60}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([sm])", duration))


def test_settings_are_documented_with_their_defaults() -> None:
    settings = compose.settings()
    assert set(settings) == set(compose.variables())
    for name, defaults in compose.variables().items():
        value, is_default = settings[name]
        assert defaults == ({value} if is_default else {None}), name
