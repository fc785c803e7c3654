"""Every way in which a YAML document can be broken: it is left out, says where and why, and its neighbours load."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.config.resources import load_resources
from edge_runtime.config.yaml import DEPTH_MAX, DOCUMENT_BYTES_MAX, VALUES_MAX

GOOD = b"""apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: good}
spec: {type: state.in-memory, version: v1}
"""
HEAD = b"apiVersion: dapr.io/v1alpha1\nkind: Component\n"


def component(spec: bytes, metadata: bytes = b"{name: bad}") -> bytes:
    return HEAD + b"metadata: " + metadata + b"\nspec:\n" + spec


def bomb() -> bytes:
    lines = [b"a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 12):
        lines.append(b"a%d: &a%d [" % (level, level) + b", ".join([b"*a%d" % (level - 1)] * 9) + b"]")
    return b"\n".join(lines)


def deep_aliases() -> bytes:
    lines = [b"a0: &a0 [x]"] + [b"a%d: &a%d [*a%d]" % (n, n, n - 1) for n in range(1, 500)]
    return b"\n".join(lines)


# what is broken, the document, the line of the warning within the document, a part of its text
BROKEN = [
    ("open list", HEAD + b"a: [1, 2\n", 4, "did not find expected"),
    ("open mapping", HEAD + b"a: {b: 1\n", 4, "did not find expected"),
    ("open quote", HEAD + b'a: "never closed\n', 4, "end of stream"),
    ("tab as indent", HEAD + b"spec:\n\ttype: x\n", 4, "tab"),
    ("two colons", HEAD + b"a: b: c\n", 3, "not allowed"),
    ("outdented key", HEAD + b"spec:\n    a: 1\n  b: 2\n", 5, "did not find expected"),
    ("list in a mapping", HEAD + b"- a\n", 3, "did not find expected"),
    ("text in a mapping", HEAD + b"just words\n", 4, "could not find expected ':'"),
    ("bad escape", HEAD + b'a: "\\q"\n', 3, "unknown escape"),
    ("unknown alias", HEAD + b"a: *nobody\n", 3, "refers to no earlier &nobody"),
    ("alias to itself", HEAD + b"a: &a [*a]\n", 3, "refers to no earlier &a"),
    ("alias bomb", HEAD + bomb(), None, f"more than {VALUES_MAX} values"),
    ("deep aliases", HEAD + deep_aliases(), None, f"deeper than {DEPTH_MAX} levels"),
    ("deep lists", HEAD + b"a: " + b"[" * 5000, 3, f"deeper than {DEPTH_MAX} levels"),
    ("deep mappings", HEAD + b"a: " + b"{b: " * 5000, 3, f"deeper than {DEPTH_MAX} levels"),
    ("list as key", HEAD + b"? [a]\n: b\n", 3, "a key must be a text"),
    ("merge of a text", HEAD + b"<<: text\n", 3, "<< needs a mapping"),
    ("NUL", HEAD + b"a: b\0c\n", 3, "U+0000"),
    ("escape character", HEAD + b"a: b\x1bc\n", 3, "U+001B"),
    ("no UTF-8", HEAD + b"a: b\n# caf\xe9\n", 4, "byte 0xe9 is no UTF-8"),
    ("UTF-16", "a: b".encode("utf-16"), 1, "no UTF-8"),
    ("cut in a character", HEAD + b"a: \xe2\x82", 3, "no UTF-8"),
    ("bad binary", HEAD + b"a: !!binary '?'\n", 3, "base64"),
    ("binary that is no ASCII", HEAD + "a: !!binary é\n".encode(), 3, "base64"),
    ("too large", HEAD + b"a: " + b"x" * DOCUMENT_BYTES_MAX, 1, "64 KiB"),
    ("a list", b"- apiVersion: dapr.io/v1alpha1\n", 1, "expected a mapping with apiVersion and kind"),
    ("a text", b"hello\n", 1, "expected a mapping with apiVersion and kind"),
    ("a number", b"42\n", 1, "expected a mapping with apiVersion and kind"),
    ("kind is a list", b"apiVersion: dapr.io/v1alpha1\nkind: [Component]\n", 2, "kind: expected a text, found a list"),
    ("metadata is a text", HEAD + b"metadata: name\n", 3, "metadata: expected a mapping, found 'name'"),
    ("spec is a list", HEAD + b"metadata: {name: x}\nspec: []\n", 4, "spec: expected a mapping, found a list"),
    ("name is a list", component(b"  type: a.b\n", b"{name: [a]}"), 3, "metadata.name: expected a text"),
    ("name with slash", component(b"  type: a.b\n", b"{name: a/b}"), 3, "a name without '/' and '%'"),
    ("name with percent", component(b"  type: a.b\n", b"{name: a%2f}"), 3, "a name without '/' and '%'"),
    ("name of dots", component(b"  type: a.b\n", b'{name: ".."}'), 3, "a name without '/' and '%'"),
    ("items are a mapping", component(b"  metadata: {a: b}\n"), 5, "spec.metadata: expected a list, found a mapping"),
    ("item is a text", component(b"  metadata: [a]\n"), 5, "spec.metadata[0]: expected a mapping, found 'a'"),
    ("quoted boolean", component(b'  ignoreErrors: "true"\n'), 5, "spec.ignoreErrors: expected true or false"),
    ("number as boolean", component(b"  ignoreErrors: 1\n"), 5, "spec.ignoreErrors: expected true or false, without"),
    ("scopes are a text", HEAD + b"metadata: {name: x}\nscopes: app\n", 4, "scopes: expected a list, found 'app'"),
    ("scope is a list", HEAD + b"metadata: {name: x}\nscopes: [[a]]\n", 4, "scopes[0]: expected a text, found a list"),
    ("secret is a text", component(b"  metadata: [{name: a, secretKeyRef: b}]\n"), 5, "expected a mapping, found 'b'"),
]


@pytest.mark.parametrize(("document", "line", "text"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_broken_document_is_left_out(tmp_path: Path, document: bytes, line: int | None, text: str) -> None:
    path = tmp_path / "mixed.yaml"
    path.write_bytes(GOOD + b"\n---\n" + document + b"\n---\n" + GOOD.replace(b"good", b"last"))
    resources = load_resources([str(tmp_path)], app_id="app")
    assert [component.name for component in resources.components] == ["good", "last"]
    warning = next(warning for warning in resources.warnings if text in warning)
    first_line = GOOD.count(b"\n") + 3
    if line is not None:
        assert warning.startswith(f"{path}:{first_line + line - 1}: ")
    assert "left out" in warning
    assert resources.has_components


QUIET = [
    ("nothing", b""),
    ("comments", b"# nothing here\n# at all\n"),
    ("null", b"~\n"),
    ("foreign kind", b"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n"),
    ("a Configuration", b"apiVersion: dapr.io/v1alpha1\nkind: Configuration\nspec: {tracing: {samplingRate: '1'}}\n"),
]


@pytest.mark.parametrize("document", [row[1] for row in QUIET], ids=[row[0] for row in QUIET])
def test_foreign_documents_are_passed_over(tmp_path: Path, document: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(document + b"\n---\n" + GOOD)
    resources = load_resources([str(tmp_path)], app_id="app")
    assert [component.name for component in resources.components] == ["good"]
    assert resources.warnings == ()


READABLE = [
    ("byte order mark", b"\xef\xbb\xbf" + GOOD),
    ("leading separator", b"---\n" + GOOD),
    ("windows line ends", GOOD.replace(b"\n", b"\r\n")),
    ("end mark", GOOD + b"...\n"),
    ("no last newline", GOOD.rstrip()),
    ("keys in other cases", GOOD.replace(b"metadata", b"Metadata").replace(b"type", b"TYPE")),
    ("JSON", b'{"apiVersion":"dapr.io/v1alpha1","kind":"Component","metadata":{"name":"good"},"spec":{"type":"a.b"}}'),
    ("directive", b"%YAML 1.1\n---\n" + GOOD),
]


@pytest.mark.parametrize("document", [row[1] for row in READABLE], ids=[row[0] for row in READABLE])
def test_unusual_documents_are_read(tmp_path: Path, document: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(document)
    resources = load_resources([str(tmp_path)], app_id="app")
    assert [component.name for component in resources.components] == ["good"]
