"""Dapr's building blocks. They know ports, not transports and not drivers."""
