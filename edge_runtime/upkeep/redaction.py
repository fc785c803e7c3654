"""Takes secrets out of what is shown to others.

By structure: of a resource file only values stay whose field is known to be harmless. By value: what was taken out, and
every secret that can be found beside the files, is taken out of all other texts too, plain, URL-encoded and in base64.
Of log lines, which may say anything, words go as well that look like a secret.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote, urlsplit

import yaml

MARK: Final = "<redacted>"
_SECRET_LEAST: Final = 6  # a shorter text is part of too many harmless words
_TOP: Final = {"apiVersion", "kind", "name", "namespace", "scopes", "secretStore"}
_LIMITS: Final = {"priority", "size", "age", "whenFull", "body", "queued"}
# Kind → fields whose values stay, wherever in the resource they are.
_HARMLESS: Final[Mapping[str, frozenset[str]]] = {
    "Component": frozenset({*_TOP, "type", "version", "ignoreErrors", "initTimeout", "key", "envRef"}),
    "Subscription": frozenset(
        {*_TOP, "topic", "pubsubname", "route", "default", "path", "deadLetterTopic", "enabled", "maxMessagesCount"}
    ),
    "CloudLink": frozenset(
        {
            *_TOP, *_LIMITS, "bytesPerSecond", "bytesPerDay", "metered", "days", "from", "to", "interval", "pubsub",
            "topic", "remotePubsub", "remoteTopic", "store", "keys", "remoteStore", "remoteKeys", "direction",
            "conflict", "poll", "appID", "remoteName", "maxAge", "key",
        }
    ),
    "HTTPEndpoint": frozenset({*_TOP, "version", "key", "envRef"}),
    "Resiliency": frozenset({*_TOP, "policy", "duration", "maxInterval", "maxRetries", "timeout", "retry"}),
    "Configuration": frozenset({*_TOP, "samplingRate", "enabled", "stdout", "type"}),
}  # fmt: skip
_URLS: Final = frozenset({"http", "grpc", "baseUrl", "url"})
# Nothing under them stays, whatever it is called.
_CLOSED: Final = frozenset({"headers", "token", "tls", "proxy", "clientTLS", "annotations", "labels"})
# Fields of components' metadata whose values stay.
_HARMLESS_METADATA: Final = frozenset(
    {
        "consumerid", "qos", "retain", "cleansession", "keepalive", "pingtimeout", "connecttimeout",
        "reconnectintervalmax", "maxmessagebytes", "receivemessagesmax", "receivebytesmax", "publishtimeout",
        "publishinflightmax", "willqos", "willretain", "redeliverinterval", "redeliverintervalmax", "maxredeliveries",
        "concurrency", "order", "outboxbytesmax", "outboxagemax", "outboxpriority", "outboxwhenfull", "timeout",
        "timeoutinseconds", "busytimeout", "disablewal", "tablename", "metadatatablename", "cleanupinterval",
        "cleanupintervalinseconds", "actorstatestore", "keyprefix", "direction", "openonuse", "pollinterval",
    }
)  # fmt: skip
# Type → fields of its metadata that are paths.
_PATHS: Final[Mapping[str, frozenset[str]]] = {
    "state.sqlite": frozenset({"connectionstring"}),
    "configuration.sqlite": frozenset({"connectionstring"}),
    "pubsub.sqlite": frozenset({"connectionstring"}),
    "secretstores.local.file": frozenset({"secretsfile"}),
}
# Words of a file that is no YAML which are no secrets.
_VOCABULARY: Final = frozenset(
    {"metadata", "endpoint", "routes", *_HARMLESS, *frozenset[str]().union(*_HARMLESS.values())}
)
_SECRETISH: Final = re.compile(r"TOKEN|SECRET|PASS|KEY|CREDENTIAL|AUTH|COOKIE|CERT|CONNECTION|URL|DSN", re.I)
_AFTER: Final = re.compile(
    r"(?i)\b(bearer|basic|password|passwd|token|secret|authorization|api[-_]?key|key)(\W{1,3})([^\s\"',;]+)"
)
_USER: Final = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s\"'@]*@")
_WORD: Final = re.compile(r"[A-Za-z0-9+=_%./-]{12,}")
_PIECE: Final = re.compile(r"[A-Za-z0-9+=_%-]{12,}")
_OUR_LINE: Final = re.compile(r"\blevel=\w+ .*\bscope=dapr|\"scope\": ?\"dapr|\"level\": ?\"")


class Redactor:
    """Remembers every secret that it has seen, so that it knows it again elsewhere."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def learn(self, value: Any) -> None:
        """This is a secret, and what it is made of: the user and the password of a URL, each leaf of a document."""
        if isinstance(value, Mapping):
            for item in value.values():
                self.learn(item)
        elif isinstance(value, list | tuple):
            for item in value:
                self.learn(item)
        elif value is not None and not isinstance(value, bool):
            self._learn_text(str(value))

    def learn_file(self, path: str) -> None:
        """Every leaf of a JSON file, or else every word of it."""
        try:
            with open(path, "rb") as file:
                text = file.read(2**20).decode("utf-8", "replace")
        except OSError:
            return
        try:
            self.learn(json.loads(text))
        except ValueError:
            for word in re.split(r"[\s\"'=:,]+", text):
                self._learn_text(word)
            self._learn_text(text.strip())

    def learn_variables(self, variables: Mapping[str, str]) -> None:
        for name, value in variables.items():
            if _SECRETISH.search(name):
                self._learn_text(value)

    def _learn_text(self, text: str) -> None:
        self._pattern = None
        for one in (text, text.strip(), *text.split("\n")):
            if len(one) >= _SECRET_LEAST:
                self._secrets.add(one)
        if "://" in text:
            try:
                parts = urlsplit(text)
            except ValueError:
                return
            for part in (parts.username, parts.password, *parts.query.split("&")):
                self._secrets.update(one for one in (part, unquote(part or "")) if one and len(one) >= _SECRET_LEAST)

    def scrub(self, text: str) -> str:
        """The text without any secret that was learnt, in any of its forms, and without users of URLs."""
        if self._pattern is None:
            forms = {form for secret in self._secrets for form in _forms(secret)}
            longest_first = sorted(forms, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first))) if forms else re.compile(r"(?!)")
        return _USER.sub(rf"\1{MARK}@", self._pattern.sub(MARK, text))

    # --- resource files

    def resource_file(self, text: str) -> str:
        """The documents with harmless values only. Of no plain YAML nothing is shown, and every word learnt."""
        try:
            if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
                raise yaml.YAMLError("a few lines with aliases may come to more than any memory holds")
            documents = list(yaml.safe_load_all(text))
        except (yaml.YAMLError, ValueError, RecursionError):
            for word in re.split(r"[\s\"'{}\[\],]+", text):
                if word.rstrip(":") not in _VOCABULARY:
                    self._learn_text(word.rstrip(":"))
            return f"# {MARK}: this is no plain YAML\n"
        shown = [self._document(document) for document in documents if document is not None]
        return str(yaml.safe_dump_all(shown, sort_keys=False, allow_unicode=True))

    def _document(self, document: Any) -> Any:
        if not isinstance(document, Mapping):
            return self._closed(document)
        kind = str(document.get("kind"))
        harmless = _HARMLESS.get(kind, frozenset({"apiVersion", "kind"}))
        spec = document.get("spec")
        if kind == "Component" and isinstance(spec, Mapping):
            harmless |= _PATHS.get(str(spec.get("type")).lower(), frozenset())
        return {
            str(name): (self._open if name == "metadata" else self._spread)(value, harmless, kind, str(name))
            for name, value in document.items()
        }

    def _open(self, value: Any, harmless: frozenset[str], kind: str, field: str = "") -> Any:
        if isinstance(value, Mapping):
            if kind == "Component" and field == "metadata" and "value" in value and "name" in value:
                return self._item(value, harmless, kind)
            return {str(name): self._spread(one, harmless, kind, str(name)) for name, one in value.items()}
        if isinstance(value, list):
            return [self._open(one, harmless, kind, field) for one in value]
        if field in harmless:
            return value
        return self._url(value) if field in _URLS and isinstance(value, str) else self._closed(value)

    def _spread(self, value: Any, harmless: frozenset[str], kind: str, field: str) -> Any:
        """A mapping's field. Below the head `metadata` is what users call as they like."""
        if field in _CLOSED or (field == "metadata" and isinstance(value, Mapping)):
            return self._closed(value)
        return self._open(value, harmless, kind, field)

    def _item(self, item: Mapping[str, Any], harmless: frozenset[str], kind: str) -> dict[str, Any]:
        """One field of a component's metadata."""
        name, value = str(item["name"]), item["value"]
        if name.lower() == "url" and isinstance(value, str):
            shown = self._url(value)
        elif name.lower() in _HARMLESS_METADATA | harmless and not isinstance(value, Mapping | list):
            shown = value
        else:
            shown = self._closed(value)
        others = {key: self._spread(one, harmless, kind, str(key)) for key, one in item.items() if key != "value"}
        return {**others, "value": shown}

    def _url(self, text: str) -> str:
        """Scheme, host and port."""
        try:
            parts = urlsplit(text)
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            return str(self._closed(text))
        if not parts.hostname:
            return str(self._closed(text))
        if parts.username or parts.path.strip("/") or parts.query:
            self.learn(text)
            self._learn_text(parts.path)
        return f"{parts.scheme}://{MARK + '@' if parts.username else ''}{parts.hostname}{port}"

    def _closed(self, value: Any) -> Any:
        self.learn(value)
        return MARK

    # --- log lines

    def log_lines(self, lines: Iterable[str], known: Iterable[str] = ()) -> list[str]:
        """Lines of the runtime itself, without what looks like a secret. What apps print is left out."""
        harmless = frozenset(known)
        return [self._log_line(line, harmless) for line in lines if _OUR_LINE.search(line) and "== APP" not in line]

    def _log_line(self, line: str, known: frozenset[str]) -> str:
        head, separator, rest = line.partition(" msg=")
        cleaned = _AFTER.sub(lambda match: f"{match[1]}{match[2]}{MARK}", self.scrub(rest if separator else line))

        def judge(match: re.Match[str]) -> str:
            word = match[0]
            return word if word in known else _PIECE.sub(lambda piece: _judged(piece[0], known), word)

        cleaned = _WORD.sub(judge, cleaned)
        return f"{self.scrub(head)}{separator}{cleaned}" if separator else cleaned


