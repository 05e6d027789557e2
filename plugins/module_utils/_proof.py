# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the engine and the replicas themselves say of a service, held against what was asked for.

This module util is private to the collection. Replicas are asked at their own addresses, behind Traefik's
back: that way a replica that Traefik never sends anything to is looked at too.
"""

from __future__ import annotations

import json
import time
import typing as t
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _cdi
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _specification as spec
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _voices as _voice_files
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._checks import Check, check
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._probe import Answer, Request, ask

if t.TYPE_CHECKING:
    from docker import DockerClient

AT_ONCE = 16
# How often replicas are asked again that have yet to take up changed voices.
VOICES_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Service:
    """A service to look at. No path: not asked. No revision: the label's. No digest, no voices: any."""

    name: str
    port: int
    network: str
    health_path: str
    version_path: str
    revision_key: str = "revision"
    digest_key: str = "weights_digest"
    replicas: int | None = None  # None: not compared
    revision: str | None = None
    digest: str | None = None
    voices: str | None = None  # their digest
    voice_digests: t.Mapping[str, str] | None = None  # of each, to name those that differ


@dataclass
class Replica:
    """One container of a service: what its labels, the engine and the replica itself say."""

    name: str
    service: str
    number: int
    slot: str
    gpu: str
    image: str
    image_id: str
    labelled_revision: str
    state: str
    # What Docker's own health check says; "none" for an image without one.
    health: str
    address: str
    cards: list[str] = field(default_factory=list)
    restarts: int = 0
    started_at: str = ""
    # What the replica answers when it is asked for its version; empty when it is not asked or does not say.
    version: dict[str, t.Any] = field(default_factory=dict)
    revision: str = ""
    weights_digest: str = ""
    voices_digest: str = ""
    voices: dict[str, str] = field(default_factory=dict)  # the digest of each
    # Voices that it has and cannot use, with the reason.
    voices_refused: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, t.Any]:
        return asdict(self)


def observe(client: DockerClient, services: t.Sequence[Service]) -> list[Replica]:
    """All containers that bear the label of one of the services, running or not, in the services' order."""
    from docker.errors import NotFound

    networks = {service.name: service.network for service in services}
    replicas = []
    for listed in client.api.containers(all=True, filters={"label": f"{spec.LABEL_ROLE}=replica"}):
        if (listed["Labels"] or {}).get(spec.LABEL_SERVICE) not in networks:
            continue
        try:
            seen = client.api.inspect_container(listed["Id"])
        except NotFound:
            continue  # removed since it was listed
        replicas.append(replica_of(seen, networks))
    order = list(networks)
    return sorted(replicas, key=lambda replica: (order.index(replica.service), replica.number, replica.name))


def replica_of(seen: dict[str, t.Any], networks: t.Mapping[str, str]) -> Replica:
    """A C(Replica) from the engine's account of its container; C(networks) is the network of each service."""
    labels, state = seen["Config"]["Labels"] or {}, seen["State"]
    service = labels[spec.LABEL_SERVICE]
    number = labels.get(spec.LABEL_NUMBER, "")
    attached = seen["NetworkSettings"]["Networks"] or {}
    requests = seen["HostConfig"].get("DeviceRequests") or []
    return Replica(
        name=seen["Name"].lstrip("/"),
        service=service,
        number=int(number) if number.isdigit() else 0,
        slot=labels.get(spec.LABEL_SLOT, ""),
        gpu=labels.get(spec.LABEL_GPU, ""),
        # Containers are created from the image's content address; the name it was asked for with is a label.
        image=json.loads(labels.get(spec.LABEL_CONFIG) or "{}").get("image") or seen["Config"]["Image"],
        image_id=seen.get("Image") or "",
        labelled_revision=labels.get(spec.LABEL_REVISION, ""),
        state=state["Status"],
        health=(state.get("Health") or {}).get("Status") or "none",
        address="127.0.0.1"
        if "host" in attached
        else (attached.get(networks[service]) or {}).get("IPAddress") or "",
        cards=[_cdi.card_of(each) for request in requests for each in request.get("DeviceIDs") or []],
        restarts=seen.get("RestartCount") or 0,
        started_at=state.get("StartedAt") or "",
    )


