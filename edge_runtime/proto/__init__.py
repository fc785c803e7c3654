"""The messages and services of Dapr's gRPC API and of gRPC's reflection: `.proto` files, and what is made of them.

The `.proto` files are the source; `tools/protos` writes the modules beside them and `tools/check` holds them fresh.
They are under this package's name, so that the official SDK, which has modules of the same names, can be installed
beside it; but both name the same files to protobuf, so one process loads only one of them. Nothing here is loaded
before gRPC is used.
"""
