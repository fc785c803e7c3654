"""The flags of `edge-runtime run`: those of `dapr run`, every other one of daprd, and ours."""

from __future__ import annotations

from typing import Final

from edge_runtime.cli.arguments import FLAG, HELP, INTEGER, LIST, TEXT, Option

# Passed on to the sidecar under the same name, when given.
FORWARDED: Final = (
    Option(("app-protocol",), TEXT, "P", "How the app is spoken to: http, https, h2c, grpc or grpcs.", "http"),
    Option(("app-channel-address",), TEXT, "", "The host on which the app listens.", "127.0.0.1"),
    Option(("app-max-concurrency",), INTEGER, "", "How many calls the app gets at a time; -1 is no limit.", "-1"),
    Option(("app-ssl",), FLAG, hidden=True),
    Option(("enable-profiling",), FLAG, hidden=True),
    Option(("placement-host-address",), TEXT, "", "A placement service elsewhere; the node needs none."),
    Option(("scheduler-host-address",), TEXT, "", "A scheduler service elsewhere; the node needs none."),
    Option(("unix-domain-socket",), TEXT, "u", "A directory for the API's sockets, instead of its ports."),
    Option(("dapr-listen-addresses",), TEXT, "", "Addresses on which the API listens."),
    Option(("max-body-size",), TEXT, "", "The largest request body.", "4Mi"),
    Option(("read-buffer-size",), TEXT, "", "The largest request header.", "4Ki"),
    Option(("dapr-http-max-request-size",), INTEGER, hidden=True),
    Option(("dapr-http-read-buffer-size",), INTEGER, hidden=True),
    Option(("enable-app-health-check",), FLAG, "", "Ask the app regularly whether it is healthy."),
    Option(("app-health-check-path",), TEXT, "", "The path that is asked.", "/healthz"),
    Option(("app-health-probe-interval",), INTEGER, "", "Seconds between two questions.", "5"),
    Option(("app-health-probe-timeout",), INTEGER, "", "Milliseconds that an answer may take.", "500"),
    Option(("app-health-threshold",), INTEGER, "", "Failures in a row that make the app unhealthy.", "3"),
    Option(("enable-api-logging",), FLAG, "", "Log each API call."),
    Option(("log-level",), TEXT, "", "debug, info, warn, error or fatal.", "info"),
    Option(("log-as-json",), FLAG, "", "Print messages and logs as JSON."),
)

OWN: Final = (
    HELP,
    Option(("app-id",), TEXT, "a", "The app's name; a random one when left out."),
    Option(("app-port",), INTEGER, "p", "The port on which the app listens.", "-1"),
    Option(("dapr-http-port",), INTEGER, "H", "The port of the HTTP API; -1 takes a free one.", "-1"),
    Option(("dapr-grpc-port",), INTEGER, "G", "The port of the gRPC API; -1 takes a free one.", "-1"),
    Option(("dapr-internal-grpc-port",), INTEGER, "I", "The port for other sidecars; -1 takes a free one.", "-1"),
    Option(("metrics-port",), INTEGER, "M", "The port of the metrics; -1 takes a free one.", "-1"),
    Option(("profile-port",), INTEGER, hidden=True, default="-1"),
    Option(("config",), LIST, "c", "A Configuration file; ~/.dapr/config.yaml when it exists."),
    Option(("resources-path",), LIST, "", "A directory with resource files; ~/.dapr/components when it exists."),
    Option(("components-path",), TEXT, "d", hidden=True),
    Option(("run-file",), TEXT, "f", "Run every app of this file, or of dapr.yaml in this directory; - reads stdin."),
    Option(("kubernetes",), FLAG, "k", hidden=True),
    Option(("runtime-path",), TEXT, "", "The directory that holds .dapr, instead of the home directory."),
    Option(("no-attach", "standalone"), FLAG, "", "Run a node of its own even where one runs that apps may attach to."),
    Option(("control-socket",), TEXT, "", "The socket of the node to attach to."),
    Option(("state-dir",), TEXT, "", "Where a node of its own keeps its files."),
)

# Flags that mean something beside --run-file; the others are ignored there, with a warning.
BESIDE_RUN_FILE: Final = frozenset(
    {
        "run-file",
        "kubernetes",
        "help",
        "version",
        "runtime-path",
        "log-as-json",
        "no-attach",
        "control-socket",
        "state-dir",
    }
)


def run_options() -> tuple[Option, ...]:
    """Every flag that `run` takes; those that only daprd documents come last and are not listed in the help."""
    known = (*OWN, *FORWARDED)
    names = {name for option in known for name in option.names}
    return (*known, *(option for option in daprd_options() if option.name not in names))


def daprd_options() -> list[Option]:
    """The flags of daprd as options of `run`."""
    from edge_runtime.config.flag_table import FLAGS, FlagKind

    switches = (FlagKind.SWITCH, FlagKind.TRISTATE)
    return [Option((flag.name,), FLAG if flag.kind in switches else TEXT, hidden=True) for flag in FLAGS]
