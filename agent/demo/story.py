"""`jules-agent demo`: set the stage, play the story with measured times, stay up until Ctrl-C.

Everything happens on 127.0.0.1 and in folders that are removed at the end: a trading process, a
receiver that stands for PagerDuty and Slack, and the agent as it is run anywhere else, with the
rules as shipped. The market and the trader's latencies are simulated; bundles, secrets, rules,
pages and times are not. With `once` the exit code says whether every step happened.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from agent.demo.acts import Story
from agent.demo.narrator import Narrator
from agent.demo.stage import CommandError, Stage, check_port, set_up
from agent.demo.watch import NotHappenedError
from agent.errors import Exit

_INTERRUPTED = 130


def play(once: bool, port: int, keep: Path | None) -> int:
    """Play the story.

    Args:
        once: end after the last step instead of staying up.
        port: port of the status page on 127.0.0.1; 0 for any free one.
        keep: an empty or missing folder to work in, left as it is afterwards.

    Returns:
        0 when every step happened (and, without `once`, Ctrl-C ended it); 1 when one did not; 130
        when the story was interrupted before its end.

    Raises:
        UsageError: the port is taken, or `keep` is not empty.
    """
    tell = Narrator(sys.stdout)
    tell.line("jules-agent demo: secrets, bundles and alerts beside one trading process", "bold")
    check_port(port)
    stage = set_up(keep)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    finished = False
    try:
        story = Story(stage, tell, port)
        _open(tell, stage, story)
        if not _play_steps(tell, stage, story):
            return Exit.BUG
        finished = True
        if not once:
            _stay(tell, stage, story)
        return Exit.GOOD
    except KeyboardInterrupt:
        tell.line()
        return Exit.GOOD if finished else _INTERRUPTED
    finally:
        tell.line("stopping what was started (Ctrl-C again kills) ...", "dim")
        stage.close()
        signal.signal(signal.SIGTERM, before)
        tell.line(f"kept {stage.work}" if stage.keep else "all folders removed", "dim")


def _open(tell: Narrator, stage: Stage, story: Story) -> None:
    tell.fact("page", f"{story.watch.agent}  (up in a few seconds)")
    tell.fact("pager", f"{story.watch.receiver}  (stands for PagerDuty and Slack)")
    ending = "kept" if stage.keep else "removed at the end"
    tell.fact("folder", f"{stage.work}  (mode 0700, {ending})")
    if stage.in_memory:
        why = f"{stage.memory_type} that every user has; a pod mounts its own"
    else:
        why = "NOT in memory: no tmpfs found; allowed in development only"
    tell.fact("secrets", f"{stage.secrets}  ({why})")
    tell.fact("real", "all but the market and the trader's latencies; it takes about 100 s")
    if stage.swept:
        tell.fact("swept", f"{stage.swept} folders of a demo that was killed")
    tell.line()


def _play_steps(tell: Narrator, stage: Stage, story: Story) -> bool:
    steps = story.steps()
    for step in steps:
        try:
            told = step.play()
        except (NotHappenedError, CommandError, OSError) as error:
            tell.failed(step.name, str(error))
            _last_words(tell, stage)
            return False
        tell.step(step.name, told.text, told.seconds, told.look)
    tell.line()
    tell.line(f"every step happened: {len(steps)} in {tell.elapsed:.0f} s", "good")
    return True


def _last_words(tell: Narrator, stage: Stage) -> None:
    """The end of the agent's log: the folder it is in may be removed in a moment."""
    log = stage.log("agent")
    if log.exists():
        tell.line("the agent's last lines:", "dim")
        for line in log.read_text(errors="replace").splitlines()[-15:]:
            tell.line(f"  {line[:400]}", "dim")
    if not stage.keep:
        tell.line("run again with --keep DIR to keep the logs and folders", "dim")


def _stay(tell: Narrator, stage: Stage, story: Story) -> None:
    tell.line(f"the status page stays at {story.watch.agent} until Ctrl-C", "bold")
    while True:
        if dead := stage.dead():
            tell.line(f"{dead}; see {stage.work}", "bad")
            return
        time.sleep(0.5)