def _judged(word: str, known: frozenset[str]) -> str:
    """A long word with letters and digits mixed is nobody's language."""
    mixed = any(letter.isdigit() for letter in word) and any(letter.isalpha() for letter in word)
    return MARK if mixed and word not in known and not re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.Z+-]+", word) else word


def _forms(secret: str) -> set[str]:
    """As it may stand in a text; base64 at each of the three places that it may have in what was encoded."""
    raw = secret.encode()
    forms = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], raw.hex()}
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw)
        begin = (0, 2, 3)[shift]
        end = len(encoded.rstrip(b"=")) - (1 if (shift + len(raw)) % 3 else 0)
        piece = encoded[begin:end].decode()
        if len(piece) >= _SECRET_LEAST:
            forms.update((piece, piece.replace("+", "-").replace("/", "_"), quote(piece, safe="")))
    return {form for form in forms if len(form) >= _SECRET_LEAST}


# --- metrics and flags ------------------------------------------------------------------------------------------------

_LABEL: Final = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"')
_HARMLESS_LABELS: Final = frozenset(
    {
        "app_id", "component", "componentName", "status", "method", "link", "state", "class", "direction", "outcome",
        "reason", "namespace", "pubsub", "topic", "route", "le", "process_status", "success", "type", "version",
    }
)  # fmt: skip
_HARMLESS_FLAGS: Final = re.compile(
    r"app-id|app-port|app-protocol|.*-port|.*-address(es)?|.*-path|config|log-.*|state-dir|enable-.*|max-.*|.*-size|"
    r"dapr-graceful.*|dapr-block.*|.*-timeout|.*-interval|.*-threshold|mode|unix-domain-socket|.*-operations|.*-streams?.*"
)


def metrics_text(text: str) -> str:
    """The page without values of labels that may be a user's."""
    return _LABEL.sub(lambda match: match[0] if match[1] in _HARMLESS_LABELS else f'{match[1]}="{MARK}"', text)


def flags_shown(flags: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    return {
        name: list(values) if _HARMLESS_FLAGS.fullmatch(name) else [MARK for _ in values]
        for name, values in flags.items()
    }
