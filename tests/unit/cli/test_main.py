import sys
from importlib import import_module

import pytest

from edge_runtime import RUNTIME_VERSION, __version__
from edge_runtime.__main__ import daprd, main
from edge_runtime.cli.main import COMMANDS


def test_every_command_has_its_module() -> None:
    for command in COMMANDS.values():
        assert callable(import_module(f"edge_runtime.cli.{command.module}").main)


def test_bare_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in COMMANDS)


def test_unknown_command_names_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lisd"]) == 255
    assert 'unknown command "lisd" for "edge-runtime" (did you mean "list"?)' in capsys.readouterr().err


def test_init_is_not_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == 255
    assert 'unknown command "init" for "edge-runtime": nothing has to be set up' in capsys.readouterr().err


@pytest.mark.parametrize(("words", "usage"), [((), "<command>"), (("run",), "run"), (("run", "--", "x"), "run")])
def test_help_is_a_command_too(words: tuple[str, ...], usage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", *words]) == 0
    assert f"edge-runtime {usage}" in capsys.readouterr().out.replace("[flags] <command>", "<command>")


def test_unknown_flag_names_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--app-prot", "1"]) == 255
    assert '(did you mean "app-port"?)' in capsys.readouterr().err


def test_flags_before_the_command_reach_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--log-as-json", "--runtime-path", "/nowhere", "version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["version"], ["--version"], ["-v"]])
def test_version_names_both(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert capsys.readouterr().out == f"CLI version: {__version__} \nRuntime version: {RUNTIME_VERSION}\n"


def test_version_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "-o", "json"]) == 0
    assert capsys.readouterr().out == f'{{"Cli version":"{__version__}","Runtime version":"{RUNTIME_VERSION}"}}\n'


def test_build_info_is_indented(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build-info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "CLI:"
    assert lines[1].startswith("\tVersion: ")
    assert lines[4] == "Runtime:"


def test_daprd_prints_only_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert daprd(["--version"]) == 0
    assert capsys.readouterr() == (f"{RUNTIME_VERSION}\n", "")


def test_daprd_prints_its_build(capsys: pytest.CaptureFixture[str]) -> None:
    assert daprd(["--build-info"]) == 0
    assert [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "Version",
        "Git Commit",
        "Git Version",
    ]


def test_daprd_refuses_unknown_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert daprd(["--app-di", "x"]) == 2
    assert 'unknown flag: --app-di (did you mean "app-id"?)' in capsys.readouterr().err


def test_quick_answers_load_no_event_loop() -> None:
    import subprocess

    code = (
        "import sys; from edge_runtime.__main__ import daprd, main\n"
        "assert daprd(['--version']) == 0 and daprd(['--build-info']) == 0 and daprd(['--help']) == 0\n"
        "assert main([]) == 0 and main(['version']) == 0 and main(['run', '--help']) == 0 and main(['list']) == 0\n"
        "assert not {'trio', 'argparse', 'sqlite3', 'asyncio', 'http.client'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
