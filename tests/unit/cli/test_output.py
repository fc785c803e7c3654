import io
import json
from pathlib import Path

import pytest

from edge_runtime.cli import output
from edge_runtime.cli.output import Messages, age, created, render, shortened, table


def test_columns_are_two_blanks_apart() -> None:
    assert table(("APP_ID", "PORT"), [("a", "1"), ("longer", "22")]) == "APP ID  PORT\na       1\nlonger  22\n"


def test_blank_column_is_left_out() -> None:
    assert table(("A", "B", "C"), [("1", "", "3"), ("4", "", "6")]) == "A  C\n1  3\n4  6\n"


def test_blanks_in_cells_collapse() -> None:
    assert table(("A",), [("  one\n two ",)]) == "A\none two\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86_399, "23h"), (86_400, "1d"), (-5, "0s")],
)
def test_age_is_whole_numbers(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_created_has_a_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(time, "localtime", time.gmtime)
    assert created(0) == "1970-01-01 00:00.00"


def test_long_command_is_shortened() -> None:
    assert shortened("x" * 20) == "x" * 20
    assert shortened("x" * 21) == "x" * 17 + "..."


def test_json_has_two_blanks_and_no_newline() -> None:
    assert render([{"a": 1}], "json", (), ()) == '[\n  {\n    "a": 1\n  }\n]'
    assert render([], "json", (), ()) == "[]"
    assert render([{"b": "", "a": 1}], "yaml", (), ()) == "- b: ''\n  a: 1\n"


def test_marks_lead_and_failures_go_to_stderr() -> None:
    out, err = io.StringIO(), io.StringIO()
    messages = Messages(out=out, err=err)
    messages.success("done")
    messages.failure("broken")
    assert out.getvalue() == "✅  done\n"
    assert err.getvalue() == "❌  broken\n"


def test_file_gets_no_marks(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as file:
        Messages(out=file).info("plain")
        file.seek(0)
        assert file.read() == "plain\n"


def test_narrow_encoding_gets_no_marks() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Messages(out=stream).warning("plain")
    stream.seek(0)
    assert stream.read() == "plain\n"


def test_messages_as_json() -> None:
    out = io.StringIO()
    Messages(True, out=out).warning("look — here")
    line = json.loads(out.getvalue())
    assert (line["status"], line["msg"]) == ("warning", "look — here")
    assert line["time"].endswith("Z")
    assert len(line["time"]) == 30


def test_statuses_all_have_marks() -> None:
    assert set(output._MARKS) == {"success", "failure", "warning", "pending", "info"}
