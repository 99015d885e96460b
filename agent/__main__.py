"""`python -m agent` is the same program as the `jules-agent` command."""

from agent.cli import entry

if __name__ == "__main__":
    entry()
