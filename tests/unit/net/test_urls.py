"""URLs as people write them."""

from __future__ import annotations

import pytest

from edge_runtime.net.connections import Origin
from edge_runtime.net.urls import Url, parse_url, redirected


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://host", Url(Origin("http", "host", 80))),
        ("https://Host:8443/a/b?x=1", Url(Origin("https", "host", 8443), b"/a/b", b"?x=1")),
        ("http://[::1]:8080/", Url(Origin("http", "::1", 8080), b"/")),
        ("https://h/a b/%41é", Url(Origin("https", "h", 443), b"/a%20b/%41%C3%A9")),
    ],
)
def test_urls_are_parsed(text: str, url: Url) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize("text", ["", "host", "ftp://host", "http://", "http://:80", "http://h:port", "http://u:p@h"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_url(text)


@pytest.mark.parametrize("text", ["htp://me:secret@host", "http://me:secret@", "me:secret@host", "http://u:secret@h"])
def test_passwords_are_not_shown(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_url(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        (b"/x?y", Url(Origin("http", "h", 81), b"/x", b"?y")),
        (b"x", Url(Origin("http", "h", 81), b"/a/x")),
        (b"https://other/z", Url(Origin("https", "other", 443), b"/z")),
        (b"//other/z", Url(Origin("http", "other", 80), b"/z")),
    ],
)
def test_redirects_are_resolved(location: bytes, url: Url) -> None:
    assert redirected(parse_url("http://h:81"), b"/a/b?q", location) == url


@pytest.mark.parametrize(
    ("origin", "authority"),
    [
        (Origin("http", "h", 80), "h"),
        (Origin("https", "h", 443), "h"),
        (Origin("http", "h", 443), "h:443"),
        (Origin("http", "::1", 3000), "[::1]:3000"),
    ],
)
def test_authority_leaves_default_port(origin: Origin, authority: str) -> None:
    assert origin.authority == authority
