# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps that bring one replica from what it is to what it is to be, without a spare slot.

This module util is private to the collection. A card that is full has no room for a second container, so the
old one is drained, stopped and set aside under another name; the new one takes its place; and only when that
one is healthy is the old one removed. If it never is, the old one comes back.

Every step can be repeated, and what has been done stands in the names and labels of the containers: a run
that was cut off anywhere is resumed by the next.
"""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _replica
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Observed
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._replica import ReplicaError

if t.TYPE_CHECKING:
    from docker import DockerClient


@dataclasses.dataclass
class Outcome:
    """What was done with one replica, with the times that were observed (in seconds)."""

    action: str = "none"
    container_id: str | None = None
    drained: bool | None = None
    started_seconds: float | None = None


class Rollout:
    """One replica between what is and what is wanted."""

    def __init__(
        self,
        client: DockerClient,
        service: str,
        number: int,
        data_dir: str,
        start_timeout_seconds: float,
        drain_timeout_seconds: float,
        checkpoint: t.Callable[[str], None] = lambda step: None,
    ) -> None:
        """C(checkpoint) is called with a step's name before the step is taken."""
        self.client = client
        self.name = f"{service}-{number}"
        self.directories = spec.replica_directories(data_dir, service, self.name)
        self.start_timeout_seconds = start_timeout_seconds
        self.drain_timeout_seconds = drain_timeout_seconds
        self.checkpoint = checkpoint
        self.outcome = Outcome()
        own = [replica for replica in _replica.observe(client, service, data_dir) if replica.number == number]
        self.current: Observed | None = next((replica for replica in own if not replica.aside), None)
        self.aside: Observed | None = next((replica for replica in own if replica.aside), None)

    def before(self) -> dict[str, t.Any]:
        """The configuration of the container that is there now, or was until a run was cut off."""
        seen = self.current or self.aside
        return _replica.recorded_config(self.client, seen.container_id) if seen else {}

    def action(self, config: dict[str, t.Any] | None) -> str:
        """What it takes to get to C(config), or to nothing: the name that plan and module use for it."""
        if config is None:
            return "remove" if self.current or self.aside else "none"
        if self.current is None:
            return "replace" if self.aside else "create"
        if self.current.spec != spec.spec_hash(config):
            return "replace"
        if self.aside:
            return "replace"
        return "start" if self.current.idle else "none"

    def carry_out(self, config: dict[str, t.Any] | None) -> Outcome:
        """Get there. Raises ReplicaError, with the old container back in its place if there was one."""
        self.outcome.action = self.action(config)
        if self.current:
            self.outcome.container_id = self.current.container_id
        if self.outcome.action == "none":
            return self.outcome
        if config is None:
            self._remove_all()
        elif self.current and self.current.spec == spec.spec_hash(config):
            self._finish(self.current.container_id)
        else:
            self._replace(config)
        return self.outcome

    def _replace(self, config: dict[str, t.Any]) -> None:
        if self.current and self.aside:
            # An earlier run got as far as a newcomer that nobody wants any more.
            self._take_out(self.current)
            self._step(
                "remove the unwanted newcomer", _replica.remove, self.client, self.current.container_id
            )
        elif self.current:
            self._take_out(self.current)
            self._step(
                "set the old one aside",
                _replica.rename,
                self.client,
                self.current.container_id,
                self._old_name,
            )
            self.aside = self.current
        self.current = None
        if self.aside and self.aside.spec == spec.spec_hash(config):
            self._bring_back(self.aside)
            return
        _replica.make_directories(self.directories, config["user"])
        try:
            container_id = self._step("create", _replica.create, self.client, config)
            self._finish(container_id)
        except ReplicaError as error:
            if self.aside is None:
                raise
            self._go_back(self.aside, str(error))

    def _finish(self, container_id: str) -> None:
        """Start what is to stay, see it healthy, and only then let go of the one set aside."""
        self.outcome.container_id = container_id
        self._step("lower the drain flag", _replica.lower_drain_flag, self.directories["control"])
        self._step("start", _replica.start, self.client, container_id)
        waited = self._step(
            "wait until healthy", _replica.wait_healthy, self.client, container_id, self.start_timeout_seconds
        )
        self.outcome.started_seconds = round(waited, 1)
        if self.aside:
            self._step("remove the old one", _replica.remove, self.client, self.aside.container_id)

    def _bring_back(self, aside: Observed) -> None:
        self._step("bring the old one back", _replica.rename, self.client, aside.container_id, self.name)
        self.aside = None
        self._finish(aside.container_id)

    def _go_back(self, aside: Observed, failure: str) -> t.NoReturn:
        """The newcomer failed: the old one back in its place, and the story told."""
        newcomer = _replica.find(self.client, self.name)
        if newcomer:
            self._step("remove the failed newcomer", _replica.remove, self.client, newcomer)
        try:
            self._bring_back(aside)
        except ReplicaError as error:
            raise ReplicaError(f"{failure}\nIts predecessor does not come back either: {error}") from error
        self.outcome.action = "restore"
        raise ReplicaError(f"{failure}\nIts predecessor is back in its place.")

    def _take_out(self, replica: Observed) -> None:
        """Drain, then stop; what is in hand is finished within the replica's own stop timeout."""
        self.outcome.drained = self._step(
            "drain",
            _replica.drain,
            self.client,
            replica.container_id,
            self.directories["control"],
            self.drain_timeout_seconds,
        )
        self._step("stop", _replica.stop, self.client, replica.container_id)

    def _remove_all(self) -> None:
        for replica in (self.current, self.aside):
            if replica:
                self._take_out(replica)
                self._step("remove", _replica.remove, self.client, replica.container_id)
        self._step("lower the drain flag", _replica.lower_drain_flag, self.directories["control"])
        self.outcome.container_id = None

    @property
    def _old_name(self) -> str:
        return self.name + _replica.ASIDE

    def _step(self, name: str, do: t.Callable[..., t.Any], *args: t.Any, **kwargs: t.Any) -> t.Any:
        self.checkpoint(name)
        return do(*args, **kwargs)
