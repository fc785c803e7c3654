"""Makes the Debian packages: vendored wheels, the program, its units, byte code, and nothing that differs by build."""
