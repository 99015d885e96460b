"""The command line: parses, imports the one verb that was asked for, maps errors to exit codes.

Nothing heavy is imported here: `jules-agent --help` and a verb's own start pay for what they use.
Every error ends as one line for a person (message, then remedy), or as JSON with `--json`; the exit
codes are those of `agent.errors.Exit`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType

from agent import __version__
from agent.errors import AgentError, Exit

_EPILOG = """exit codes:
  0 good   2 usage or configuration   3 secrets unavailable   4 bundle rejected
  5 health gate failed, not ready   6 store unreachable   7 agent unreachable"""

Verb = Callable[[argparse.Namespace], int]


def build_parser(asked: str | None = None) -> argparse.ArgumentParser:
    """The grammar of the command: whole, or that of the verb or group `asked` alone, since each
    other one costs the init container a part of its start."""
    parser = argparse.ArgumentParser(
        prog="jules-agent",
        description="Secrets, model bundles and alerts beside one trading pod.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jules-agent {__version__}")
    parser.set_defaults(config=None, json=False)
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--config", metavar="FILE", help="YAML file; default $JULES_CONFIG")
    common.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--config", metavar="FILE", help=argparse.SUPPRESS)  # before the verb too
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    known = {name for name, *_ in (*_VERBS, *_GROUPS)}
    for name, target, text, fill in _VERBS:
        if asked == name or asked not in known:
            made = verbs.add_parser(name, parents=[common], help=text, description=text)
            made.set_defaults(target=target)
            if fill is not None:
                fill(made)
    for name, text, fill_group in _GROUPS:
        if asked == name or asked not in known:
            fill_group(verbs.add_parser(name, help=text), common)
    return parser


def _check(check: argparse.ArgumentParser) -> None:
    check.add_argument(
        "what", nargs="?", choices=("rules",), help="rules: load, lint and test rule files alone"
    )
    check.add_argument("files", nargs="*", metavar="FILE", help="default: the configured ones")
    check.add_argument(
        "--tests", nargs="+", metavar="FILE", help="unit tests as `promtool test rules` reads them"
    )
    check.add_argument(
        "--target", dest="exposed", metavar="URL", help="warn of metrics that it does not expose"
    )
    check.add_argument("--interval", type=float, metavar="SECONDS", help="between two scrapes")


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
    return _adder(verbs, common)


def _adder(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> Callable[[str, str, str], argparse.ArgumentParser]:
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
    _where(put)
    put.add_argument("--cas", type=int, metavar="N", help="vault: only if version N is current")
    put.add_argument("--description", default="", help="what it is for; never the value")
    get = verb("get", "secrets:get", "print the value of a secret to standard output")
    get.add_argument("name")
    get.add_argument("--previous", action="store_true", help="the version before the current one")
    _where(get)
    get.add_argument("--version", metavar="V", help="vault: a number; aws: an id or a stage")
    rotate = verb("rotate", "secrets:rotate", "have a new value made, issued or rotated")
    rotate.add_argument("name")
    _where(rotate)
    rotate.add_argument("--length", type=int, metavar="N", help="letters, or bytes of a key")
    rotate.add_argument("--alphabet", default="safe", help="safe (default), alnum, ascii, hex")
    rotate.add_argument("--field", metavar="NAME", help="the field that is made anew")
    rotate.add_argument("--generate", action="store_true", help="aws: make it here, put it there")
    rotate.add_argument("--root", metavar="CONNECTION", help="vault: the engine's own password")
    verb("list", "secrets:list_names", "names, types and versions; no values")
    key = verb("new-key", "secrets:new_key", "make a key file for the local store, mode 0600")
    key.add_argument("file", metavar="FILE")
    verb("refresh", "secrets:refresh", "make the running agent fetch and publish now")
    delete = verb("delete", "store:delete", "remove a secret from the local store")
    delete.add_argument("name")
    rekey = verb("rekey", "store:rekey", "encrypt the local store anew under another key file")
    rekey.add_argument("--new-key", metavar="FILE", help="default: secrets.local.next_key_file")
    rekey.add_argument("--offline", action="store_true", help="no running agent reads the store")
    for name, target, text in (
        ("export", "store:export", "write the local store to a new file under a passphrase"),
        ("import", "store:import_from", "take in what `export` wrote"),
    ):
        made = verb(name, target, text)
        made.add_argument("file", metavar="FILE")
        made.add_argument("--passphrase-file", metavar="FILE", required=True)
    made.add_argument("--replace", action="store_true", help="also where the store differs")
    verb("accept-older", "store:accept_older", "take a restored older store for the newest")
    chain = _group(verb("audit", "audit:verify", "the record of every access"), common)
    chain("verify", "audit:verify", "find any edit, deletion or reorder in the audit log")
    shown = chain("show", "audit:show_records", "the newest records that match")
    shown.add_argument("--limit", type=int, default=50, metavar="N")
    for part in ("actor", "action", "subject", "outcome"):
        shown.add_argument(f"--{part}", metavar="TEXT", help=f"whose {part} contains TEXT")


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--provider", choices=("local", "vault", "aws"), default="local")


def _bundle(parent: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    verb = _group(parent, common)
    _publishing(verb)
    deploy = verb("deploy", "bundle:deploy", "deploy a version from the store, or from --source")
    deploy.add_argument("version")
    deploy.add_argument("--source", metavar="DIR", help="take the files from DIR")
    deploy.add_argument("--force", action="store_true", help="skip the health gate; recorded")
    deploy.add_argument(
        "--hotfix", metavar="WHY", help="go live in a freeze window all the same; recorded"
    )
    back = verb("rollback", "bundle:rollback", "flip back to the previous version, or to VERSION")
    back.add_argument("version", nargs="?")
    back.add_argument("--reason", default="", help="kept in the history")
    history = verb("history", "bundle:history", "rollouts: who, when, from, to, why, how long")
    history.add_argument("--limit", type=int, default=20)
    history.add_argument("--steps", action="store_true", help="each step and what decided it")
    hold = verb("hold", "standing:hold", "keep what is live, through every restart; rollback stays")
    hold.add_argument("--reason", default="", help="shown wherever the hold stops something")
    hold.add_argument("--until", metavar="WHEN", help="2h, or 2025-07-08T16:00-04:00")
    verb("resume", "standing:resume", "end the hold; the channel is followed again")
    pin = verb("pin", "standing:pin", "keep a version on disk whatever is collected")
    pin.add_argument("version")
    unpin = verb("unpin", "standing:unpin", "let a pinned version be collected again")
    unpin.add_argument("version")
    collect = verb("gc", "standing:collect", "remove versions that retention no longer keeps")
    collect.add_argument("--dry-run", action="store_true", help="only tell what would be removed")
    diff = verb("diff", "standing:diff", "what differs between two versions on disk")
    diff.add_argument("version", metavar="V1")
    diff.add_argument("other", metavar="V2")


def _publishing(verb: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    pack = verb("pack", "publishing:pack", "write the manifest of a bundle's folder")
    sign = verb("sign", "publishing:sign", "add a signature to a packed folder")
    verify = verb("verify", "publishing:verify", "prove a packed folder as an agent would")
    publish = verb("publish", "publishing:publish", "put a bundle into a store and its channel")
    for made in (pack, sign, verify, publish):
        made.add_argument("source", metavar="DIR", help="folder with the bundle's files")
    point = verb("point", "publishing:point", "make a channel ask for a version in the store")
    point.add_argument("version")
    point.add_argument("--back", action="store_true", help="allow an older one; needs a key")
    point.add_argument(
        "--from", dest="since", type=int, metavar="SEQUENCE", help="default: the channel's now"
    )
    point.add_argument("--valid", default="24h", metavar="TIME", help="how long --back counts")
    for made in (publish, point):
        made.add_argument("--store", metavar="FOLDER", help="default: bundles.store")
        made.add_argument("--channel", help="default: the environment's name")
    for made in (pack, publish):
        made.add_argument("--version", help="default: what metadata.json says")
        made.add_argument("--sequence", type=int, metavar="N", help="when signing: the time")
        made.add_argument("--expires", metavar="TIME", help="such as 90d; default: never")
        made.add_argument("--requires-agent", metavar="X.Y.Z", help="oldest release that will do")
    for made in (sign, publish, point):
        made.add_argument("--key", metavar="FILE", help="Ed25519 private key in PEM, mode 0600")
        made.add_argument("--key-secret", metavar="NAME", help="the key, from the local store")
        made.add_argument("--key-id", metavar="ID", help="as bundles.trust.keys names it")
    verify.add_argument(
        "--trust", action="append", metavar="ID=KEY", help="default: bundles.trust.keys"
    )
    verify.add_argument("--threshold", type=int, default=1, metavar="N", help="signatures needed")
    key = verb("new-key", "publishing:new_key", "make a private key; prints its public half")
    key.add_argument("file", metavar="FILE")
    key.add_argument("--key-id", default="release", metavar="ID")


def _alerts(parent: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    parent_verbs = parent.add_subparsers(dest="subverb", metavar="VERB", required=True)
    verb = _adder(parent_verbs, common)
    verb("list", "alerts:list_alerts", "pending and firing alerts of the running agent")
    test = verb("test", "alerts:send_test", "send a marked test; tell the answer and its time")
    test.add_argument("destination", help="such as pagerduty, slack, or a webhook's name")
    play = verb("replay", "alerts:replay_rules", "what a recording would have paged, and when")
    play.add_argument("--metrics", required=True, metavar="FILE", help="see `alerts record`")
    play.add_argument("--rules", nargs="+", metavar="FILE", help="default: as configured")
    play.add_argument("--job", default="trader", help="the `job` label of its series")
    keep = verb("record", "alerts:record_target", "write a live target's scrapes for `replay`")
    keep.add_argument("url", help="such as http://localhost:8000/metrics")
    keep.add_argument("--output", required=True, metavar="FILE", help="a new file")
    keep.add_argument("--every", default="1s", help="time between two scrapes")
    keep.add_argument("--duration", default="1m", help="how long it records")
    silence = parent_verbs.add_parser("silence", help="mute alerts for a while")
    mute = _group(silence, common)
    add = mute("add", "alerts:add_silence", "mute what meets all the matchers")
    add.add_argument("matchers", nargs="+", help="such as alertname=Slow or desk=~'fx.*'")
    add.add_argument("--duration", required=True, help="such as 30m or 2h")
    add.add_argument("--comment", default="", help="why; shown to others")
    add.add_argument("--by", default="", help="who; default: the user")
    listed = mute("list", "alerts:list_silences", "silences in force and planned")
    listed.add_argument("--expired", action="store_true", help="also what is over")
    expire = mute("expire", "alerts:expire_silence", "end a silence now")
    expire.add_argument("id", help="as `alerts silence list` shows it, or its beginning")


_VERBS: tuple[tuple[str, str, str, Callable[[argparse.ArgumentParser], None] | None], ...] = (
    ("init", "init:init", "fetch secrets and stage a verified bundle, then exit", None),
    ("run", "run:run", "run the agent until SIGTERM", None),
    ("status", "status:status", "what the running agent says of itself", None),
    ("check", "check:check", "look over configuration, rules and environment", _check),
    ("reload", "status:reload", "make the running agent read its configuration again", None),
    ("demo", "demo:demo", "play the whole story on this machine", _demo),
)
_GROUPS = (
    ("secrets", "the local store and the published set", _secrets),
    ("bundle", "publish, deploy, roll back", _bundle),
    ("alerts", "what fires and what is pending", _alerts),
)


def entry() -> None:
    """The console script: run the command of this process and end it.

    Three measures for the init container, whose whole life is short, worth 60 of 240 ms and 2 MiB
    together: no search for pydantic's plugins, no garbage collection while it imports (`run` turns
    it on again), no dismantling of the interpreter at the end. What must be on disk has been synced
    by then; the streams are flushed here.
    """
    _no_plugins()
    gc.disable()
    try:
        code = main()
    except SystemExit as leaving:  # argparse's own way out
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # the reader of our output went away
        pass
    os._exit(code)


def _no_plugins() -> None:
    """Let pydantic find no plugins in this process.

    It would look through every installed distribution for some (with importlib.metadata and the
    email package), and hand them all that it validates; the agent wants neither. pydantic's own
    switch, PYDANTIC_DISABLE_PLUGINS, comes after those imports.
    """
    loader = ModuleType("pydantic.plugin._loader")
    loader.get_plugins = lambda: ()  # type: ignore[attr-defined]
    sys.modules[loader.__name__] = loader


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    asked = words[0] if words and not words[0].startswith("-") else None
    arguments = build_parser(asked).parse_args(argv)
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
