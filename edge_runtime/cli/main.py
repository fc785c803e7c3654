"""Which module is which command, and what stands before the command: the flags that all of them know."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Final, NamedTuple

from edge_runtime.cli.arguments import HELP, Option, UsageError, parse, print_error
from edge_runtime.config.values import nearest

USAGE_EXIT: Final = 255  # what Dapr's command line gives for a word it does not know


class Command(NamedTuple):
    module: str
    summary: str


COMMANDS: Final = {
    "run": Command("run", "Run an app with its sidecar, or every app of a run file."),
    "serve": Command("serve", "Run a node that apps attach to."),
    "list": Command("list", "List the apps that run."),
    "stop": Command("stop", "Stop apps."),
    "invoke": Command("invoke", "Call a method of an app."),
    "publish": Command("publish", "Publish an event."),
    "state": Command("state", "Read and change state: get, set, delete, list."),
    "config": Command("config", "Set, read and follow settings of apps: set, get, list, delete, watch."),
    "topics": Command("topics", "Show what the node's topics hold and who lags."),
    "outbox": Command("outbox", "Show and change what waits to be sent: list, show, retry, drop, export."),
    "invocations": Command("invocations", "Show queued calls over cloud links and their answers: list, show."),
    "sync": Command("sync", "Show and steer cloud links: status, dry-run, pause, resume, now."),
    "conflicts": Command("conflicts", "Show and resolve what two sides had changed: list, show, resolve, retry."),
    "doctor": Command("doctor", "Find out what is wrong, and how it is mended."),
    "support-bundle": Command("support_bundle", "Write down how the node is, for who helps, without secrets."),
    "backup": Command("backup", "Back the node up while it runs."),
    "restore": Command("restore", "Restore a backup, or verify one."),
    "completion": Command("completion", "Print completions for a shell: bash, zsh, fish."),
    "man": Command("man", "Print or write the manual pages."),
    "bundle": Command("bundle", "Make, check and install signed updates: make, verify, install, keygen."),
    "firstboot": Command("firstboot", "Take the configuration that lies on the boot partition, once."),
    "version": Command("version", "Print the versions."),
    "build-info": Command("build_info", "Print how the program was built."),
    "daprd": Command("daprd", "Run a bare sidecar with the flags of Dapr's own."),
}

ROOT_OPTIONS: Final = (
    HELP,
    Option(("version",), "flag", "v", "Print the versions."),
    Option(("log-as-json",), "flag", "", "Print messages and logs as JSON."),
    Option(("runtime-path",), "text", "", "The directory that holds .dapr, instead of the home directory."),
)
_ROOT_VALUE_FLAGS: Final = ("--runtime-path",)

# Commands of Dapr whose work is not there to be done.
_NEEDLESS: Final = {
    "init": ": nothing has to be set up; start with `edge-runtime run`",
    "uninstall": ": nothing was set up; stop the apps and remove the state directory",
}


def dispatch(argv: Sequence[str]) -> int:
    """Run the command that `argv` names and return its exit code."""
    before, name, after = _split(argv)
    try:
        if not name:
            return _root(before)
        command = COMMANDS.get(name)
        if name == "help":
            return dispatch([*before, *after[:1], "--help"])
        if command is None:
            hint = _NEEDLESS.get(name) or nearest(name, COMMANDS)
            raise UsageError(f'unknown command "{name}" for "edge-runtime"{hint}')
        return _call(command, [*before, *after])
    except UsageError as error:
        print_error(f"{error}\nRun 'edge-runtime {name + ' ' if name in COMMANDS else ''}--help' for usage.")
        return USAGE_EXIT


def _call(command: Command, argv: Sequence[str]) -> int:
    module = import_module(f"edge_runtime.cli.{command.module}")
    try:
        return int(module.main(argv))
    except BrokenPipeError:
        return 141  # whoever read our answer has seen enough
    except KeyboardInterrupt:
        return 130


def _split(argv: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """The words before the command, the command (empty for none) and what follows it."""
    position = 0
    while position < len(argv) and argv[position].startswith("-"):
        position += 2 if argv[position] in _ROOT_VALUE_FLAGS else 1
    if position >= len(argv):
        return list(argv), "", []
    return list(argv[:position]), argv[position], list(argv[position + 1 :])


def _root(argv: Sequence[str]) -> int:
    parsed = parse(ROOT_OPTIONS, argv)
    if parsed.flag("version"):
        from edge_runtime.cli.version import text

        print(text())
        return 0
    print(root_help(), end="")
    return 0


def root_help() -> str:
    """What bare `edge-runtime` prints."""
    from edge_runtime.cli.arguments import help_text

    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name.ljust(width)}   {command.summary}" for name, command in COMMANDS.items())
    text = help_text(
        "edge-runtime [flags] <command>", "A drop-in Dapr for edge devices: one process for every app.", ROOT_OPTIONS
    )
    head, flags = text.split("Flags:", 1)
    return f"{head}Commands:\n{commands}\n\nFlags:{flags}\nHelp on one command: edge-runtime <command> --help\n"
