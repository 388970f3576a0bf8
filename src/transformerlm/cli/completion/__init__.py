"""`transformerlm completion SHELL`: a script that completes commands, options and values in a shell.

The script is static: all words are in it, and completing starts no Python. It is made from the same config
classes as the commands themselves; after an update it has to be printed again.
"""

from transformerlm.cli.completion.command import main

__all__ = ["main"]
