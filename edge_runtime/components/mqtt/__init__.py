"""What the pub/sub and the binding of MQTT have in common."""
