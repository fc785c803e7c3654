#!/bin/sh
# The job of `tools/qemu/powercut`.
exec python3 -B -u powercut.py
