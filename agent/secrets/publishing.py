"""From answers to a generation: which files a configuration asks for, and how old they are.

Between the service, which fetches, and the publisher, which writes: formats, types and owners of
each item, the value before where a rotation overlaps, the file of an optional secret whose provider
fails, and what stands in the directory from a run before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from agent.clock import Clock
from agent.configsecrets import SecretItem, Secrets
from agent.errors import AgentError
from agent.secrets import confirmed
from agent.secrets.accounts import gid_of, uid_of
from agent.secrets.confirmed import Seen
from agent.secrets.errors import NotFoundError, ShapeError, afresh
from agent.secrets.formats import Owners, files
from agent.secrets.generation import Published, Publisher
from agent.secrets.model import Fetched, secret_name
from agent.secrets.overlap import SUFFIX, with_previous
from agent.secrets.tree import Item
from agent.units import Seconds, SecretName

Answers = Mapping[SecretName, Fetched | AgentError]


def publisher(config: Secrets, clock: Clock) -> Publisher:
    """The publisher of the configured directory.

    Raises:
        PublishError: the machine knows no such owner or group.
    """
    return Publisher(
        directory=config.directory,
        clock=clock,
        file_mode=config.file_mode,
        dir_mode=config.dir_mode,
        keep=config.keep_generations,
        keep_for=Seconds(config.keep_for),
        allow_disk=config.allow_disk,
        owner=uid_of(config.owner),
        group=gid_of(config.group),
        max_size=config.max_size,
    )


class Publishing:
    """The declared items of one configuration over one publisher."""

    def __init__(self, config: Secrets, clock: Clock) -> None:
        self.publisher = publisher(config, clock)
        self._config, self._clock = config, clock
        self._owners = {
            item.target: Owners(uid_of(item.owner), gid_of(item.group)) for item in config.items
        }
        self._before: dict[str, Item] = {}

    def items(self, answers: Answers) -> tuple[dict[str, Item], dict[SecretName, AgentError]]:
        """Every file that can be made of the answers, by path; and why the others cannot, by
        secret."""
        made: dict[str, Item] = {}
        errors: dict[SecretName, AgentError] = {}
        self._before = {}
        for item in self._config.items:
            answer = answers[item.name]
            try:
                if isinstance(answer, AgentError):
                    raise answer
                found = files(item, answer, _lookup(answers), self._owners[item.target])
            except AgentError as error:
                errors[item.name] = afresh(error)
                continue
            made.update((file.path, file) for file in found)
            if self._config.overlap_of(item) and answer.previous is not None:
                self._remember(item, answer, _lookup(answers))
        return made, errors

    def stands(self, name: SecretName, answers: Answers) -> bool | None:
        """Whether every file of `name` in the directory is what the answer makes; None where the
        directory shows no file of it."""
        index = self.publisher.index()
        wanted: dict[str, Item] = {}
        paths: set[str] = set()
        for item in self._config.items:
            answer = answers[item.name]
            if item.name != name or isinstance(answer, AgentError):
                continue
            paths.update(path for path in index if _belongs(path, item))
            with suppress(AgentError):
                made = files(item, answer, _lookup(answers), self._owners[item.target])
                wanted.update((file.path, file) for file in made)
        if not paths:
            return None
        shown = self.publisher.shown(list(wanted))
        return bool(wanted) and all(
            path in shown and shown[path].data == item.data for path, item in wanted.items()
        )

    def publish(
        self, items: Mapping[str, Item], errors: Mapping[SecretName, AgentError]
    ) -> Published:
        """Make the directory show `items`. A secret that is not among them because its provider
        failed keeps the files that it has. Raises PublishError: all is as it was."""
        overlaps = self._overlaps(items)
        if overlaps:
            paths = [*overlaps, *(path + SUFFIX for path in overlaps)]
            items = with_previous(
                items,
                self.publisher.shown(paths),
                self._before,
                lambda path: overlaps.get(path, Seconds(0.0)),
                self._clock.now(),
            )
        result = self.publisher.publish(items, keep=self._kept(errors))
        with suppress(OSError):  # the generation stands; only its age is told less exactly
            confirmed.write(
                self._config.directory,
                Seen(result.generation, self.spec(), self._times(items)),
            )
        return result

    def standing(self, max_age: Seconds) -> Published | None:
        """The generation in the directory, if it is one of this very configuration, holds every
        required secret, and none of its files is older than `max_age`."""
        number = self.publisher.live_number()
        seen = confirmed.read(self._config.directory)
        if number is None or seen is None:
            return None
        if seen.generation != number or seen.spec != self.spec():
            return None
        there = self.publisher.index()
        for item in self._config.items:
            oldest = self._clock.now() - min(max_age, self._config.max_stale_of(item))
            ages = [seen.fetched_at.get(path, 0.0) for path in there if _belongs(path, item)]
            if (item.required and not ages) or any(at < oldest for at in ages):
                return None
        return Published(number, changed=False, files=len(there))

    def found(self) -> dict[str, dict[str, object]]:
        """What is known of each published file, by the path of its item: as the index tells, with
        the time of the last fetch."""
        told = self.publisher.index()
        seen = confirmed.read(self._config.directory)
        fresh = seen.fetched_at if seen and seen.generation == self.publisher.live_number() else {}
        known: dict[str, dict[str, object]] = {}
        for item in self._config.items:
            for path in sorted(told):
                if _belongs(path, item):
                    at = fresh.get(path, told[path].get("fetched_at"))
                    known[item.target] = {**told[path], "fetched_at": at}
                    break
        return known

    def spec(self) -> str:
        """A mark of everything in the configuration that decides what the files look like."""
        config = self._config
        told = [
            [item.model_dump(mode="json") for item in config.items],
            [config.file_mode, config.dir_mode, config.owner, config.group],
            [_text_of(item) for item in config.items],
        ]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def _remember(
        self, item: SecretItem, answer: Fetched, lookup: Callable[[str], Fetched]
    ) -> None:
        """The value before that the provider still has, in the item's form."""
        previous = answer.previous
        assert previous is not None
        old = replace(
            answer,
            value=previous.value,
            version=previous.version,
            kind=previous.kind,
            previous=None,
        )
        with suppress(AgentError):  # it was of another form
            for file in files(item, old, lookup, self._owners[item.target]):
                self._before[file.path] = replace(file, replaced_at=previous.replaced_at)

    def _overlaps(self, items: Mapping[str, Item]) -> dict[str, Seconds]:
        found: dict[str, Seconds] = {}
        for item in self._config.items:
            overlap = self._config.overlap_of(item)
            if overlap:
                found.update((path, overlap) for path in items if _belongs(path, item))
        return found

    def _kept(self, errors: Mapping[SecretName, AgentError]) -> list[str]:
        failed = {n for n, error in errors.items() if not isinstance(error, NotFoundError)}
        items = [item for item in self._config.items if item.name in failed]
        if not items:
            return []
        return [
            path
            for path in self.publisher.index()
            if any(_belongs(path, item) or path == item.target + SUFFIX for item in items)
        ]

    def _times(self, items: Mapping[str, Item]) -> dict[str, float]:
        """When each file was fetched last; one that was kept is as old as it was."""
        kept = {
            path: at
            for path, told in self.publisher.index().items()
            if isinstance(at := told.get("fetched_at"), int | float)
        }
        before = confirmed.read(self._config.directory)
        return {
            **kept,
            **{
                path: at
                for path, at in (before.fetched_at if before else {}).items()
                if path in kept
            },
            **{path: item.fetched_at for path, item in items.items()},
        }


def _belongs(path: str, item: SecretItem) -> bool:
    """Whether a file of the index is one that `item` asks for."""
    if item.format == "fields":
        return path.startswith(item.target + "/")
    return path == item.target


def _lookup(answers: Answers) -> Callable[[str], Fetched]:
    def lookup(name: str) -> Fetched:
        try:
            answer = answers.get(secret_name(name))
        except ShapeError:
            answer = None
        if answer is None:  # what was asked for may be a value by mistake: it is not shown
            raise ShapeError(
                "a template asks for a secret that is not declared", "add it to secrets.items"
            )
        if isinstance(answer, AgentError):
            raise afresh(answer)
        return answer

    return lookup


def _text_of(item: SecretItem) -> str:
    """A template's text: a change of it is one of the configuration."""
    if item.template is None:
        return ""
    try:
        return hashlib.sha256(item.template.read_bytes()).hexdigest()
    except OSError:
        return "unreadable"
