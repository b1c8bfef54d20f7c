"""The command `aot`: parsing, help, completion, and which module each command is in.

Nothing heavy is imported here. A command's module is loaded when the command is used, so that `aot --help` is there at
once.
"""
