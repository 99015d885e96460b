"""The verbs of the command line, one module a group, imported only when asked for."""
