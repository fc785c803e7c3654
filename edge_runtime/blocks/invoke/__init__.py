"""Service invocation: one app calls another, of this node or behind a cloud link, an HTTPEndpoint or a URL."""

from edge_runtime.blocks.invoke.grpc_app import GrpcApp
from edge_runtime.blocks.invoke.invoker import Callee, Invoker, OutsideChannel, OutsideEndpoint
from edge_runtime.blocks.invoke.peers import LocalPeers, Peer, Peers

__all__ = ["Callee", "GrpcApp", "Invoker", "LocalPeers", "OutsideChannel", "OutsideEndpoint", "Peer", "Peers"]
