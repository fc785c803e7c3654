"""Publish and subscribe: one piece of code for every driver."""

from edge_runtime.blocks.pubsub.bindings import PubSubBinding, bind_pubsub, is_namespaced
from edge_runtime.blocks.pubsub.publish import Entry, Failure, Publisher

__all__ = ["Entry", "Failure", "PubSubBinding", "Publisher", "bind_pubsub", "is_namespaced"]
