"""Path rules hold for every path, not only for those that somebody thought of."""

from __future__ import annotations

from urllib.parse import quote_from_bytes, unquote_to_bytes

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.wire import paths
from edge_runtime.wire.http1 import encode_request

wild = st.binary(max_size=40) | st.lists(
    st.sampled_from(
        [b"/", b"..", b".", b"%", b"%41", b"%2", b"a", b"+", b" ", b"\xc3\xa9", b"?", b"#", b"\r\n", b"//"]
    ),
    max_size=12,
).map(b"".join)


@given(wild)
def test_cleaning_twice_changes_nothing(path: bytes) -> None:
    cleaned = paths.clean(path)
    assert paths.clean(cleaned) == cleaned
    assert not cleaned.startswith(b"/")
    assert b".." not in cleaned.split(b"/")


@given(wild)
def test_no_method_breaks_a_request_line(method: bytes) -> None:
    try:
        sent = paths.encode(paths.clean(method))
    except ValueError:
        return
    assert encode_request("GET", b"/" + sent, []) == b"GET /%b HTTP/1.1\r\n\r\n" % sent


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="%?#\x7f"), max_size=40))
def test_text_arrives_as_it_was(text: str) -> None:
    method = paths.clean(text.encode())
    raw = quote_from_bytes(method).encode()
    assert unquote_to_bytes(paths.encode(paths.decode(raw))) == method


@given(wild, wild)
def test_splitting_never_fails(target: bytes, method: bytes) -> None:
    paths.split_invocation(b"/v1.0/invoke/" + target + b"/method/" + method)
    path, query = paths.split_target(target)
    assert path.startswith(b"/")
    assert target.endswith(query)
