"""The one place where everything is built and nested. Read `node.py` first, then `app.py`, then `assembly.py`.

node    the databases, the apps, the signals, the way out
app     one app's listeners, and the generations of blocks behind them (a new one each time the files are read)
assembly  files → components → blocks → face
"""

from edge_runtime.runtime.node import Node, run_node
from edge_runtime.runtime.settings import AppSettings, NodeSettings

__all__ = ["AppSettings", "Node", "NodeSettings", "run_node"]
