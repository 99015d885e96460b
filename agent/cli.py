"""The command line: parses, imports the one verb that was asked for, maps errors to exit codes.

Nothing heavy is imported here: `jules-agent --help` and a verb's own start pay for what they use.
Every error ends as one line for a person (message, then remedy), or as JSON with `--json`; the exit
codes are the design's (`agent.errors.Exit`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from agent import __version__
from agent.errors import AgentError, Exit

_EPILOG = """exit codes:
  0 good   2 usage or configuration   3 secrets unavailable   4 bundle rejected
  5 health gate failed   6 store unreachable   7 agent unreachable"""

Verb = Callable[[argparse.Namespace], int]


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar of the command."""
    parser = argparse.ArgumentParser(
        prog="jules-agent",
        description="Secrets, model bundles and alerts beside one trading pod.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jules-agent {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", help="YAML file; default $JULES_CONFIG")
    common.add_argument("--json", action="store_true", help="machine-readable output")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, target: str, text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, parents=[common], help=text, description=text)
        made.set_defaults(target=target)
        return made

    verb("init", "init:init", "fetch secrets and stage a verified bundle, then exit")
    verb("run", "run:run", "run the agent until SIGTERM")
    verb("status", "status:status", "what the running agent says of itself")
    verb("check", "check:check", "look over configuration, rules and environment")
    verb("reload", "status:reload", "make the running agent read its configuration again")
    _demo(verb("demo", "demo:demo", "play the whole story on this machine"))
    _secrets(verbs.add_parser("secrets", help="the local store and the published set"), common)
    _bundle(verbs.add_parser("bundle", help="publish, deploy, roll back"), common)
    _alerts(verbs.add_parser("alerts", help="what fires and what is pending"), common)
    return parser


def _demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument(
        "--once", action="store_true", help="end after the story; 0 when all happened"
    )
    demo.add_argument("--port", type=int, default=9900, help="port of the status page; 0: any free")
    demo.add_argument("--keep", metavar="DIR", help="work in DIR and keep it")


def _group(
    parent: argparse.ArgumentParser, common: argparse.ArgumentParser
) -> Callable[[str, str, str], argparse.ArgumentParser]:
    verbs = parent.add_subparsers(dest="subverb", metavar="VERB", required=True)

    def verb(name: str, target: str, text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, parents=[common], help=text, description=text)
        made.set_defaults(target=target)
        return made

    return verb


def _secrets(parent: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    verb = _group(parent, common)
    put = verb("put", "secrets:put", "store a secret, its value read from --file or standard input")
    put.add_argument("name", help="such as database/main")
    put.add_argument("--file", metavar="FILE", help="read the value from FILE")
    put.add_argument("--type", default="api_key", help="database_password, api_key, …")
    put.add_argument("--raw", action="store_true", help="take the bytes as they are, not as JSON")
    put.add_argument("--description", default="", help="what it is for; never the value")
    get = verb("get", "secrets:get", "print the value of a secret to standard output")
    get.add_argument("name")
    verb("list", "secrets:list_names", "names, types and versions; no values")
    key = verb("new-key", "secrets:new_key", "make a key file for the local store, mode 0600")
    key.add_argument("file", metavar="FILE")
    verb("refresh", "secrets:refresh", "make the running agent fetch and publish now")


def _bundle(parent: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    verb = _group(parent, common)
    publish = verb("publish", "bundle:publish", "put a bundle into a folder store and its channel")
    publish.add_argument("source", metavar="DIR", help="folder with the bundle's files")
    publish.add_argument("--store", metavar="FOLDER", help="default: bundles.store.path")
    publish.add_argument("--version", help="default: what metadata.json says")
    publish.add_argument("--channel", help="default: the environment's name")
    deploy = verb("deploy", "bundle:deploy", "deploy a version from the store, or from --source")
    deploy.add_argument("version")
    deploy.add_argument("--source", metavar="DIR", help="take the files from DIR")
    deploy.add_argument("--force", action="store_true", help="skip the health gate; recorded")
    back = verb("rollback", "bundle:rollback", "flip back to the previous version, or to VERSION")
    back.add_argument("version", nargs="?")
    back.add_argument("--reason", default="", help="kept in the history")
    history = verb("history", "bundle:history", "rollouts: who, when, from, to, why, how long")
    history.add_argument("--limit", type=int, default=20)


def _alerts(parent: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    verb = _group(parent, common)
    verb("list", "alerts:list_alerts", "pending and firing alerts of the running agent")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    module, function = arguments.target.split(":")
    try:
        run: Verb = getattr(import_module(f"agent.commands.{module}"), function)
        return run(arguments)
    except AgentError as error:
        return _fail(arguments, error)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away, which is its right
        return Exit.GOOD
    except KeyboardInterrupt:
        return 130


def _fail(arguments: argparse.Namespace, error: AgentError) -> int:
    code = int(error.exit_code)
    if getattr(arguments, "json", False):
        told = {"error": str(error), "remedy": error.remedy, "exit_code": code}
        print(json.dumps(told), file=sys.stderr)
    else:
        print(f"jules-agent: {error}", file=sys.stderr)
        if error.remedy:
            print(f"  what to do: {error.remedy}", file=sys.stderr)
    return code
