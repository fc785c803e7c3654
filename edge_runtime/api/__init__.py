"""The faces: bytes in, bytes out. They parse, call one block and render; they hold no semantics."""
