"""The measurements behind `docs/benchmarks.md`: standard library only, so that the client's cost never changes."""