def ask_replicas(
    replicas: t.Sequence[Replica], services: t.Sequence[Service], timeout_seconds: float
) -> dict[tuple[str, str], Answer]:
    """Every running replica's answers, by its name and V(health) or V(version); all are asked at once."""
    by_name = {service.name: service for service in services}
    questions: dict[tuple[str, str], Request] = {}
    for replica in replicas:
        service = by_name[replica.service]
        if replica.state != "running" or not replica.address:
            continue
        for topic, path in (("health", service.health_path), ("version", service.version_path)):
            if path:
                url = f"http://{replica.address}:{service.port}{path}"
                questions[replica.name, topic] = Request(replica.name, url, timeout_seconds=timeout_seconds)
    if not questions:
        return {}
    with ThreadPoolExecutor(min(AT_ONCE, len(questions))) as pool:
        asked = {key: pool.submit(ask, question) for key, question in questions.items()}
        return {key: future.result() for key, future in asked.items()}


def judge_cards(cards: t.Sequence[t.Mapping[str, t.Any]]) -> list[Check]:
    """One check for each card, or each of its MIG devices: its memory is known, so replicas can be put on it.

    C(cards) are C(gpus) as gpu_capacity returns them.
    """
    checks = []
    for card in cards:
        number = card.get("index")
        for device in card.get("mig_devices") or [card]:
            label = f"card #{number}" if device is card else f"MIG device #{number}:{device.get('index')}"
            total = device.get("total_mib")
            checks.append(
                check(
                    f"{label}: memory",
                    total is not None,
                    f"{total} MiB" if total is not None else device.get("reason") or "unknown",
                    "known",
                    f"Ask it by hand (nvidia-smi -q -i {number}) and look for NVRM in dmesg. A lost card "
                    "comes back with a reboot, or not at all.",
                )
            )
    return checks


def learn_versions(
    replicas: t.Sequence[Replica], services: t.Sequence[Service], answers: t.Mapping[tuple[str, str], Answer]
) -> None:
    """Write down what each replica says of its version. Plain text instead of JSON is the revision itself."""
    by_name = {service.name: service for service in services}
    for replica in replicas:
        answer = answers.get((replica.name, "version"))
        if answer is None or answer.status != 200:
            continue
        service, said = by_name[replica.service], answer.json()
        replica.version = said if isinstance(said, dict) else {service.revision_key: answer.text()}
        replica.revision = str(replica.version.get(service.revision_key) or "")
        replica.weights_digest = str(replica.version.get(service.digest_key) or "")
        replica.voices_digest = str(replica.version.get("voices_digest") or "")
        voices = replica.version.get("voices")
        replica.voices = dict(voices) if isinstance(voices, dict) else {}
        refused = replica.version.get("voices_refused")
        replica.voices_refused = dict(refused) if isinstance(refused, dict) else {}


def ask_until_settled(
    replicas: t.Sequence[Replica],
    services: t.Sequence[Service],
    timeout_seconds: float,
    settle_seconds: float,
) -> dict[tuple[str, str], Answer]:
    """Every answer, those of replicas asked again that tell other voices than are wanted.

    They look for changed voices every few seconds, and then read them.
    """
    wanted = {service.name: service.voices for service in services}
    until = time.monotonic() + settle_seconds
    answers = ask_replicas(replicas, services, timeout_seconds)
    learn_versions(replicas, services, answers)
    while True:
        late = [
            replica
            for replica in replicas
            if wanted[replica.service] and replica.voices_digest not in ("", wanted[replica.service])
        ]
        if not late or time.monotonic() >= until:
            return answers
        time.sleep(VOICES_PAUSE_SECONDS)
        answers.update(ask_replicas(late, services, timeout_seconds))
        learn_versions(late, services, answers)


