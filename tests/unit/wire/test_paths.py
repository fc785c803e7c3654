"""The path rules of service invocation as tables."""

from __future__ import annotations

import pytest

from edge_runtime.wire import paths


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a/b", b"/a/b", b""),
        (b"/a?x=1&y=%20+?", b"/a", b"?x=1&y=%20+?"),
        (b"/a?", b"/a", b"?"),
        (b"http://host:1/a?x", b"/a", b"?x"),
        (b"*", b"/*", b""),
    ],
)
def test_targets_are_split(target: bytes, path: bytes, query: bytes) -> None:
    assert paths.split_target(target) == (path, query)


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        (b"/", b""),
        (b"", b""),
        (b"/a//b/", b"a/b"),
        (b"a/./b", b"a/b"),
        (b"/a/../../b", b"b"),
        (b"../../etc/passwd", b"etc/passwd"),
        (b"./a", b"a"),
        (b"/a/.hidden", b"a/.hidden"),
        (b"...", b"..."),
    ],
)
def test_paths_are_cleaned(path: bytes, cleaned: bytes) -> None:
    assert paths.clean(path) == cleaned


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/v1.0/invoke/app/method/a/b", ("app", b"a/b")),
        (b"/v1.0/invoke/app/method/", ("app", b"")),
        (b"/v1.0/invoke/app/method/a/", ("app", b"a")),
        (b"/v1.0/invoke/app/method/a/method/b", ("app", b"a/method/b")),
        (b"/v1.0/invoke/app.ns/method/x", ("app.ns", b"x")),
        (b"/v1.0/invoke/http://host:80/method/x", ("http://host:80", b"x")),
        (b"/v1.0/invoke/https://host/base/path/method/x", ("https://host/base/path", b"x")),
        (b"/v1.0/invoke/http%3A%2F%2Fhost/method/x", ("http://host", b"x")),
        (b"/v1.0/invoke/my+app/method/x+y", ("my app", b"x+y")),
        (b"//v1.0//invoke//app/method/x", ("app", b"x")),
        (b"/v1.0/invoke/app/method", None),
        (b"/v1.0/invoke/app/other/x", None),
        (b"/v1.0/invoke//method/x", None),
        (b"/v1.0/state/app/method/x", None),
        (b"/x/v1.0/invoke/app/method/x", None),
    ],
)
def test_invocations_are_split(path: bytes, expected: tuple[str, bytes] | None) -> None:
    assert paths.split_invocation(path) == expected


@pytest.mark.parametrize(
    ("raw", "sent"),
    [
        (b"orders/17", b"orders/17"),
        (b"a%2Fb", b"a/b"),
        (b"a%20b", b"a%20b"),
        (b"a+b", b"a+b"),
        (b"%2541", b"%41"),
        (b"%2541%20b", b"A%20b"),
        (b"caf%C3%A9", b"caf%C3%A9"),
        (b"caf\xc3\xa9", b"caf%C3%A9"),
        (b"a(b)!'*[1]", b"a(b)!'*[1]"),
        (b"a%22b", b"a%22b"),
        (b"~x;v=1,2:3@4$5&6", b"~x;v=1,2:3@4$5&6"),
        (b"", b""),
    ],
)
def test_methods_reach_the_wire(raw: bytes, sent: bytes) -> None:
    assert paths.encode(paths.decode(raw)) == sent


@pytest.mark.parametrize("raw", [b"100%25", b"%25zz", b"a%23b", b"a%3Fb", b"a%00b", b"a%0Ab", b"a%0D%0AHost:x", b"%7F"])
def test_bad_methods_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        paths.encode(paths.decode(raw))
