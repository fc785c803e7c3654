"""Publish and subscribe: one piece of code for every driver."""

from edge_runtime.blocks.pubsub.app import AppDelivery
from edge_runtime.blocks.pubsub.bindings import PubSubBinding, bind_pubsub, is_namespaced
from edge_runtime.blocks.pubsub.publish import Entry, Failure, Publisher
from edge_runtime.blocks.pubsub.subscriber import Subscriber
from edge_runtime.blocks.pubsub.subscriptions import SubscriptionKind, SubscriptionSpec, from_declared

__all__ = [
    "AppDelivery",
    "Entry",
    "Failure",
    "PubSubBinding",
    "Publisher",
    "Subscriber",
    "SubscriptionKind",
    "SubscriptionSpec",
    "bind_pubsub",
    "from_declared",
    "is_namespaced",
]
