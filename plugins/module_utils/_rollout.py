# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps that bring one replica from what it is to what it is to be.

This module util is private to the collection. A card that is full has no room for a second container, so the
old one is drained, stopped and set aside under another name; the new one takes its place, is looked at behind
its closed door, and let in; and only then is the old one removed. With a free slot the new one comes first,
and the old one serves until then. If the new one fails at anything, the old one has its place back.

Every step can be repeated, and what has been done stands in the names and labels of the containers: a run
that was cut off anywhere is resumed by the next.
"""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _replica
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._barriers import (
    POLL_SECONDS,
    Barriers,
    Drained,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._plan import Observed
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._replica import ReplicaError

if t.TYPE_CHECKING:
    from docker import DockerClient


@dataclasses.dataclass
class Outcome:
    """What was done with one replica, with the times that were observed (in seconds)."""

    action: str = "none"
    container_id: str | None = None
    # From the drain flag to the stop, and what was still in hand then: 0 means that nobody was cut off, None
    # that the service cannot tell.
    drained_seconds: float | None = None
    in_flight_at_stop: int | None = None
    stopped_seconds: float | None = None
    # From the start to the first caller let in, without the bake time.
    started_seconds: float | None = None
    soak: dict[str, t.Any] | None = None


class Rollout:
    """One replica between what is and what is wanted."""

    def __init__(
        self,
        client: DockerClient,
        service: str,
        number: int,
        data_dir: str,
        barriers: Barriers,
        memory_mib: int | None = None,
        soak: t.Callable[[], dict[str, t.Any]] | None = None,
        checkpoint: t.Callable[[str], None] = lambda step: None,
    ) -> None:
        """C(memory_mib) is what the replica may use of its card, which has to be free before it starts.

        C(soak) compares the newcomer with its neighbours for a while and raises ReplicaError if it is worse.

        C(checkpoint) is called with a step's name before the step is taken.
        """
        self.client, self.service, self.number, self.data_dir = client, service, number, data_dir
        self.name = f"{service}-{number}"
        self.barriers, self.memory_mib, self.soak = barriers, memory_mib, soak
        self.checkpoint = checkpoint
        self.surge = False
        self.outcome = Outcome()
        self.observed = _replica.observe(client, service, data_dir)
        own = [replica for replica in self.observed if replica.number == number]
        self.current: Observed | None = next((replica for replica in own if not replica.aside), None)
        self.aside: Observed | None = next((replica for replica in own if replica.aside), None)
        # The container that is there now, or was until a run was cut off.
        self.before = self.aside or self.current

    def action(self, config: dict[str, t.Any] | None) -> str:
        """What it takes to get to C(config), or to nothing: the name that plan and module use for it."""
        if config is None:
            return "remove" if self.current or self.aside else "none"
        if self.current is None:
            return "replace" if self.aside else "create"
        if self.aside or self.current.spec != spec.spec_hash(config):
            return "replace"
        return "start" if self.current.idle else "none"

    def carry_out(
        self, config: dict[str, t.Any] | None, notes: dict[str, str] | None = None, surge: bool = False
    ) -> Outcome:
        """Get there. Raises ReplicaError, with the old container back in its place if there was one.

        C(notes) are labels for a new container. With C(surge) the old one serves until the new one does,
        which needs a slot that is not the old one's.
        """
        self.outcome.action = self.action(config)
        self.surge = surge
        if self.current:
            self.outcome.container_id = self.current.container_id
        if self.outcome.action == "none":
            return self.outcome
        if config is None:
            self._remove_all()
        elif self.current and self.current.spec == spec.spec_hash(config):
            try:
                if not self.aside:
                    self._step("wake it up", _replica.wake_up, self.client, self.current)
                self._finish(self.current.container_id, config)
            except ReplicaError as error:
                self._go_back(str(error))
        else:
            self._replace(config, notes or {})
        return self.outcome

    def drain_action(self) -> str:
        """What it takes to have nothing of this replica running, and its containers kept."""
        return "drain" if any(each and each.running for each in (self.current, self.aside)) else "none"

    def drain(self) -> Outcome:
        """Stop the replica without cutting a caller off, and keep its drain flag up."""
        self.outcome.action = self.drain_action()
        for replica in (self.current, self.aside):
            if replica:
                self.outcome.container_id = replica.container_id
                self._take_out(replica)
        return self.outcome

    def _replace(self, config: dict[str, t.Any], notes: dict[str, str]) -> None:
        slot = config["labels"][spec.LABEL_SLOT]
        if self.current and self.aside:
            # An earlier run got as far as a newcomer that nobody wants any more.
            self._take_out(self.current)
            self._discard("remove the unwanted newcomer", self.current)
        elif self.current:
            if not self.surge or self.current.slot == slot:
                self._wait_for_neighbours(self.current)
                self._take_out(self.current)
            self._step(
                "set the old one aside",
                _replica.rename,
                self.client,
                self.current.container_id,
                self.name + _replica.ASIDE,
            )
            self.aside = self.current
        self.current = None
        if self.aside and self.aside.spec == spec.spec_hash(config):
            self._bring_back(self.aside)
            return
        try:
            directories = spec.replica_directories(self.data_dir, self.service, self.name, slot)
            _replica.make_directories(directories, config["user"])
            container_id = self._step("create", _replica.create, self.client, config, notes)
            self._finish(container_id, config)
        except ReplicaError as error:
            self._go_back(str(error))

    def _finish(self, container_id: str, config: dict[str, t.Any], bake: bool = True) -> None:
        """Start what is to stay, look at it, let it in, and only then let go of the one set aside."""
        self.outcome.container_id = container_id
        barriers, revision = self.barriers, config["labels"][spec.LABEL_REVISION]
        weights = config["labels"].get(spec.LABEL_WEIGHTS, "")
        control = spec.control_directory(config)
        behind_the_door = bool(barriers.hooks.health_path) and bake
        bake = bake and self.aside is not None
        now = _replica.look(self.client, container_id)
        if not now.running:
            if self.aside and not self.surge:
                # Left running by a surge that was cut off; there is no room for both any more.
                self._take_out(self.aside)
            self._step("wait for the card", barriers.card_is_free, config["gpu"], self.memory_mib)
        if behind_the_door and not now.serving:
            self._step("raise the newcomer's drain flag", _replica.raise_drain_flag, control)
        started, baked = time.monotonic(), 0.0
        self._step("start", _replica.start, self.client, container_id)
        if behind_the_door:
            self._step(
                "wait until loaded, and ask its version", barriers.loaded, container_id, revision, weights
            )
        if behind_the_door and bake:
            baking = time.monotonic()
            self._step("bake", barriers.bake, container_id)
            baked = time.monotonic() - baking
        self._step("lower the drain flag", _replica.lower_drain_flag, control)
        self._step(
            "wait until healthy",
            _replica.wait_healthy,
            self.client,
            container_id,
            barriers.limits.start_timeout_seconds,
            barriers.tell,
        )
        url = self._url(container_id)
        self._step("ask its version", barriers.version, self.name, url, revision, weights)
        self._step("wait for Traefik", barriers.listed, container_id, revision)
        self.outcome.started_seconds = round(time.monotonic() - started - baked, 1)
        if bake and not behind_the_door:
            self._step("bake", barriers.bake, container_id)
        if bake and self.soak:
            self.outcome.soak = self._step("soak", self.soak)
        if self.aside:
            self._take_out(self.aside)
            self._discard("remove the old one", self.aside)
            self.aside = None

    def _bring_back(self, aside: Observed) -> None:
        self._step("bring the old one back", _replica.rename, self.client, aside.container_id, self.name)
        self.aside = None
        config = _replica.recorded_config(self.client, aside.container_id)
        self._finish(aside.container_id, config, bake=False)

    def _go_back(self, failure: str) -> t.NoReturn:
        """The newcomer failed: the old one back in its place, and the story told."""
        aside = self.aside
        if aside is None:
            raise ReplicaError(failure)
        self.barriers.tell(f"failed: {failure.splitlines()[0]}")
        newcomer = _replica.find(self.client, self.name)
        if newcomer:
            seen = next(
                replica
                for replica in _replica.observe(self.client, self.service, self.data_dir)
                if replica.container_id == newcomer
            )
            self._take_out(seen, patient=False)
            self._discard("remove the failed newcomer", seen)
        try:
            self._bring_back(aside)
        except ReplicaError as error:
            raise ReplicaError(f"{failure}\nIts predecessor does not come back either: {error}") from error
        self.outcome.action = "restore"
        self.barriers.tell("restored: its predecessor serves again")
        raise ReplicaError(f"{failure}\nIts predecessor is back in its place.")

    def _wait_for_neighbours(self, replica: Observed) -> None:
        """Let who is just starting serve first: callers need it when this one goes.

        A neighbour starts without anybody's doing too, after a crash or after as many requests as a process
        may have. One that does not get there was not counted on by the plan, and is waited for no longer than
        a start may take.
        """
        deadline = time.monotonic() + self.barriers.limits.start_timeout_seconds
        while replica.serving and time.monotonic() < deadline:
            starting = [
                each.name
                for each in _replica.observe(self.client, self.service, self.data_dir)
                if each.number != self.number and each.running and each.health == "starting"
            ]
            if not starting:
                return
            self.barriers.tell(f"drain: {', '.join(starting)} is starting, and is to serve first")
            time.sleep(POLL_SECONDS)

    def _take_out(self, replica: Observed, patient: bool = True) -> None:
        """Drain, then stop. A request that outlasts the limit ends the rollout, unless the policy is cut.

        With C(patient) false the replica has to go in any case: it is the one that failed.
        """
        if not _replica.look(self.client, replica.container_id).running:
            return
        barriers, started = self.barriers, time.monotonic()
        control = _replica.control_dir(replica.labels)
        self._step("raise the drain flag", _replica.raise_drain_flag, control)
        try:
            self._step("wait until Traefik lets go", barriers.unlisted, replica.container_id)
        except ReplicaError as error:
            if patient:
                self._let_in_again(replica, control)
                raise
            barriers.tell(f"drain: {error}")
        drained: Drained = self._step("wait until idle", barriers.idle, replica.container_id)
        if drained.in_flight and patient and barriers.limits.drain_policy == "abort":
            self._let_in_again(replica, control)
            raise ReplicaError(
                f"{replica.name} still has {drained.in_flight} request(s) in hand after "
                f"{barriers.limits.drain_timeout_seconds:g} s, and none is to be cut off. It serves again. "
                "Raise the drain timeout, or set the drain policy to cut."
            )
        stopping = time.monotonic()
        barriers.tell("stop")
        patience = _replica.HUNG_STOP_SECONDS if drained.hung else None
        self._step("stop", _replica.stop, self.client, replica.container_id, patience)
        if self.outcome.drained_seconds is None:
            self.outcome.drained_seconds = round(stopping - started, 1)
            self.outcome.in_flight_at_stop = drained.in_flight
            self.outcome.stopped_seconds = round(time.monotonic() - stopping, 1)

    def _let_in_again(self, replica: Observed, control: str) -> None:
        """It was to go and stays: callers may come again, if nobody has taken its place meanwhile."""
        if replica is self.current:
            _replica.lower_drain_flag(control)
            _replica.wait_healthy(
                self.client,
                replica.container_id,
                self.barriers.limits.start_timeout_seconds,
                self.barriers.tell,
            )

    def _remove_all(self) -> None:
        for replica in (self.current, self.aside):
            if replica:
                self._wait_for_neighbours(replica)
                self._take_out(replica)
                self._discard("remove", replica)
        self.outcome.container_id = None

    def _discard(self, step: str, replica: Observed) -> None:
        """Remove what was taken out. Its drain flag goes first: nobody would look for it without it."""
        control = _replica.control_dir(replica.labels)
        self._step("lower the drain flag of what goes", _replica.lower_drain_flag, control)
        self._step(step, _replica.remove, self.client, replica.container_id)

    def _url(self, container_id: str) -> str:
        return _replica.look(self.client, container_id).url

    def _step(self, name: str, do: t.Callable[..., t.Any], *args: t.Any, **kwargs: t.Any) -> t.Any:
        self.checkpoint(name)
        return do(*args, **kwargs)
