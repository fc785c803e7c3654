"""What the tests of whole processes share: a sidecar as its users start it, and an app that it can call."""
