"""Component metadata, field by field."""

import pytest

from edge_runtime.components.metadata import Fields
from edge_runtime.model.errors import ConfigError


def fields(**metadata: str) -> Fields:
    return Fields(metadata, ("host", "wait", "count", "size", "on", "mode", "alias"), "thing")


def test_names_match_in_any_case() -> None:
    assert fields(HoSt="h").text("host") == "h"


def test_twins_by_case_are_refused() -> None:
    with pytest.raises(ConfigError, match="component 'thing': metadata 'host' and 'HOST' are the same field"):
        fields(host="a", HOST="b")


def test_name_goes_before_its_alias() -> None:
    assert fields(alias="a", host="h").text("host", aliases=("alias",)) == "h"
    assert fields(alias="a").text("host", aliases=("alias",)) == "a"


def test_missing_field_is_named() -> None:
    for given in (fields(), fields(host="")):
        with pytest.raises(ConfigError, match="component 'thing': metadata 'host' is required"):
            given.text("host")


def test_defaults_stand_in() -> None:
    empty = fields()
    assert empty.text("host", "d") == "d"
    assert empty.flag("on", True) is True
    assert empty.duration_s("wait", 2.0) == 2.0
    assert empty.integer("count", 3) == 3
    assert empty.size_bytes("size", 4) == 4
    assert empty.choice("mode", "fast", ("fast", "slow")) == "fast"
    assert fields(wait="", count="", size="", mode="").duration_s("wait", 2.0) == 2.0


@pytest.mark.parametrize(("text", "expected"), [("y", True), ("TRUE", True), ("on", True), ("no", False), ("", True)])
def test_flags_are_loose(text: str, expected: bool) -> None:
    assert fields(on=text).flag("on", True) is expected


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("1m30s", 90.0), ("250ms", 0.25), ("-1", -1.0)])
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert fields(wait=text).duration_s("wait", 0) == seconds


def test_plain_durations_may_be_milliseconds() -> None:
    assert fields(wait="250").duration_s("wait", 0, plain_unit_s=0.001) == 0.25


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: fields(wait="soon").duration_s("wait", 1), "metadata 'wait' is 'soon'; expected a duration"),
        (lambda: fields(wait="1ms").duration_s("wait", 1, minimum_s=1), "expected at least 1s"),
        (lambda: fields(count="1.5").integer("count", 1), "expected a whole number"),
        (lambda: fields(count="0").integer("count", 1, minimum=1), "expected a whole number of at least 1"),
        (lambda: fields(count="9").integer("count", 1, maximum=5), "expected a whole number of at most 5"),
        (lambda: fields(size="big").size_bytes("size", 1), "expected a size such as 4Mi"),
        (lambda: fields(size="0").size_bytes("size", 1, minimum=1), "expected at least 1 bytes"),
        (lambda: fields(mode="odd").choice("mode", "fast", ("fast", "slow")), "expected one of fast, slow"),
    ],
)
def test_errors_name_the_field(call: object, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call()  # type: ignore[operator]
    assert expected in str(caught.value)
    assert "component 'thing'" in str(caught.value)


def test_good_values_are_read() -> None:
    assert fields(count=" 7 ").integer("count", 1, minimum=1, maximum=9) == 7
    assert fields(size="16Ki").size_bytes("size", 1) == 16384
    assert fields(mode="SLOW").choice("mode", "fast", ("fast", "slow")) == "slow"


def test_unknown_fields_get_one_warning() -> None:
    given = fields(hots="h", keyPrefix="name", consumerid="c")
    assert given.unknown == ["hots"]
    assert given.warnings() == ["component 'thing': metadata 'hots' is not known and ignored (did you mean \"host\"?)"]
