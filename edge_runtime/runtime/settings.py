"""What the runtime is started with: plain values, read by the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from edge_runtime.config.flags import DaprdFlags


class AppSettings(NamedTuple):
    """One app's sidecar: its flags, and the environment and directory that its files see."""

    flags: DaprdFlags
    environment: Mapping[str, str] = {}
    directory: str = "."


class NodeSettings(NamedTuple):
    """What belongs to the node as a whole.

    `attach` says who may attach apps over the control socket: `none`, `same-user` or `group:<name>`. `linger` keeps a
    node without apps alive: that is `serve`; other nodes end with their last app. `config_dir` has the `components` and
    the `config.yaml` of apps that name none.
    """

    state_dir: str
    attach: str = "none"
    linger: bool = False
    log_level: str = ""
    log_as_json: bool = False
    log_file: str = ""
    config_dir: str = ""
