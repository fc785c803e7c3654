"""Whatever stands in a file or on the command line, reading it ends with values or with an error in words."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.cli.template import parse_template
from edge_runtime.config.configuration import expand, load_configuration
from edge_runtime.config.flags import FLAGS, FlagError, parse_flags, validate
from edge_runtime.config.references import unquote_go
from edge_runtime.config.resources import load_resources
from edge_runtime.config.yaml import Chunk, parse_document, plain_value, split_documents
from edge_runtime.model.errors import ConfigError

WORDS = [
    "apiVersion: dapr.io/v1alpha1\n", "apiVersion: dapr.io/v2alpha1\n", "kind: Component\n", "kind: Subscription\n",
    "kind: HTTPEndpoint\n", "kind: Resiliency\n", "kind: MCPServer\n", "metadata:\n", "  name: x\n", "spec:\n",
    "  type: state.x\n", "  version: ", "  metadata:\n", "  - name: a\n", "    value: ", "scopes: ", "auth: ",
    "  topic: t\n", "  pubsubname: p\n", "  routes: ", "  baseUrl: http://x\n", "---\n", "...\n", "\n---", "- ",
    "[", "]", "{", "}", ",", ": ", "? ", "&a ", "*a ", "<<: ", "!!int ", "!!binary ", "!x ", "|\n", ">\n", "'", '"',
    "#", "\t", " ", "\n", "%", "@", "`", ".inf", ".nan", "0x10", "1e400", "9" * 5000, "-", "~", "yes", "é", "\ufeff",
    "\x00", "\x85", "\u2028", "apps:\n", "version: 1\n", "appDirPath: .\n", "  tracing: ", "  initTimeout: ",
    "  ignoreErrors: ", "maxConcurrent: ",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(WORDS), max_size=40).map("".join)
FILES = st.one_of(TEXTS.map(str.encode), st.binary(max_size=200), st.tuples(TEXTS, st.binary(max_size=4)).map(
    lambda pair: pair[0].encode() + pair[1]
))  # fmt: skip


def problem(read: Callable[[], object]) -> str | None:
    """What the error says that reading ends with; None when it ends with values. Other exceptions go on."""
    try:
        read()
    except (ConfigError, FlagError) as error:
        return str(error)
    return None


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(FILES)
def test_resource_files_never_surprise(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "a.yaml")
        Path(path).write_bytes(data)
        fatal = problem(lambda: load_resources([directory], app_id="app"))
        assert fatal is None or "is already defined" in fatal
        text = data.decode("utf-8", "replace")
        for read in (lambda: load_configuration([path], {}), lambda: parse_template(text, path, directory)):
            fatal = problem(read)
            assert fatal is None or path in fatal


# Escapes that JSON has and YAML has not (pairs of surrogates), and characters that YAML breaks lines at, are left out.
CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\ufeff\ufffe\uffff")
NUMBERS = st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(CHARACTERS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(CHARACTERS, max_size=8), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_json_is_read_as_it_is(value: object) -> None:
    # JSON is YAML, but a mapping with the key "<<" means something else there.
    text = json.dumps(value, ensure_ascii=False).replace("<<", "++")
    assert plain_value(parse_document(Chunk(text.encode(), 1), "f").root) == json.loads(text)


@given(st.lists(st.sampled_from(["a: 1", "---", "--- x", "", " ---", "b", "\r"]), max_size=12))
def test_documents_know_their_lines(lines: list[str]) -> None:
    data = "\n".join(lines).encode()
    for chunk in split_documents(data):
        rest = data.split(b"\n")[chunk.first_line - 1 :]
        assert b"\n".join(rest).startswith(chunk.data)


ARGUMENTS = st.lists(
    st.one_of(
        st.sampled_from([f"--{flag.name}" for flag in FLAGS]),
        st.tuples(st.sampled_from([flag.name for flag in FLAGS]), st.text(max_size=6)).map(lambda p: f"-{p[0]}={p[1]}"),
        st.sampled_from(
            ["1", "true", "5s", "4Mi", "''", '"', "-", "--", "-x", "a,b", '"a', "9" * 5000, "9e99", "1e999"]
        ),
        st.text(max_size=6),
    ),
    max_size=6,
)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(ARGUMENTS)
def test_command_lines_never_surprise(words: list[str]) -> None:
    if problem(lambda: parse_flags(words)) is None:
        assert all(isinstance(text, str) for text in validate(parse_flags(words)))


@given(st.text())
def test_texts_pass_unquoting_and_expanding(text: str) -> None:
    assert isinstance(unquote_go(text), str)
    assert isinstance(expand(text, {}), str)
    assert "$" in text or expand(text, {}) == text


@given(st.text(alphabet=st.characters(exclude_characters='"\\\n', exclude_categories=["Cs"])))
def test_quoted_text_is_unquoted(text: str) -> None:
    assert unquote_go(f'"{text}"') == text
