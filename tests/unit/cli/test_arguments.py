import pytest

from edge_runtime.cli.arguments import FLAG, HELP, INTEGER, LIST, TEXT, Option, UsageError, help_text, parse, require

OPTIONS = (
    HELP,
    Option(("app-id",), TEXT, "a", "The name."),
    Option(("app-port",), INTEGER, "p", "The port.", "-1"),
    Option(("no-attach", "standalone"), FLAG, "", "Alone."),
    Option(("kubernetes",), FLAG, "k", hidden=True),
    Option(("resources-path",), LIST, "", "Directories."),
)


@pytest.mark.parametrize("argv", [["-p", "30"], ["-p30"], ["-p=30"], ["--app-port", "30"], ["--app-port=30"]])
def test_a_flag_is_written_five_ways(argv: list[str]) -> None:
    assert parse(OPTIONS, argv).integer("app-port") == 30


def test_flags_and_words_mix() -> None:
    parsed = parse(OPTIONS, ["python", "-a", "x", "app.py", "--", "--app-id", "y"])
    assert parsed.words == ["python", "app.py"]
    assert parsed.rest == ["--app-id", "y"]
    assert parsed.text("app-id") == "x"


def test_switch_takes_no_word() -> None:
    parsed = parse(OPTIONS, ["--no-attach", "false"])
    assert parsed.flag("no-attach")
    assert parsed.words == ["false"]
    assert not parse(OPTIONS, ["--no-attach=false"]).flag("no-attach")


def test_short_switches_share_a_dash() -> None:
    parsed = parse(OPTIONS, ["-kp", "7"])
    assert parsed.flag("kubernetes")
    assert parsed.integer("app-port") == 7


def test_older_name_counts() -> None:
    assert parse(OPTIONS, ["--standalone"]).flag("no-attach")


def test_list_splits_and_adds() -> None:
    parsed = parse(OPTIONS, ["--resources-path", "a,b", "--resources-path=c"])
    assert parsed.items("resources-path") == ["a", "b", "c"]
    assert parsed.values("resources-path") == ["a,b", "c"]
    assert parsed.settings() == {"resources-path": ["a,b", "c"]}


def test_defaults_are_not_given() -> None:
    parsed = parse(OPTIONS, [])
    assert parsed.integer("app-port") == -1
    assert not parsed.given("app-port")
    assert parsed.names() == []


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--app-idd", "x"], 'unknown flag: --app-idd (did you mean "app-id"?)'),
        (["-x"], "unknown shorthand flag: 'x' in -x"),
        (["--app-id"], "flag needs an argument: --app-id"),
        (["-p", "many"], "invalid argument 'many' for --app-port: expected a whole number"),
        (["--no-attach=perhaps"], "invalid argument 'perhaps' for --no-attach: expected true or false"),
    ],
)
def test_mistakes_are_named(argv: list[str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(OPTIONS, argv)
    assert str(caught.value) == text


def test_hidden_flag_is_no_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        parse(OPTIONS, ["--kubernete"])
    assert "did you mean" not in str(caught.value)


def test_required_flag_is_named() -> None:
    with pytest.raises(UsageError, match=r'required flag\(s\) "app-id" not set'):
        require(parse(OPTIONS, []), "app-id")


def test_help_lists_what_is_not_hidden() -> None:
    text = help_text("run [flags]", "Runs.", OPTIONS)
    assert "  -p, --app-port number       The port. (default -1)\n" in text
    assert "kubernetes" not in text
