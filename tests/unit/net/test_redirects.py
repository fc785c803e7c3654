"""Where answers send their callers on to."""

from __future__ import annotations

import pytest

from edge_runtime.model.errors import DriverError
from edge_runtime.model.http import Body, Request, Response
from edge_runtime.net.redirects import redirection
from edge_runtime.net.urls import parse_url

URL = parse_url("https://here:8443/a")


def asked(method: str = "POST") -> Request:
    return Request(method, b"/a?q=1", [(b"authorization", b"me"), (b"content-type", b"t"), (b"x", b"y")], Body(b"data"))


def answer(status: int, location: str = "/b?c=d") -> Response:
    return Response(status, [(b"location", location.encode())])


@pytest.mark.parametrize("status", [200, 300, 304, 404])
def test_other_statuses_send_nobody_on(status: int) -> None:
    assert redirection(URL, asked(), answer(status)) is None
    assert redirection(URL, asked(), Response(302)) is None


@pytest.mark.parametrize(
    ("status", "method", "becomes"),
    [(302, "POST", "GET"), (303, "PUT", "GET"), (307, "POST", "POST"), (301, "HEAD", "HEAD")],
)
def test_method_and_body_follow_the_status(status: int, method: str, becomes: str) -> None:
    found = redirection(URL, asked(method), answer(status))
    assert found is not None
    url, request = found
    assert (url.origin, request.method, request.target) == (URL.origin, becomes, b"/b?c=d")
    kept = becomes == method
    assert request.body.data == (b"data" if kept else b"")
    assert (b"content-type" in dict(request.headers)) == kept
    assert dict(request.headers)[b"authorization"] == b"me"


@pytest.mark.parametrize("location", ["https://there/b", "http://here/b"])
def test_what_is_private_stays_with_its_host(location: str) -> None:
    found = redirection(URL, asked(), answer(307, location))
    assert found is not None
    assert [name for name, _ in found[1].headers] == [b"content-type", b"x"]


def test_a_body_that_is_gone_is_not_sent_again() -> None:
    class Stream(Body):
        @property
        def buffered(self) -> bool:
            return False

    request = Request("POST", b"/", [], Stream())
    assert redirection(URL, request, answer(307)) is None
    assert redirection(URL, request, answer(302)) is not None


def test_a_place_that_cannot_be_used_is_an_error() -> None:
    with pytest.raises(DriverError, match="a place that cannot be used"):
        redirection(URL, asked(), answer(302, "ftp://x"))
