"""gRPC over our own HTTP/2: a server and a client. Loaded with the first gRPC connection or gRPC app, not before."""
