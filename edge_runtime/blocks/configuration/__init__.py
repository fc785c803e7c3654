"""Configuration: settings that apps read, and are told of when they change."""

from edge_runtime.blocks.configuration.app import documents
from edge_runtime.blocks.configuration.block import (
    Client,
    Configuration,
    ConfigurationLimits,
    KeptSubscription,
    SubscriptionsStopped,
)
from edge_runtime.blocks.configuration.subscription import End

__all__ = [
    "Client",
    "Configuration",
    "ConfigurationLimits",
    "End",
    "KeptSubscription",
    "SubscriptionsStopped",
    "documents",
]
