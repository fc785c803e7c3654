"""The command line of `daprd`: a table of flags, a parser for it, and what the values mean together.

The parser is our own because the standard one costs 2 MB and 20 ms in every sidecar, and because Dapr's has its own
ways: `-app-id x` is `--app-id x`, a switch takes no separate word, lists are comma-separated and repeatable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from edge_runtime.config.flag_table import FLAGS, Flag, FlagKind
from edge_runtime.config.values import go_bool, go_duration_s, nearest, quantity_bytes

__all__ = ["FLAGS", "DaprdFlags", "Flag", "FlagError", "later_flags", "parse_flags", "usage", "validate"]

_MB: Final = 2**20
_KB: Final = 1024
BODY_BYTES_DEFAULT: Final = 4 * _MB
HEADER_BYTES_DEFAULT: Final = 4 * _KB

_LEVELS: Final = ("debug", "info", "warn", "error", "fatal")
_PROTOCOLS: Final = ("http", "https", "h2c", "grpc", "grpcs")
_WITH_TLS: Final = {"http": "https", "grpc": "grpcs"}


class FlagError(Exception):
    """A command line that cannot be understood (exit code 2); the text names flag, value and what was expected."""


class DaprdFlags(NamedTuple):
    """Every flag's value, as written; the properties say what they come to. `given` are the names on the command line.

    `notes` are lines for stderr, about deprecated flags.
    """

    actors_disseminate_timeout: float
    actors_service: str
    allowed_origins: tuple[str, ...]
    app_binding_options_timeout: float
    app_channel_address: str
    app_health_check_path: str
    app_health_probe_interval: int
    app_health_probe_timeout: int
    app_health_threshold: int
    app_id: str
    app_max_concurrency: int
    app_port: int | None
    app_protocol: str
    app_ssl: bool
    build_info: bool
    components_path: str
    config: tuple[str, ...]
    control_plane_address: str
    control_plane_namespace: str
    control_plane_trust_domain: str
    dapr_block_shutdown_duration: float | None
    dapr_graceful_shutdown_seconds: int
    dapr_grpc_port: int
    dapr_http_max_request_size: int
    dapr_http_port: int
    dapr_http_read_buffer_size: int
    dapr_internal_grpc_listen_address: str
    dapr_internal_grpc_port: int | None
    dapr_listen_addresses: tuple[str, ...]
    dapr_public_listen_address: str
    dapr_public_port: int | None
    disable_builtin_k8s_secret_store: bool
    disable_init_endpoints: tuple[str, ...]
    enable_api_logging: bool | None
    enable_app_health_check: bool
    enable_metrics: bool
    enable_mtls: bool
    enable_profiling: bool
    grpc_calls_per_connection: int
    help: bool
    hot_reload_reconcile_interval: float
    http_idle_timeout: float
    http_stall_timeout: float
    log_as_json: bool
    log_file: str
    log_level: str
    max_body_size: int
    max_connections: int
    metrics_listen_address: str
    metrics_port: int
    mode: str
    placement_host_address: tuple[str, ...]
    profile_port: int
    read_buffer_size: int
    reminders_service: str
    resources_path: tuple[str, ...]
    scheduler_host_address: tuple[str, ...]
    scheduler_job_streams: int
    sentry_address: str
    sentry_request_jwt_audiences: tuple[str, ...]
    state_dir: str
    store_queue_operations: int
    store_queue_size: int
    subscription_stream_events: int
    subscription_streams: int
    unix_domain_socket: str
    version: bool
    wait: bool
    given: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def resource_directories(self) -> tuple[str, ...]:
        """`resources-path`, else the older `components-path`."""
        if self.resources_path:
            return self.resources_path
        return (self.components_path,) if self.components_path else ()

    @property
    def body_bytes_max(self) -> int | None:
        """The largest request body; None is no limit."""
        if "max-body-size" not in self.given and "dapr-http-max-request-size" in self.given:
            size = self.dapr_http_max_request_size
            return _limit(size, BODY_BYTES_DEFAULT, size * _MB)
        return _limit(self.max_body_size, BODY_BYTES_DEFAULT, self.max_body_size)

    @property
    def header_bytes_max(self) -> int:
        """The largest request header block; never unlimited."""
        size = self.read_buffer_size
        if "read-buffer-size" not in self.given and "dapr-http-read-buffer-size" in self.given:
            size = self.dapr_http_read_buffer_size * _KB
        return size if size > 0 else HEADER_BYTES_DEFAULT

    @property
    def protocol(self) -> str:
        """http, https, h2c, grpc or grpcs, with the older `app-ssl` applied."""
        name = self.app_protocol.lower() or "http"
        return _WITH_TLS.get(name, name) if self.app_ssl else name

    @property
    def app_concurrency_max(self) -> int | None:
        """Parallel calls into the app; None is no limit."""
        return self.app_max_concurrency if self.app_max_concurrency > 0 else None

    @property
    def graceful_shutdown_s(self) -> float | None:
        """How long a stop may take before the process is ended by force; None is without end."""
        seconds = self.dapr_graceful_shutdown_seconds
        return float(5 if seconds < 0 else seconds) or None

    @property
    def health_interval_s(self) -> float:
        return float(self.app_health_probe_interval if self.app_health_probe_interval > 0 else 5)

    @property
    def health_timeout_s(self) -> float:
        return (self.app_health_probe_timeout if self.app_health_probe_timeout > 0 else 500) / 1000

    @property
    def health_threshold(self) -> int:
        return self.app_health_threshold if self.app_health_threshold >= 1 else 3

    @property
    def binding_options_timeout_s(self) -> float:
        return self.app_binding_options_timeout if self.app_binding_options_timeout > 0 else 3.0

    @property
    def skips_config_endpoint(self) -> bool:
        """Whether `GET /dapr/config` is not asked."""
        return self._disables("config")

    @property
    def skips_subscribe_endpoint(self) -> bool:
        """Whether `GET /dapr/subscribe` is not asked."""
        return self._disables("subscribe")

    def _disables(self, endpoint: str) -> bool:
        return any(word.strip().lower() == endpoint for word in self.disable_init_endpoints)


def _limit(written: int, default: int, value: int) -> int | None:
    if written == -1:
        return default
    return value if written > 0 else None


# --- parsing ----------------------------------------------------------------------------------------------------------


def parse_flags(arguments: Sequence[str], flags: Iterable[Flag] = FLAGS) -> DaprdFlags:
    """The typed values. Raises `FlagError`. After `--help` nothing more is read."""
    table = {flag.name: flag for flag in flags}
    values: dict[str, Any] = {name: parse_value(flag, flag.default) for name, flag in table.items()}
    given: dict[str, None] = {}
    words = iter(arguments)
    for word in words:
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            continue  # positional words are ignored
        name, equals, text = _two_dashes(word)[2:].partition("=")
        flag = table.get(name) or _short(word, table)
        if flag is None:
            raise FlagError(f"unknown flag: {word.partition('=')[0]}{nearest(name, table)}")
        value = parse_value(flag, text if equals else _next_value(flag, words))
        if flag.kind is FlagKind.LIST and flag.name in given:
            value = (*values[flag.name], *value)
        values[flag.name] = value
        given[flag.name] = None
        if flag.name == "help":
            break
    notes = [f"Flag --{name} has been deprecated, {table[name].deprecated}" for name in given if table[name].deprecated]
    by_field = {name.replace("-", "_"): value for name, value in values.items()}
    return DaprdFlags(**by_field, given=frozenset(given), notes=tuple(notes))


def _two_dashes(word: str) -> str:
    """`-app-id` as `--app-id`: every longer word with one dash gets its second, whatever it is."""
    return f"-{word}" if len(word) > 2 and word[1] != "-" else word


def _short(word: str, table: dict[str, Flag]) -> Flag | None:
    return table["help"] if word == "-h" else None


def _next_value(flag: Flag, words: Iterable[str]) -> str:
    if flag.boolean:
        return "true"
    for word in words:
        return _two_dashes(word) if word.startswith("-") and len(word) > 2 else word
    raise FlagError(f"flag needs an argument: --{flag.name}; expected {_EXPECTED[flag.kind]}")


def parse_value(flag: Flag, text: str) -> Any:
    """The value of one flag from its text. Raises `FlagError`."""
    text = _unquoted(text)
    if flag.kind is FlagKind.PORT and text in ("", "-1"):
        text = flag.default
    if flag.kind is FlagKind.DURATION and not text and not flag.default:
        return None
    try:
        return _PARSERS[flag.kind](text)
    except ValueError:
        raise FlagError(f"invalid argument {text!r} for --{flag.name}: expected {_EXPECTED[flag.kind]}") from None


def _unquoted(text: str) -> str:
    """Without the pair of quotes that a unit file or script passed on instead of a shell taking it away."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" and text.count(text[0]) == 2:
        return text[1:-1]
    return text


