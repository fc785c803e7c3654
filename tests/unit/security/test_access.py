"""API lists, secret scopes and access control."""

from __future__ import annotations

import pytest

from edge_runtime.config.settings import AccessControl, ApiRule, AppPolicy, Operation, SecretScope
from edge_runtime.security.access import AccessPolicy, ApiLists, Caller, SecretScopes, Verdict, denial

STATE = ("state", "v1", "v1.0/state/{store}")
QUERY = ("state", "v1alpha1", "v1.0-alpha1/state/{store}/query")
INVOKE = ("invoke", "v1", "v1.0/invoke/{id}")


def rule(name: str, version: str = "v1", protocol: str = "http") -> ApiRule:
    return ApiRule(name, version, protocol)


# allowed, denied, which of the three routes are served
LISTS = [
    ([], [], [True, True, True]),
    ([rule("state")], [], [True, False, False]),
    ([rule("state", "v1.0")], [], [True, False, False]),
    ([rule("sta", "v1.0")], [], [True, False, False]),
    ([rule("state", "v1.0-alpha1")], [], [False, True, False]),
    ([rule("state", protocol="HTTP")], [], [True, False, False]),
    ([rule("state", protocol="grpc")], [], [True, True, True]),
    ([], [rule("state")], [False, True, True]),
    ([], [rule("invoke", "v1.0")], [True, True, False]),
    ([rule("state"), rule("invoke")], [rule("invoke")], [True, False, False]),
]


@pytest.mark.parametrize(("allowed", "denied", "served"), LISTS)
def test_lists_decide_on_routes(allowed: list[ApiRule], denied: list[ApiRule], served: list[bool]) -> None:
    lists = ApiLists(allowed, denied)
    assert [lists.permits(*route) for route in (STATE, QUERY, INVOKE)] == served


def test_grpc_rules_are_exact() -> None:
    assert ApiLists([rule("state", protocol="GRPC")], [], "grpc").empty
    assert ApiLists([rule("state", protocol="grpc")], [], "grpc").permits("state", "v1")
    assert not ApiLists([rule("state", protocol="grpc")], [], "grpc").permits("invoke", "v1")


SCOPES = [
    (SecretScope("vault"), "a", True),
    (SecretScope("vault", "deny"), "a", False),
    (SecretScope("vault", "deny", ("a",)), "a", True),
    (SecretScope("vault", "allow", ("b",)), "a", False),
    (SecretScope("vault", "allow", (), ("a",)), "a", False),
    (SecretScope("vault", "allow", (), ("a",)), "b", True),
    (SecretScope("vault", "deny", (), ("b",)), "a", False),
    (SecretScope("vault", "allow", ("a",), ("a",)), "a", True),
    (SecretScope("other", "deny"), "a", True),
]


@pytest.mark.parametrize(("scope", "name", "permitted"), SCOPES)
def test_scopes_decide_on_secrets(scope: SecretScope, name: str, permitted: bool) -> None:
    assert SecretScopes([scope]).permits("vault", name) is permitted


CALLER = Caller("caller", "default", "public")


def policy(*operations: Operation, default: str = "") -> AppPolicy:
    return AppPolicy("caller", "default", "public", default, operations)


def asked(
    operations: list[tuple[str, str, str]],
    operation: str,
    verb: str = "GET",
    *,
    default: str = "deny",
    http: bool = True,
) -> bool:
    """The verdict where everything that no operation decides is `default`."""
    rows = [Operation(name, tuple(verbs.split()), action) for name, verbs, action in operations]
    control = AccessControl("deny", "public", (policy(*rows, default=default),))
    return AccessPolicy(control, "http" if http else "grpc").permits(CALLER, operation, verb).allowed


OPERATIONS = [
    ([("/a", "GET", "allow")], "/a", "GET", True),
    ([("a", "get", "Allow")], "A", "get", True),
    ([("/a", "GET", "allow")], "/a", "POST", False),
    ([("/a", "*", "allow")], "/a", "POST", True),
    ([("/a", "", "allow")], "/a", "GET", False),
    ([("/a", "GET", "allow")], "/a/b", "GET", False),
    ([("/a", "GET", "allow")], "/", "GET", False),
    ([("/a/*", "GET", "allow")], "/a/b", "GET", True),
    ([("/a/*", "GET", "allow")], "/a/b/c", "GET", False),
    ([("/a/**", "GET", "allow")], "/a/b/c", "GET", True),
    ([("/a/b*d/e", "GET", "allow")], "/a/bcd/e", "GET", True),
    ([("/a/b*d/e", "GET", "allow")], "/a/bc/e", "GET", False),
    ([("/*", "GET", "deny"), ("/a", "GET", "allow")], "/a", "GET", False),
    ([("/a", "GET", "allow"), ("/*", "GET", "deny")], "/a", "GET", True),
    ([("/a", "GET", "allow"), ("/a", "GET", "deny")], "/a", "GET", True),
    ([("/a.b", "GET", "allow")], "/axb", "GET", False),
]


@pytest.mark.parametrize(("operations", "operation", "verb", "allowed"), OPERATIONS)
def test_operations_decide_on_calls(
    operations: list[tuple[str, str, str]], operation: str, verb: str, allowed: bool
) -> None:
    assert asked(operations, operation, verb) is allowed


def test_grpc_operations_keep_their_case() -> None:
    operations = [("/Say", "", "allow")]
    assert asked(operations, "/Say", "", http=False)
    assert not asked(operations, "/say", "", http=False)


def test_app_default_goes_before_the_global_one() -> None:
    assert asked([], "/a", default="allow")
    control = AccessControl("allow", "public", (policy(),))
    assert AccessPolicy(control).permits(CALLER, "/a", "GET") == Verdict(True, False)
    control = AccessControl("allow", "public", (policy(default="deny"),))
    assert AccessPolicy(control).permits(CALLER, "/a", "GET") == Verdict(False, True)


@pytest.mark.parametrize(
    "caller",
    [None, Caller("other", "default", "public"), Caller("caller", "x", "public"), Caller("caller", "default", "x")],
)
def test_strangers_get_the_global_default(caller: Caller | None) -> None:
    control = AccessControl("deny", "public", (policy(default="allow"),))
    assert AccessPolicy(control).permits(caller, "/a", "GET") == Verdict(False, False)


def test_denial_names_the_call() -> None:
    assert denial("a", "/b", "GET") == "access control policy has denied access to id: a operation: /b verb: GET"
