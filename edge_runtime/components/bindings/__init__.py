"""Drivers of the bindings block."""
