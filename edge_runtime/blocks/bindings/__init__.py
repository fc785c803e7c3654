"""Bindings: what the app tells things outside to do, and what they tell the app."""

from edge_runtime.blocks.bindings.binding import BoundBinding, bind_binding
from edge_runtime.blocks.bindings.output import Bindings, FarOutput, InvokeFailed

__all__ = ["Bindings", "BoundBinding", "FarOutput", "InvokeFailed", "bind_binding"]
