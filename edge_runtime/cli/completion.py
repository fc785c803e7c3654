"""`edge-runtime completion`: what a shell needs to complete commands, their words and their flags."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from edge_runtime.cli.arguments import FLAG, HELP, Option, UsageError, help_text, parse
from edge_runtime.config.values import nearest

USAGE: Final = "edge-runtime completion bash|zsh|fish"
OPTIONS: Final = (
    HELP,
    Option(("log-as-json",), FLAG, hidden=True),
    Option(("runtime-path",), hidden=True),
)
ACTIONS: Final = ("bash", "zsh", "fish")
_EPILOG: Final = """For the shell that runs:
  bash   source <(edge-runtime completion bash)
  zsh    source <(edge-runtime completion zsh)
  fish   edge-runtime completion fish | source"""


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help") or not parsed.words:
        print(help_text(USAGE, "Print a script that completes commands and flags.", OPTIONS, _EPILOG), end="")
        return 0
    shell, *more = parsed.words
    if shell not in ACTIONS or more:
        raise UsageError(f"completion: expected one of {', '.join(ACTIONS)}{nearest(shell, ACTIONS)}")
    print(script(shell), end="")
    return 0


def script(shell: str) -> str:
    """The shell's script, from the tables of all commands."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def _flags(options: Iterable[Option]) -> list[str]:
    words = []
    for option in options:
        words += [f"--{name}" for name in option.names]
        words += [f"-{option.short}"] if option.short else []
    return words


# --- bash -------------------------------------------------------------------------------------------------------------

_BASH: Final = r"""# bash completion for edge-runtime and daprd
_edge_runtime() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    local command="" action="" actions="" flags="" valued="" paths="" i
    # The shell takes --flag=value apart into three words.
    if [[ $word == "=" ]]; then
        word=""
    elif [[ $before == "=" ]]; then
        before=${COMP_WORDS[COMP_CWORD-2]}
    fi
    [[ ${COMP_WORDS[0]##*/} == daprd ]] && command=daprd
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            --) [[ $command == run ]] && compopt -o default; COMPREPLY=(); return ;;
            --runtime-path) [[ $command ]] || ((i++)) ;;
            -*) ;;
            *)
                if [[ ! $command ]]; then command=${COMP_WORDS[i]}
                elif [[ ! $action ]]; then action=${COMP_WORDS[i]}; fi ;;
        esac
    done
    case $command in
%(cases)s
    esac
    COMPREPLY=()
    if [[ " $paths " == *" $before "* ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
    elif [[ " $valued " == *" $before "* ]]; then
        :
    elif [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$word")
    elif [[ $actions && ( ! $action || ! " $actions " == *" $action "* ) ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$actions" -- "$word")
    else
        compopt -o default
    fi
}
complete -F _edge_runtime edge-runtime daprd
"""


def _bash() -> str:
    from edge_runtime.cli.main import ROOT_OPTIONS
    from edge_runtime.cli.tables import command_tables

    tables = command_tables()
    names = ("help", *(table.name for table in tables))
    cases = [_bash_case('""', ROOT_OPTIONS, names), _bash_case("help", (), names)]
    cases += [_bash_case(table.name, table.options, table.actions) for table in tables]
    return _BASH % {"cases": "\n".join(cases)}


def _bash_case(pattern: str, options: Sequence[Option], actions: Iterable[str]) -> str:
    from edge_runtime.cli.tables import takes_path

    paths = _flags(option for option in options if takes_path(option))
    valued = _flags(option for option in options if option.kind != FLAG and not takes_path(option))
    words = {"actions": actions, "flags": _flags(options), "valued": valued, "paths": paths}
    lines = [f'            {name}="{" ".join(value)}"' for name, value in words.items()]
    return "\n".join((f"        {pattern})", *lines)) + " ;;"


# --- zsh --------------------------------------------------------------------------------------------------------------

