#!/bin/sh
# The job that `tools/qemu/test` hands to the machine: the groups of checks that `arguments` names.
# shellcheck disable=SC2046
exec python3 -B -u main.py $(cat arguments)
