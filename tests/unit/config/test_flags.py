"""The command line of daprd."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from edge_runtime.config.flags import FLAGS, DaprdFlags, FlagError, later_flags, parse_flags, usage, validate

# what is written, the field, its value
WORDS: list[tuple[list[str], str, Any]] = [
    (["--app-id", "a"], "app_id", "a"),
    (["--app-id=a"], "app_id", "a"),
    (["-app-id", "a"], "app_id", "a"),
    (["-app-id=a"], "app_id", "a"),
    (["--app-id=a", "--app-id=b"], "app_id", "b"),
    (["--app-id="], "app_id", ""),
    (["--app-id", ""], "app_id", ""),
    (["--app-id=''"], "app_id", ""),
    (['--app-id=""'], "app_id", ""),
    (["--app-id", "''"], "app_id", ""),
    (['--app-id="a"'], "app_id", "a"),
    (["--app-id='a'"], "app_id", "a"),
    (["--app-id=it's"], "app_id", "it's"),
    (["--app-id", "a=b"], "app_id", "a=b"),
    (["--app-id", "-long"], "app_id", "--long"),
    (["--app-port", "3000"], "app_port", 3000),
    (["--app-port", "0"], "app_port", 0),
    (["--app-port="], "app_port", None),
    (["--profile-port", "-1"], "profile_port", 7777),
    (["--dapr-http-port=0"], "dapr_http_port", 0),
    (["--dapr-http-port=''"], "dapr_http_port", 3500),
    (["--enable-metrics=false"], "enable_metrics", False),
    (["--enable-metrics=F"], "enable_metrics", False),
    (["--enable-mtls"], "enable_mtls", True),
    (["--enable-mtls", "false"], "enable_mtls", True),
    (["--enable-api-logging"], "enable_api_logging", True),
    (["--enable-api-logging=0"], "enable_api_logging", False),
    ([], "enable_api_logging", None),
    (["--resources-path", "a,b", "--resources-path=c"], "resources_path", ("a", "b", "c")),
    (["--resources-path", '"a,b",c'], "resources_path", ("a,b", "c")),
    (["--resources-path="], "resources_path", ()),
    (["--config=''"], "config", ()),
    (["--config", '""'], "config", ()),
    (["--dapr-listen-addresses", "127.0.0.1, [::1],"], "dapr_listen_addresses", ("127.0.0.1", "[::1]")),
    (["--max-body-size", "16Mi"], "max_body_size", 16 * 2**20),
    (["--app-max-concurrency", "0x10"], "app_max_concurrency", 16),
    (["--app-max-concurrency=-5"], "app_max_concurrency", -5),
    (["--app-health-threshold", "010"], "app_health_threshold", 8),
    (["--dapr-block-shutdown-duration", "1m30s"], "dapr_block_shutdown_duration", 90.0),
    ([], "dapr_block_shutdown_duration", None),
    (["--dapr-block-shutdown-duration="], "dapr_block_shutdown_duration", None),
    (["--dapr-block-shutdown-duration=0s"], "dapr_block_shutdown_duration", 0.0),
    (["word", "--app-id", "a", "other", "-"], "app_id", "a"),
    (["--app-id", "a", "--", "--app-id", "b"], "app_id", "a"),
    (["-h", "--nonsense"], "help", True),
    (["--help", "--nonsense"], "help", True),
    (["--version"], "version", True),
]


@pytest.mark.parametrize(("words", "field", "value"), WORDS, ids=[" ".join(row[0]) or row[1] for row in WORDS])
def test_words_become_values(words: list[str], field: str, value: Any) -> None:
    assert getattr(parse_flags(words), field) == value


BROKEN = [
    (["--app-prot", "1"], 'unknown flag: --app-prot (did you mean "app-port"?)'),
    (["--completely-else=1"], "unknown flag: --completely-else"),
    (["-x"], "unknown flag: -x"),
    (["--app-id"], "flag needs an argument: --app-id; expected a text"),
    (["--app-port", "many"], "invalid argument 'many' for --app-port: expected a port from 0 to 65535"),
    (["--app-port", "70000"], "expected a port"),
    (["--app-port", "-5"], "expected a port"),
    (["--enable-mtls=maybe"], "invalid argument 'maybe' for --enable-mtls: expected true or false"),
    (["--enable-api-logging=maybe"], "expected true or false"),
    (["--app-max-concurrency", "1.5"], "expected a whole number"),
    (["--app-max-concurrency", ""], "expected a whole number"),
    (["--app-max-concurrency", "09"], "expected a whole number"),
    (["--scheduler-job-streams=-1"], "expected a whole number from 0"),
    (["--max-body-size", "big"], "expected a size such as 4Mi"),
    (["--app-binding-options-timeout", "5"], "expected a duration such as 300ms"),
    (["--app-binding-options-timeout="], "invalid argument '' for --app-binding-options-timeout"),
    (["--resources-path", '\r"'], "expected texts parted by commas"),
    (["--max-body-size", "1e999"], "expected a size"),
    (["--app-binding-options-timeout", "9" * 30 + "h"], "expected a duration"),
    (["--app-binding-options-timeout", "-5s"], "invalid argument '--5s'"),
]


@pytest.mark.parametrize(("words", "text"), BROKEN, ids=[" ".join(words) for words, _ in BROKEN])
def test_broken_words_are_named(words: list[str], text: str) -> None:
    with pytest.raises(FlagError) as raised:
        parse_flags(words)
    assert text in str(raised.value)


def test_table_and_fields_agree() -> None:
    names = [flag.name.replace("-", "_") for flag in FLAGS]
    assert len(set(names)) == len(names)
    assert set(names) | {"given", "notes"} == set(DaprdFlags._fields)


def test_usage_lists_every_flag_of_today() -> None:
    text = usage()
    for flag in FLAGS:
        assert (f"--{flag.name} " in text or f"--{flag.name}\n" in text) is not (flag.hidden or bool(flag.deprecated))
    names = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
    assert names == sorted(names)


def test_deprecated_flags_say_so() -> None:
    notes = parse_flags(["--components-path", "c", "--app-ssl"]).notes
    assert notes == (
        "Flag --components-path has been deprecated, use --resources-path",
        "Flag --app-ssl has been deprecated, use --app-protocol https or grpcs",
    )


COMES_TO: list[tuple[list[str], str, Any]] = [
    ([], "body_bytes_max", 4 * 2**20),
    (["--max-body-size=0"], "body_bytes_max", None),
    (["--max-body-size=-1"], "body_bytes_max", 4 * 2**20),
    (["--max-body-size=-2"], "body_bytes_max", None),
    (["--dapr-http-max-request-size=16"], "body_bytes_max", 16 * 2**20),
    (["--dapr-http-max-request-size=-1"], "body_bytes_max", 4 * 2**20),
    (["--dapr-http-max-request-size=16", "--max-body-size=1Ki"], "body_bytes_max", 1024),
    ([], "header_bytes_max", 4096),
    (["--read-buffer-size=8Ki"], "header_bytes_max", 8192),
    (["--read-buffer-size=-1"], "header_bytes_max", 4096),
    (["--dapr-http-read-buffer-size=16"], "header_bytes_max", 16384),
    (["--app-ssl"], "protocol", "https"),
    (["--app-ssl", "--app-protocol=GRPC"], "protocol", "grpcs"),
    (["--app-protocol="], "protocol", "http"),
    (["--app-max-concurrency=0"], "app_concurrency_max", None),
    (["--app-max-concurrency=3"], "app_concurrency_max", 3),
    (["--dapr-graceful-shutdown-seconds=-3"], "graceful_shutdown_s", 5.0),
    (["--dapr-graceful-shutdown-seconds=0"], "graceful_shutdown_s", None),
    (["--app-health-probe-interval=0"], "health_interval_s", 5.0),
    (["--app-health-probe-timeout=250"], "health_timeout_s", 0.25),
    (["--app-health-threshold=0"], "health_threshold", 3),
    (["--app-binding-options-timeout=0s"], "binding_options_timeout_s", 3.0),
    (["--components-path=c"], "resource_directories", ("c",)),
    (["--components-path=c", "--resources-path=r"], "resource_directories", ("r",)),
    ([], "resource_directories", ()),
    (["--disable-init-endpoints", "Config, subscribe"], "skips_config_endpoint", True),
    (["--disable-init-endpoints", "Config, subscribe"], "skips_subscribe_endpoint", True),
    ([], "skips_subscribe_endpoint", False),
]


@pytest.mark.parametrize(
    ("words", "field", "value"), COMES_TO, ids=[f"{row[1]} {' '.join(row[0])}" for row in COMES_TO]
)
def test_values_come_to_settings(words: list[str], field: str, value: Any) -> None:
    assert getattr(parse_flags(words), field) == value


PROBLEMS = [
    ([], "app-id parameter cannot be empty"),
    (["--app-id=a.b"], "must not contain '.'"),
    (["--app-id=a/b"], "must not contain '/'"),
    (["--app-id=a", "--mode=kubernetes"], "--mode kubernetes is not served"),
    (["--app-id=a", "--mode=cloud"], "invalid mode 'cloud'"),
    (["--app-id=a", "--app-port=3500"], "--dapr-http-port 3500 is the port of --app-port already"),
    (["--app-id=a", "--app-port=50001"], "--dapr-grpc-port 50001 is the port of --app-port already"),
    (["--app-id=a", "--dapr-grpc-port=3500"], "--dapr-grpc-port 3500 is the port of --dapr-http-port already"),
    (["--app-id=a", "--log-level=inof"], "invalid value 'inof' for --log-level"),
    (["--app-id=a", "--app-protocol=smtp"], "invalid value 'smtp' for --app-protocol"),
    (["--app-id=a", "--disable-init-endpoints=health"], "invalid value 'health' for --disable-init-endpoints"),
    (["--app-id=a", "--app-health-probe-timeout=6000"], "is longer than --app-health-probe-interval 5 (s)"),
    (["--app-id=a", "--actors-disseminate-timeout=0s"], "must be longer than 0"),
    (["--app-id=a", "--control-plane-trust-domain="], "must not be empty"),
]


@pytest.mark.parametrize(("words", "text"), PROBLEMS, ids=[" ".join(words) or "nothing" for words, _ in PROBLEMS])
def test_contradictions_are_found(words: list[str], text: str) -> None:
    (problem,) = validate(parse_flags(words))
    assert text in problem


FROM_THE_CLI = """
--app-id myapp --dapr-http-port 33001 --dapr-grpc-port 33002 --log-level info --app-max-concurrency -1
--app-protocol http --metrics-port 33003 --dapr-internal-grpc-port 33004 --app-port 5000 --config /c.yaml
--components-path /c --app-channel-address 127.0.0.1 --profile-port -1 --max-body-size 4Mi
--placement-host-address localhost:50005 --scheduler-host-address localhost:50006
"""


def test_dapr_clis_command_line_is_fine() -> None:
    flags = parse_flags(FROM_THE_CLI.split())
    assert validate(flags) == []
    assert flags.app_max_concurrency == -1
    assert [line.split()[0].rstrip(",") for line in later_flags(flags)] == [
        "--placement-host-address",
        "--scheduler-host-address",
    ]


def test_later_flags_are_named_when_used() -> None:
    assert later_flags(parse_flags(["--app-id=a"])) == []
    assert later_flags(parse_flags(["--enable-mtls=false", "--sentry-address="])) == []
    (line,) = later_flags(parse_flags(["--enable-mtls"]))
    assert line.startswith("--enable-mtls is accepted, without effect yet")


def test_parsing_needs_no_argparse() -> None:
    program = (
        "import sys; from edge_runtime.config.flags import parse_flags; parse_flags(['--app-id', 'a']);"
        "print(sorted({'argparse', 'csv', 'yaml', 'trio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["grpc-calls-per-connection", "subscription-streams", "subscription-stream-events"])
def test_limits_let_something_through(name: str) -> None:
    flags = parse_flags(["--app-id", "a", f"--{name}", "0"])
    assert [problem for problem in validate(flags) if f"--{name} 0" in problem]