def judge_service(
    service: Service,
    replicas: t.Sequence[Replica],
    answers: t.Mapping[tuple[str, str], Answer],
    slots: t.Sequence[str] | None = None,
) -> list[Check]:
    """Every check of one service. C(slots) are the keys of the slots that this host's cards have."""
    own = [replica for replica in replicas if replica.service == service.name]
    running = [replica for replica in own if replica.state == "running"]
    checks = [*_count(service, own, running), *_places(service, running, slots)]
    for replica in running:
        checks.append(_health(service, replica, answers.get((replica.name, "health"))))
        if service.version_path:
            checks.append(_version(service, replica, answers.get((replica.name, "version"))))
            if service.digest:
                checks.append(_weights(service.digest, replica))
            if service.voices or replica.voices_digest:
                checks.append(_voices(service, replica))
    if service.version_path and len(running) > 1:
        checks.append(_agreement(service, running))
        if any(replica.voices_digest for replica in running):
            checks.append(_voice_agreement(service, running))
    return checks


def _count(service: Service, own: t.Sequence[Replica], running: t.Sequence[Replica]) -> list[Check]:
    checks = []
    if service.replicas is not None:
        checks.append(
            check(
                f"{service.name}: replicas",
                len(running) == service.replicas,
                f"{len(running)} running",
                f"{service.replicas} running",
                f"docker ps -a --filter label={spec.LABEL_SERVICE}={service.name} shows them all; "
                "site.yml makes what is missing.",
            )
        )
    left_over = [
        f"{replica.name} ({replica.state})"
        for replica in own
        if replica.state != "running" or replica.name != f"{service.name}-{replica.number}"
    ]
    checks.append(
        check(
            f"{service.name}: nothing left over",
            not left_over,
            ", ".join(left_over) or "nothing",
            "no stopped or set-aside container",
            "Read their logs first (docker logs <name>); the next site.yml finishes what was interrupted.",
        )
    )
    return checks


def _places(
    service: Service, running: t.Sequence[Replica], slots: t.Sequence[str] | None
) -> t.Iterator[Check]:
    taken = Counter(replica.slot for replica in running if replica.slot)
    crowded = sorted(f"{slot} holds {count}" for slot, count in taken.items() if count > 1)
    unknown = sorted(f"{slot} is not there" for slot in taken if slots is not None and slot not in slots)
    yield check(
        f"{service.name}: slots",
        not crowded and not unknown,
        "; ".join(crowded + unknown) or f"{len(taken)} in use, one replica each",
        "one replica a slot, on slots that the cards have",
        "Run site.yml: it moves replicas to slots of their own.",
    )
    for replica in running:
        if replica.gpu:
            yield check(
                f"{replica.name}: card",
                replica.cards == [replica.gpu],
                ", ".join(replica.cards) or "none",
                replica.gpu,
                f"The container sees other cards than its slot's: remove {replica.name} and run site.yml.",
            )


def _health(service: Service, replica: Replica, answer: Answer | None) -> Check:
    name, wanted = f"{replica.name}: health", "running"
    found = replica.state
    ok = replica.health in ("healthy", "none")
    if replica.health != "none":
        found, wanted = f"{found}, {replica.health}", f"{wanted}, healthy"
    if service.health_path:
        wanted += f", 200 from {service.health_path}"
        if answer is None:
            said = f"has no address on network {service.network}"
        else:
            said = answer.error if answer.status is None else str(answer.status)
            if answer.status not in (None, 200):
                said = f"{said} {answer.text()}".strip()
        found, ok = f"{found}, {said}", ok and answer is not None and answer.status == 200
    return check(name, ok, found, wanted, f"docker logs --tail 50 {replica.name} says why.")


def _version(service: Service, replica: Replica, answer: Answer | None) -> Check:
    name = f"{replica.name}: version"
    wanted = service.revision or replica.labelled_revision
    remedy = "Run site.yml: it replaces replicas that are out of date, one at a time."
    if answer is None or answer.status != 200:
        found = (
            "could not be asked"
            if answer is None
            else answer.error or f"{answer.status} {answer.text()}".strip()
        )
        return Check(name, False, found, wanted or f"200 from {service.version_path}", remedy)
    if not wanted:
        wanted, ok = f"a value under {service.revision_key}", bool(replica.revision)
    else:
        ok = replica.revision == wanted
    return check(name, ok, replica.revision or f"nothing under {service.revision_key}", wanted, remedy)


