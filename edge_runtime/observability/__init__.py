"""What the node shows of itself: log lines, metrics, trace contexts, health."""
