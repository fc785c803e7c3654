"""gRPC's words above HTTP/2 as pure functions: message frames, metadata, deadlines, status, gzip."""
