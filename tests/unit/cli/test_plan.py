import socket
from pathlib import Path

import pytest

from edge_runtime.cli import plan as plans
from edge_runtime.cli.arguments import parse
from edge_runtime.cli.plan import PortHolder, Ports
from edge_runtime.cli.run import dapr_directory, plan_app
from edge_runtime.cli.run_options import run_options
from edge_runtime.config.flags import FLAGS, parse_flags
from edge_runtime.model.errors import ConfigError

PORTS = Ports(1, 2, 3, 4)


def planned(*argv: str, home: Path) -> plans.AppPlan:
    return plan_app(parse(run_options(), argv), {"HOME": str(home), "MARK": "m"})


def test_free_ports_all_differ() -> None:
    with PortHolder() as holder:
        ports = [*holder.choose({}), *holder.choose({})]
    assert len(set(ports)) == 8


def test_taken_port_is_named() -> None:
    with socket.socket() as taken, PortHolder() as holder:
        taken.bind(("", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"invalid configuration for GRPCPort. Port {port} is not available"):
            holder.choose({"dapr-grpc-port": [str(port)]})


def test_impossible_port_is_named() -> None:
    with PortHolder() as holder, pytest.raises(ConfigError, match=r"MetricsPort\. Port 70000 is not available"):
        holder.choose({"metrics-port": ["70000"]})


def test_random_name_is_free() -> None:
    name = plans.random_app_id(())
    first, second = name.split("-")
    assert first.islower()
    assert second.islower()
    every = {f"{a}-{b}" for a in plans._FIRST.split() for b in plans._SECOND.split()}
    assert plans.random_app_id(every - {name}) == name
    assert plans.random_app_id(every) not in every


def test_app_is_told_where_its_sidecar_is() -> None:
    assert plans.app_environment("a", {}, PORTS) == {
        "APP_ID": "a",
        "APP_CHANNEL_ADDRESS": "127.0.0.1",
        "DAPR_HTTP_PORT": "1",
        "DAPR_GRPC_PORT": "2",
        "DAPR_METRICS_PORT": "3",
        "APP_PROTOCOL": "http",
    }


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"app-protocol": ["grpc"], "app-ssl": ["true"]}, "grpcs"),
        ({"app-protocol": ["H2C"]}, "h2c"),
        ({"app-ssl": ["true"]}, "https"),
        ({"app-protocol": ["smoke"]}, None),
    ],
)
def test_protocol_is_told(settings: dict[str, list[str]], expected: str | None) -> None:
    assert plans.app_environment("a", settings, PORTS).get("APP_PROTOCOL") == expected


def test_app_port_is_told_when_there_is_one() -> None:
    assert plans.app_environment("a", {"app-port": ["80"]}, PORTS)["APP_PORT"] == "80"
    assert "APP_PORT" not in plans.app_environment("a", {"app-port": ["-1"]}, PORTS)


def test_flags_become_those_of_daprd(tmp_path: Path) -> None:
    plan = planned(
        *("-a", "x", "-p", "80", "-P", "https", "-u", "/s", "--max-body-size", "1Mi", "--log-level=debug"),
        *("--dapr-graceful-shutdown-seconds", "7", "--disable-init-endpoints=config", "--", "app", "--flag"),
        home=tmp_path,
    )
    flags = parse_flags(plan.arguments)
    assert (flags.app_id, flags.app_port, flags.app_protocol) == ("x", 80, "https")
    assert (flags.unix_domain_socket, flags.max_body_size, flags.log_level) == ("/s", 2**20, "debug")
    assert flags.dapr_graceful_shutdown_seconds == 7
    assert flags.disable_init_endpoints == ("config",)
    assert (flags.dapr_http_port, flags.metrics_port) == (plan.ports.http, plan.ports.metrics)
    assert plan.command == ("app", "--flag")
    assert plan.environment["MARK"] == "m"
    assert "APP_ID" not in plan.sidecar_environment


def test_every_flag_of_daprd_is_taken() -> None:
    names = {name for option in run_options() for name in option.names}
    assert {flag.name for flag in FLAGS} <= names


def test_home_directory_is_used_when_it_has_files(tmp_path: Path) -> None:
    assert not any("path" in word or "config" in word for word in planned("-a", "x", home=tmp_path).arguments)
    (tmp_path / ".dapr" / "components").mkdir(parents=True)
    (tmp_path / ".dapr" / "config.yaml").touch()
    arguments = planned("-a", "x", home=tmp_path).arguments
    assert f"--resources-path={tmp_path}/.dapr/components" in arguments
    assert f"--config={tmp_path}/.dapr/config.yaml" in arguments


def test_named_directories_win(tmp_path: Path) -> None:
    (tmp_path / ".dapr" / "components").mkdir(parents=True)
    for name in ("one", "two", "old"):
        (tmp_path / name).mkdir()
    arguments = planned(
        *("-a", "x", "--resources-path", f"{tmp_path}/one,{tmp_path}/two", "-d", f"{tmp_path}/old"), home=tmp_path
    ).arguments
    assert [word for word in arguments if "path" in word] == [
        f"--resources-path={tmp_path}/one",
        f"--resources-path={tmp_path}/two",
    ]


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="error validating resources path '/no/where': no such directory"):
        planned("-a", "x", "--resources-path", "/no/where", home=tmp_path)


def test_runtime_path_moves_the_directory(tmp_path: Path) -> None:
    parsed = parse(run_options(), ["--runtime-path", "/there"])
    assert dapr_directory(parsed, {"DAPR_RUNTIME_PATH": "/elsewhere"}) == "/there/.dapr"
    assert dapr_directory(parse(run_options(), []), {"DAPR_RUNTIME_PATH": "/elsewhere"}) == "/elsewhere/.dapr"


def test_start_is_announced(tmp_path: Path) -> None:
    plan = planned("-a", "x", home=tmp_path)
    assert plan.starting == f"Starting Dapr with id x. HTTP Port: {plan.ports.http}. gRPC Port: {plan.ports.grpc}"
    assert planned("-a", "x", "-u", "/s", home=tmp_path).starting == (
        "Starting Dapr with id x. HTTP Socket: /s/dapr-x-http.socket. gRPC Socket: /s/dapr-x-grpc.socket."
    )


def test_placement_comes_from_the_environment() -> None:
    plan = plan_app(parse(run_options(), ["-a", "x"]), {"DAPR_PLACEMENT_HOST_ADDRESS": "there:1", "HOME": "/"})
    assert "--placement-host-address=there:1" in plan.arguments
