"""State: key-value stores of an app, with prefixes, etags, expiry, encryption, transactions and their outbox."""

from edge_runtime.blocks.state.binding import BoundStore, OutboxSettings, bind_store, driver_metadata
from edge_runtime.blocks.state.block import GuardedStore, State
from edge_runtime.blocks.state.outbox import Outbox, OutboxPort
from edge_runtime.blocks.state.requests import NO_METADATA, DeleteItem, Hit, Operation, Page, SaveItem, expire_time

__all__ = [
    "NO_METADATA",
    "BoundStore",
    "DeleteItem",
    "GuardedStore",
    "Hit",
    "Operation",
    "Outbox",
    "OutboxPort",
    "OutboxSettings",
    "Page",
    "SaveItem",
    "State",
    "bind_store",
    "driver_metadata",
    "expire_time",
]
