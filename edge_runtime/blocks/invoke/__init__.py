"""Service invocation: one app calls another, an HTTPEndpoint or a URL."""

from edge_runtime.blocks.invoke.invoker import Callee, Invoker, OutsideChannel, OutsideEndpoint
from edge_runtime.blocks.invoke.peers import LocalPeers, Peer, Peers

__all__ = ["Callee", "Invoker", "LocalPeers", "OutsideChannel", "OutsideEndpoint", "Peer", "Peers"]