_ZSH: Final = r"""#compdef edge-runtime daprd
# zsh completion for edge-runtime and daprd
_edge_runtime() {
    local context state state_descr line
    typeset -A opt_args
    if [[ $service == daprd ]]; then
        _edge_runtime_daprd
        return
    fi
    _arguments -C %(root)s '1: :->command' '*:: :->words'
    case $state in
        command)
            local -a commands=(
%(commands)s
            )
            _describe -t commands command commands ;;
        words)
            case $words[1] in
%(calls)s
            esac ;;
    esac
}
%(functions)s
if [[ $funcstack[1] == _edge-runtime ]]; then
    _edge_runtime "$@"
else
    compdef _edge_runtime edge-runtime daprd
fi
"""


def _zsh() -> str:
    from edge_runtime.cli.main import ROOT_OPTIONS
    from edge_runtime.cli.tables import command_tables

    tables = command_tables()
    return _ZSH % {
        "root": " ".join(_zsh_options(ROOT_OPTIONS)),
        "commands": "\n".join(f"                {_quoted(f'{t.name}:{t.summary}')}" for t in tables),
        "calls": "\n".join(f"                {t.name}) _edge_runtime_{t.name.replace('-', '_')} ;;" for t in tables),
        "functions": "\n".join(_zsh_function(t.name, t.options, t.actions) for t in tables),
    }


def _zsh_function(name: str, options: Sequence[Option], actions: Sequence[str]) -> str:
    words = [f"'1: :({' '.join(actions)})'"] if actions else []
    specs = [*_zsh_options(options), *words, "'*: :_default'"]
    lines = " \\\n        ".join(specs)
    return f"_edge_runtime_{name.replace('-', '_')}() {{\n    _arguments -S {lines}\n}}"


def _zsh_options(options: Iterable[Option]) -> list[str]:
    from edge_runtime.cli.tables import takes_path

    specs = []
    for option in options:
        value = "" if option.kind == FLAG else (":path:_files" if takes_path(option) else f":{option.kind}: ")
        text = option.help.replace("[", "(").replace("]", ")").replace(":", "\\:")
        for flag in _flags((option,)):
            joint = "" if option.kind == FLAG else ("=" if flag.startswith("--") else "+")
            specs.append(_quoted(f"*{flag}{joint}[{text}]{value}"))
    return specs


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# --- fish -------------------------------------------------------------------------------------------------------------


def _fish() -> str:
    from edge_runtime.cli.main import ROOT_OPTIONS
    from edge_runtime.cli.tables import command_tables

    tables = command_tables()
    lines = ["# fish completion for edge-runtime and daprd"]
    lines += [_fish_option("edge-runtime", "__fish_use_subcommand", option) for option in ROOT_OPTIONS]
    for table in tables:
        about = f"-a {table.name} -d {_fish_quoted(table.summary)}"
        lines.append(f"complete -c edge-runtime -f -n __fish_use_subcommand {about}")
        seen = f"'__fish_seen_subcommand_from {table.name}'"
        if table.actions:
            words = " ".join(table.actions)
            unseen = f"'__fish_seen_subcommand_from {table.name}; and not __fish_seen_subcommand_from {words}'"
            lines.append(f"complete -c edge-runtime -f -n {unseen} -a '{words}'")
        lines += [_fish_option("edge-runtime", seen, option) for option in table.options]
        if table.name == "daprd":
            lines += [_fish_option("daprd", "", option) for option in table.options]
    return "\n".join(lines) + "\n"


def _fish_option(program: str, condition: str, option: Option) -> str:
    from edge_runtime.cli.tables import takes_path

    words = [f"complete -c {program}", *([f"-n {condition}"] if condition else [])]
    words += [f"-l {name}" for name in option.names]
    words += [f"-s {option.short}"] if option.short else []
    if option.kind != FLAG:
        words.append("-r" if takes_path(option) else "-x")
    return " ".join([*words, f"-d {_fish_quoted(option.help)}"])


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