def _integer(text: str) -> int:
    """Decimal, or 0x, 0o, 0b and a leading 0 for octal, as Go's flags take it."""
    sign = -1 if text.startswith("-") else 1
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not digits or not digits[0].isdigit() or not digits.isascii():
        raise ValueError(text)
    octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
    return sign * (int(digits, 8) if octal else int(digits, 0))


def _unsigned(text: str) -> int:
    value = _integer(text)
    if value < 0:
        raise ValueError(text)
    return value


def _port(text: str) -> int | None:
    """Empty is none, 0 is any free port."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise ValueError(text)
    return int(text)


def _csv(text: str) -> tuple[str, ...]:
    if not text:
        return ()
    if '"' in text:
        import csv

        try:
            return tuple(next(csv.reader([text])))
        except csv.Error as error:
            raise ValueError(str(error)) from None
    return tuple(text.split(","))


def _addresses(text: str) -> tuple[str, ...]:
    return tuple(part for part in (part.strip() for part in text.split(",")) if part)


_PARSERS: Final[dict[FlagKind, Callable[[str], Any]]] = {
    FlagKind.TEXT: str,
    FlagKind.CSV: _addresses,
    FlagKind.LIST: _csv,
    FlagKind.SWITCH: go_bool,
    FlagKind.TRISTATE: lambda text: go_bool(text) if text else None,
    FlagKind.INTEGER: _integer,
    FlagKind.UNSIGNED: _unsigned,
    FlagKind.PORT: _port,
    FlagKind.DURATION: go_duration_s,
    FlagKind.SIZE: quantity_bytes,
}
_EXPECTED: Final = {
    FlagKind.TEXT: "a text",
    FlagKind.CSV: "texts parted by commas",
    FlagKind.LIST: "texts parted by commas",
    FlagKind.SWITCH: "true or false",
    FlagKind.TRISTATE: "true or false",
    FlagKind.INTEGER: "a whole number",
    FlagKind.UNSIGNED: "a whole number from 0",
    FlagKind.PORT: "a port from 0 to 65535",
    FlagKind.DURATION: "a duration such as 300ms, 5s or 1h30m",
    FlagKind.SIZE: "a size such as 4Mi, 16Ki or 4194304",
}


def usage(flags: Iterable[Flag] = FLAGS) -> str:
    """The help text: every flag that is not hidden, sorted, with its kind and default."""
    lines = []
    for flag in sorted(flags, key=lambda flag: flag.name):
        if flag.hidden or flag.deprecated:
            continue
        kind = "" if flag.kind is FlagKind.SWITCH else f" {flag.kind.value}"
        default = f" (default {flag.default})" if flag.default not in ("", "false") else ""
        lines.append(f"  --{flag.name}{kind}\n        {flag.help}{default}")
    return "\n".join(lines) + "\n"


# --- what the values mean together ------------------------------------------------------------------------------------


def validate(flags: DaprdFlags) -> list[str]:
    """Why the runtime cannot start with these flags; empty when it can."""
    problems = [
        *_identity_problems(flags),
        *_port_problems(flags),
        *_one_of("log-level", flags.log_level, _LEVELS),
        *_one_of("app-protocol", flags.app_protocol or "http", _PROTOCOLS),
    ]
    if flags.health_timeout_s > flags.health_interval_s:
        problems.append(
            f"--app-health-probe-timeout {flags.health_timeout_s * 1000:.0f} (ms) is longer than "
            f"--app-health-probe-interval {flags.health_interval_s:.0f} (s); make it at most as long"
        )
    for word in flags.disable_init_endpoints:
        problems += _one_of("disable-init-endpoints", word, ("config", "subscribe"))
    if flags.actors_disseminate_timeout <= 0:
        problems.append("--actors-disseminate-timeout must be longer than 0, such as 30s")
    for name, number in (
        ("grpc-calls-per-connection", flags.grpc_calls_per_connection),
        ("subscription-streams", flags.subscription_streams),
        ("subscription-stream-events", flags.subscription_stream_events),
    ):
        if number < 1:
            problems.append(f"--{name} {number} lets nothing through; make it at least 1")
    if not flags.control_plane_trust_domain:
        problems.append("--control-plane-trust-domain must not be empty; leave it out for localhost")
    return problems


def _identity_problems(flags: DaprdFlags) -> Iterable[str]:
    if flags.mode == "kubernetes":
        yield "--mode kubernetes is not served: this runtime is for single devices; use --mode standalone"
    elif flags.mode != "standalone":
        yield f"invalid mode {flags.mode!r}: --mode must be standalone"
    if not flags.app_id:
        yield "app-id parameter cannot be empty: give the app a name with --app-id"
    elif "." in flags.app_id:
        yield f"--app-id {flags.app_id!r} must not contain '.'"
    elif "/" in flags.app_id or "\0" in flags.app_id:
        yield f"--app-id {flags.app_id!r} must not contain '/'"


def _port_problems(flags: DaprdFlags) -> Iterable[str]:
    taken: dict[int, str] = {}
    for name, port in (
        ("app-port", flags.app_port),
        ("dapr-http-port", flags.dapr_http_port),
        ("dapr-grpc-port", flags.dapr_grpc_port),
    ):
        if port and port in taken:
            yield f"--{name} {port} is the port of --{taken[port]} already; give each its own"
        elif port:
            taken[port] = name


def _one_of(name: str, value: str, allowed: Sequence[str]) -> list[str]:
    if value.strip().lower() in allowed:
        return []
    return [f"invalid value {value!r} for --{name}: expected {', '.join(allowed)}{nearest(value, allowed)}"]


# Every command line of `run`, Dapr's own too, has it, asked for or not.
_NOT_WORTH_A_LINE: Final = frozenset({"dapr-internal-grpc-port"})


def later_flags(flags: DaprdFlags, table: Iterable[Flag] = FLAGS) -> list[str]:
    """Flags on the command line that are accepted and have no effect yet: a line for each part that will serve them."""
    by_part: dict[str, list[str]] = {}
    for flag in table:
        if not flag.later or flag.name in _NOT_WORTH_A_LINE:
            continue
        if flag.name in flags.given and _asks_for_something(flags, flag):
            by_part.setdefault(flag.later, []).append(f"--{flag.name}")
    return [
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} accepted, without effect yet: {part}"
        for part, names in by_part.items()
    ]


def _asks_for_something(flags: DaprdFlags, flag: Flag) -> bool:
    return bool(getattr(flags, flag.name.replace("-", "_")) != parse_value(flag, flag.default))
