"""The commands that people type: `main.py` finds the module of a command, each module is one command."""