def _weights(wanted: str, replica: Replica) -> Check:
    return check(
        f"{replica.name}: weights",
        replica.weights_digest == wanted,
        replica.weights_digest or "it does not tell",
        wanted,
        "It loaded other files than this host has for its revision: run site.yml, which replaces it if it "
        "was made for others. If the figure stays, look at the host's disk and the mounts, and restart it.",
    )


def _voices(service: Service, replica: Replica) -> Check:
    wanted, found = service.voices, replica.voices_digest or "it does not tell"
    none_at_all = wanted == _voice_files.digest({})
    if replica.voices_refused:
        refused = "; ".join(f"{name}: {reason}" for name, reason in sorted(replica.voices_refused.items()))
        found = f"{found}, without {refused}"
    if wanted and replica.voices_digest not in ("", wanted):
        found = "; ".join([found, *_other_voices(service.voice_digests or {}, replica)])
    if none_at_all:
        found = f"{found}; its host has no voice, so whoever sends no recording of his own is refused"
    return check(
        f"{replica.name}: voices",
        not replica.voices_refused and not none_at_all and (not wanted or replica.voices_digest == wanted),
        found,
        f"{'a voice' if none_at_all else wanted or 'any'}, none left out",
        "Mend or remove what it cannot use, lay down what is missing, and run site.yml. If that does not "
        "help, look at what is mounted at /voices in the replica.",
    )


def _other_voices(wanted: t.Mapping[str, str], replica: Replica) -> t.Iterator[str]:
    """In words, by name; nothing where the names are not known."""
    told = replica.voices
    if not wanted:
        return
    for words, names in (
        ("missing", wanted.keys() - told.keys() - replica.voices_refused.keys()),
        ("not as wanted", {name for name in wanted.keys() & told.keys() if wanted[name] != told[name]}),
        ("not wanted", told.keys() - wanted.keys()),
    ):
        if names:
            yield f"{words}: {', '.join(sorted(names))}"


def _voice_agreement(service: Service, running: t.Sequence[Replica]) -> Check:
    groups: dict[str, list[str]] = {}
    for replica in running:
        groups.setdefault(replica.voices_digest, []).append(replica.name)
    found = "; ".join(
        f"{short(digest) or 'unknown'} on {', '.join(names)}" for digest, names in groups.items()
    )
    ok = len(groups) == 1
    return check(
        f"{service.name}: one set of voices",
        ok,
        f"{short(next(iter(groups)))} on all {len(running)}" if ok else found,
        "the same voices on every replica",
        "A voice answers on some replicas only: run site.yml, which lays the same voices down everywhere.",
    )


def _agreement(service: Service, running: t.Sequence[Replica]) -> Check:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for replica in running:
        version = (replica.revision, replica.weights_digest, replica.image_id)
        groups.setdefault(version, []).append(replica.name)

    def tell(revision: str, digest: str, image: str) -> str:
        weights = f", weights {short(digest)}" if digest else ""
        return f"{revision or 'unknown'}{weights}, image {short(image)}"

    found = "; ".join(f"{tell(*version)} on {', '.join(names)}" for version, names in groups.items())
    ok = len(groups) == 1 and bool(running[0].revision)
    return check(
        f"{service.name}: one version",
        ok,
        f"{tell(*next(iter(groups)))} on all {len(running)}" if ok else found,
        "the same revision, weights and image on every replica",
        "An upgrade was not finished, or weights differ under one name: run upgrade.yml, or rollback.yml.",
    )


def short(digest: str) -> str:
    """V(sha256:3f1c0a9be771...) as V(3f1c0a9be771)."""
    return digest.rpartition(":")[2][:12]
