"""What a configuration allows: API routes, secrets, and calls from other apps. Decisions only, no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from edge_runtime.config.settings import AccessControl, ApiRule, AppPolicy, SecretScope

# --- API routes -------------------------------------------------------------------------------------------------------


class ApiLists:
    """`spec.api.allowed` and `spec.api.denied` for one protocol. Health routes are always served and not asked here."""

    def __init__(self, allowed: Iterable[ApiRule], denied: Iterable[ApiRule], protocol: str = "http") -> None:
        self._allowed = [f"{rule.version}/{rule.name}" for rule in allowed if _of_protocol(rule, protocol)]
        self._denied = [f"{rule.version}/{rule.name}" for rule in denied if _of_protocol(rule, protocol)]

    @property
    def empty(self) -> bool:
        return not self._allowed and not self._denied

    def permits(self, group: str, version: str, path: str = "") -> bool:
        """Whether a route is served: by its group (`state`, `v1`), or by the start of its path (`v1.0/state/…`)."""
        name = f"{version}/{group}"
        if _listed(self._denied, name, path):
            return False
        return not self._allowed or _listed(self._allowed, name, path)


def _of_protocol(rule: ApiRule, protocol: str) -> bool:
    # HTTP takes its protocol's name in any case, gRPC only as it is written.
    return (rule.protocol.lower() if protocol == "http" else rule.protocol) == protocol


def _listed(rules: Sequence[str], name: str, path: str) -> bool:
    return any(rule == name or (path and path.startswith(rule)) for rule in rules)


# --- secrets ----------------------------------------------------------------------------------------------------------


class SecretScopes:
    """`spec.secrets.scopes`: which secrets of a store the secrets API gives. References in files are not asked."""

    def __init__(self, scopes: Iterable[SecretScope] = ()) -> None:
        self._scopes = {scope.store: scope for scope in scopes}

    def permits(self, store: str, name: str) -> bool:
        scope = self._scopes.get(store)
        if scope is None:
            return True
        if scope.allowed:
            return name in scope.allowed
        return name not in scope.denied and scope.default_access != "deny"


# --- calls from other apps --------------------------------------------------------------------------------------------


class Caller(NamedTuple):
    """Who calls, as proven by its certificate."""

    app_id: str
    namespace: str
    trust_domain: str


class Verdict(NamedTuple):
    """`by_app` is true when a policy of the calling app decided, false when the global default did."""

    allowed: bool
    by_app: bool


class _Node:
    """One path segment of an app's operations; children are asked in the order in which they were written."""

    __slots__ = ("actions", "children", "match", "segment")

    def __init__(self, segment: str) -> None:
        self.segment = segment
        self.match = _segment_pattern(segment)
        self.children: list[_Node] = []
        # verb → allowed, None where no operation ends here.
        self.actions: dict[str, bool] | None = None

    def child(self, segment: str) -> _Node:
        for node in self.children:
            if node.segment == segment:
                return node
        node = _Node(segment)
        self.children.append(node)
        return node

    def find(self, segments: Sequence[str]) -> dict[str, bool] | None:
        """The verbs of the first sibling that matches; it is not tried again with the next one."""
        if not segments:
            return self.actions
        for node in self.children:
            if node.segment == "**":
                return node.actions
            if node.match.fullmatch(segments[0]):
                return node.find(segments[1:])
        return None


def _segment_pattern(segment: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in segment.split("*")), re.DOTALL)


class _AppRules(NamedTuple):
    policy: AppPolicy
    operations: _Node


class AccessPolicy:
    """`spec.accessControl`: whether another app may call an operation of this one."""

    def __init__(self, settings: AccessControl, protocol: str = "http") -> None:
        self._http = protocol == "http"
        self._default = _allows(settings.default_action)
        self._apps = {
            (policy.app_id, policy.namespace): _AppRules(policy, self._trie(policy)) for policy in settings.policies
        }

    def permits(self, caller: Caller | None, operation: str, verb: str = "") -> Verdict:
        """`caller` is None without mTLS: then only the global default counts."""
        rules = None if caller is None else self._apps.get((caller.app_id, caller.namespace))
        if rules is None or caller is None or rules.policy.trust_domain != caller.trust_domain:
            return Verdict(self._default, False)
        actions = rules.operations.find(self._segments(operation))
        if actions is not None:
            action = actions.get(verb.upper() if self._http else _ANY, actions.get(_ANY))
            if action is not None:
                return Verdict(action, True)
        default = rules.policy.default_action
        return Verdict(_allows(default), True) if default else Verdict(self._default, False)

    def _trie(self, policy: AppPolicy) -> _Node:
        root = _Node("")
        for operation in policy.operations:
            node = root
            for segment in self._segments(operation.name):
                node = node.child(segment)
            if node.actions is None:
                # An HTTP operation without verbs decides nothing, so the app's default does; gRPC has no verbs.
                verbs = [verb.upper() for verb in operation.verbs] if self._http else [_ANY]
                node.actions = dict.fromkeys(verbs, _allows(operation.action))
        return root

    def _segments(self, operation: str) -> list[str]:
        name = operation if operation.startswith("/") else f"/{operation}"
        return (name.lower() if self._http else name)[1:].split("/")


_ANY: Final = "*"


def _allows(action: str) -> bool:
    return action.lower() == "allow"


def denial(app_id: str, operation: str, verb: str) -> str:
    """The text of a refused call."""
    return f"access control policy has denied access to id: {app_id} operation: {operation} verb: {verb}"
