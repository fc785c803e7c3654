"""The table of `daprd`'s flags. A new flag is a row here, a field of `DaprdFlags` and a line in docs/flags.md."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple


class FlagKind(enum.Enum):
    """How a flag's text is read; the value is what the help text shows."""

    TEXT = "string"
    CSV = "list"
    LIST = "strings"
    SWITCH = "bool"
    TRISTATE = "true|false"
    INTEGER = "int"
    UNSIGNED = "uint"
    PORT = "port"
    DURATION = "duration"
    SIZE = "size"


class Flag(NamedTuple):
    """One flag. `later` says which later part will serve it; `deprecated` ends the line that its use prints."""

    name: str
    kind: FlagKind
    default: str
    help: str
    deprecated: str = ""
    later: str = ""
    hidden: bool = False

    @property
    def boolean(self) -> bool:
        """Whether the bare flag means true, so that no separate word is its value."""
        return self.kind in (FlagKind.SWITCH, FlagKind.TRISTATE)


_TEXT, _CSV, _LIST = FlagKind.TEXT, FlagKind.CSV, FlagKind.LIST
_SWITCH, _INT, _PORT = FlagKind.SWITCH, FlagKind.INTEGER, FlagKind.PORT
_DURATION, _SIZE = FlagKind.DURATION, FlagKind.SIZE

_ACTORS: Final = "actors come with a later part; their reminders need no placement or scheduler service here"
_JOBS: Final = "jobs come with a later part and need no scheduler service here"
_INTERNAL: Final = "sidecars of other processes are called by a later part"
_RELOAD: Final = "files are read again on SIGHUP; watching them comes with a later part"
_MTLS: Final = "mTLS between nodes comes with a later part"
_PROFILING: Final = "there is no pprof server; profiling comes with a later part"
_KUBERNETES: Final = "it concerns Kubernetes only"

