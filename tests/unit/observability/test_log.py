from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.model.errors import ConfigError
from edge_runtime.observability.log import LINE_MAX, current_app, current_component, setup_logging

log = logging.getLogger("dapr.runtime.test")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_text_line_has_sorted_fields() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream, version="1.0+x")
    token = current_app.set("my-app")
    log.warning('say "hi"\n')
    current_app.reset(token)
    assert re.fullmatch(
        r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z" level=warning msg="say \\"hi\\"\\n" app_id=my-app '
        r"instance=\S+ scope=dapr.runtime.test type=log ver=1.0\+x\n",
        stream.getvalue(),
    )


def test_a_drivers_line_names_its_component() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream)
    token = current_component.set("s (state.sqlite/v1)")
    logging.getLogger("dapr.contrib").info("mine")
    log.info("not mine")
    current_component.reset(token)
    mine, other = stream.getvalue().splitlines()
    assert 'component="s (state.sqlite/v1)"' in mine
    assert "component=" not in other


def test_a_json_line_is_one_object() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream, as_json=True)
    log.info("hello %s", "you", extra={"fields": {"component": "a (b/v1)"}})
    line = json.loads(stream.getvalue())
    assert list(line) == sorted(line)
    assert (line["level"], line["msg"], line["component"]) == ("info", "hello you", "a (b/v1)")
    assert "app_id" not in line


def test_levels_turn_lines_off() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream, level="error")
    log.warning("no")
    logging.getLogger("dapr.runtime.http-info").info("HTTP API Called")
    assert "HTTP API Called" in stream.getvalue()
    assert "level=warning" not in stream.getvalue()


def test_an_unknown_level_is_an_error() -> None:
    with pytest.raises(ConfigError, match="--log-level 'loud'"):
        setup_logging(level="loud")


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    handler = setup_logging(path=str(path))
    log.info("after")
    handler.stream.close()
    assert path.read_text().startswith("before\ntime=")


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--log-file"):
        setup_logging(path=str(tmp_path))


def test_long_lines_are_cut() -> None:
    stream = io.StringIO()
    setup_logging(stream=stream)
    log.info("x" * (LINE_MAX + 7))
    assert "7 characters cut" in stream.getvalue()


def test_no_line_is_lost_to_an_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, encoding="ascii"))
    setup_logging()
    log.warning("Retrying in 5s… \ud800")
    assert b"Retrying in 5s\\u2026 \\ud800" in out.getvalue()


def test_a_closed_reader_does_no_harm() -> None:
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    setup_logging(stream=Broken())
    log.info("nobody reads")


def test_taps_hear_the_app(tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []
    handler = setup_logging(stream=io.StringIO())
    handler.taps.append(lambda app, line: heard.append((app, line)))
    token = current_app.set("a")
    log.info("x")
    current_app.reset(token)
    assert heard[0][0] == "a"