FLAGS: Final[tuple[Flag, ...]] = (
    Flag("mode", _TEXT, "standalone", "Only standalone is served."),
    Flag("app-id", _TEXT, "", "Name of the app; required, without '.'."),
    Flag("app-port", _PORT, "", "Port of the app; empty or 0 when the app does not listen."),
    Flag("app-protocol", _TEXT, "http", "How the app is called: http, https, h2c, grpc or grpcs."),
    Flag("app-ssl", _SWITCH, "false", "Call the app over TLS.", "use --app-protocol https or grpcs"),
    Flag("app-channel-address", _TEXT, "127.0.0.1", "Host on which the app listens."),
    Flag("app-max-concurrency", _INT, "-1", "Parallel calls into the app; -1 or 0 is unlimited."),
    Flag("dapr-http-port", _PORT, "3500", "Port of the HTTP API; 0 is any free port."),
    Flag("dapr-grpc-port", _PORT, "50001", "Port of the gRPC API; 0 is any free port."),
    Flag("dapr-internal-grpc-port", _PORT, "", "Port for other sidecars.", later=_INTERNAL),
    Flag("dapr-internal-grpc-listen-address", _TEXT, "", "Address for other sidecars.", later=_INTERNAL),
    Flag("dapr-listen-addresses", _CSV, "", "Addresses of the APIs; empty is the loopback interface."),
    Flag("dapr-public-port", _PORT, "", "Port of a second server with health and metadata only; empty is none."),
    Flag("dapr-public-listen-address", _TEXT, "", "Address of that server; empty is the loopback interface."),
    Flag("profile-port", _PORT, "7777", "Port of the profiling server.", later=_PROFILING),
    Flag("enable-profiling", _SWITCH, "false", "Serve profiles.", later=_PROFILING),
    Flag("metrics-port", _PORT, "9090", "Port of the Prometheus page; 0 is any free port."),
    Flag("metrics-listen-address", _TEXT, "127.0.0.1", "Address of the Prometheus page; 0.0.0.0 is all interfaces."),
    Flag("enable-metrics", _SWITCH, "true", "Serve the Prometheus page."),
    Flag("unix-domain-socket", _TEXT, "", "Directory; the APIs listen on sockets there and not on TCP."),
    Flag("resources-path", _LIST, "", "Directories with resource files (YAML)."),
    Flag("components-path", _TEXT, "", "Older name for one resources directory.", "use --resources-path"),
    Flag("config", _LIST, "", "Configuration files; later ones override earlier ones."),
    Flag("allowed-origins", _CSV, "", "Origins for CORS; empty is no CORS, * is all."),
    Flag("max-body-size", _SIZE, "4Mi", "Largest request body or gRPC message; 0 is unlimited, -1 the default."),
    Flag("dapr-http-max-request-size", _INT, "4", "Largest request body in MB.", "use --max-body-size"),
    Flag("read-buffer-size", _SIZE, "4Ki", "Largest block of request headers."),
    Flag("dapr-http-read-buffer-size", _INT, "4", "Largest request headers in KB.", "use --read-buffer-size"),
    Flag("dapr-graceful-shutdown-seconds", _INT, "5", "Longest time for a stop in seconds; 0 is without end."),
    Flag("dapr-block-shutdown-duration", _DURATION, "", "Keep serving for so long after a stop signal."),
    Flag("enable-api-logging", FlagKind.TRISTATE, "", "Log each API call; unset takes it from the Configuration."),
    Flag("enable-app-health-check", _SWITCH, "false", "Probe the app and stop deliveries while it is unhealthy."),
    Flag("app-health-check-path", _TEXT, "/healthz", "Path of the probe."),
    Flag("app-health-probe-interval", _INT, "5", "Seconds between probes."),
    Flag("app-health-probe-timeout", _INT, "500", "Milliseconds that a probe may take."),
    Flag("app-health-threshold", _INT, "3", "Failed probes in a row that make the app unhealthy."),
    Flag("app-binding-options-timeout", _DURATION, "3s", "Time for asking the app about a binding."),
    Flag("disable-init-endpoints", _LIST, "", "App endpoints not to ask at start: config, subscribe."),
    Flag("placement-host-address", _CSV, "", "Address of a placement service.", later=_ACTORS),
    Flag("actors-service", _TEXT, "", "Older name for the placement service.", "it has no effect", _ACTORS, True),
    Flag("reminders-service", _TEXT, "", "No effect.", later=_ACTORS, hidden=True),
    Flag("actors-disseminate-timeout", _DURATION, "30s", "Time for spreading placement tables.", later=_ACTORS),
    Flag("scheduler-host-address", _LIST, "", "Addresses of a scheduler service.", later=_JOBS),
    Flag("scheduler-job-streams", FlagKind.UNSIGNED, "3", "Streams to the scheduler service.", later=_JOBS),
    Flag(
        "hot-reload-reconcile-interval",
        _DURATION,
        "0s",
        "Time between full readings of the files; 0 is 60s.",
        later=_RELOAD,
    ),
    Flag("enable-mtls", _SWITCH, "false", "Mutual TLS between sidecars.", later=_MTLS),
    Flag("sentry-address", _TEXT, "", "Address of the certificate authority.", later=_MTLS),
    Flag("sentry-request-jwt-audiences", _LIST, "", "Audiences of the identity token.", later=_MTLS),
    Flag("control-plane-address", _TEXT, "", "Address of the operator.", later=_KUBERNETES),
    Flag("control-plane-trust-domain", _TEXT, "localhost", "Trust domain of the control plane.", later=_MTLS),
    Flag("control-plane-namespace", _TEXT, "default", "Namespace of the control plane.", later=_MTLS),
    Flag("disable-builtin-k8s-secret-store", _SWITCH, "false", "No built-in Kubernetes secrets.", later=_KUBERNETES),
    Flag("log-level", _TEXT, "info", "debug, info, warn, error or fatal."),
    Flag("log-as-json", _SWITCH, "false", "One JSON object a log line."),
    Flag("log-file", _TEXT, "", "Append the log to this file; empty is stdout."),
    Flag("state-dir", _TEXT, "", "Directory for what the runtime itself keeps."),
    Flag("max-connections", _INT, "1024", "Open connections to one server; the longest idle make room, else 503."),
    Flag("http-idle-timeout", _DURATION, "10m", "A connection between two requests is closed after this time."),
    Flag("http-stall-timeout", _DURATION, "60s", "A client that stops sending a body or taking an answer is dropped."),
    Flag("grpc-calls-per-connection", _INT, "256", "gRPC calls at a time on a connection; the client waits for more."),
    Flag("subscription-streams", _INT, "192", "Streaming subscriptions of one app; a further one is refused."),
    Flag("subscription-stream-events", _INT, "64", "Events that one such stream may leave unanswered."),
    Flag("store-queue-operations", _INT, "4096", "Writes that may wait for one database file; further ones fail."),
    Flag("store-queue-size", _SIZE, "32Mi", "Bytes of writes that may wait for one database file."),
    Flag("version", _SWITCH, "false", "Print the version and exit."),
    Flag("build-info", _SWITCH, "false", "Print how this version was built and exit."),
    Flag("wait", _SWITCH, "false", "Wait up to 60 s for the sidecar on --dapr-http-port, then exit."),
    Flag("help", _SWITCH, "false", "Print this text and exit."),
)
