#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: service_probe
short_description: Ask every replica of a service how it is, and use the service as its callers do
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Finds the replicas of the given services by their labels on the Docker Engine, asks each one for its
    health and its version at its own address, and holds what it learns against what was asked for - how many
    run, one to a slot, each with its slot's card and no other, all healthy, all of one revision with the same
    weights.
  - Then sends requests as a caller would (through Traefik, as a rule) and looks at status, headers, size and,
    for speech, at the audio itself.
  - All replicas are asked at once, so one that hangs costs O(timeout_seconds) and not a multiple of it.
  - Every check is made and returned, whatever the others say. B(The module does not fail when checks fail);
    look at RV(ok).
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.platform
attributes:
  check_mode:
    support: full
    details:
      - Replicas are asked once. Of O(requests) only those with method C(GET) or C(HEAD) are sent, and no
        body is saved.
  diff_mode:
    support: N/A
    details:
      - The state of the host is not modified.
  idempotent:
    support: full
    details:
      - The state of the host is not modified. A body saved to O(requests[].dest) is a record of this look
        and does not count as a change.
options:
  services:
    description: The services whose replicas are looked at.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The service's name, as its replicas' label C(voicefleet.service) has it.
        type: str
        required: true
      port:
        description: The port at which a replica listens inside its container.
        type: int
        required: true
      network:
        description: The Docker network over which this host reaches the replicas.
        type: str
        default: voicefleet
      health_path:
        description: Where a replica answers 200 when it is ready. Not asked if empty.
        type: str
        default: /healthz
      version_path:
        description:
          - Where a replica tells its version, as a JSON object, or as plain text that is the revision.
          - Not asked if empty.
        type: str
        default: ""
      revision_key:
        description: The key of the revision in that object.
        type: str
        default: revision
      digest_key:
        description: The key of the digest of the weights in that object. It may be missing there.
        type: str
        default: weights_digest
      replicas:
        description: How many replicas have to run. Not compared if not given.
        type: int
      revision:
        description: The revision that every replica has to tell. The one its label has, if empty.
        type: str
      digest:
        description: The digest of the weights that every replica has to tell. Any, if empty.
        type: str
      voices:
        description:
          - The digest of the voices that every replica has to tell, as
            RV(voicefleet.cosyvoice.voice_set#module:digest) is. Any, if empty.
          - A voice that a replica has and cannot use is a failed check all the same, and so is it if this is
            the digest of no voice at all.
        type: str
      voice_digests:
        description: The digest of each of those voices by its name, to name those that differ.
        type: dict
  cards:
    description:
      - The cards of this host, as RV(voicefleet.cosyvoice.gpu_capacity#module:gpus) returns them. One whose
        memory is unknown, because it is lost for example, is a failed check.
    type: list
    elements: dict
    default: []
  slots:
    description:
      - The slots that this host's cards have, as RV(voicefleet.cosyvoice.gpu_capacity#module:slots) returns
        them. If given, a replica on any other slot is a failed check.
    type: list
    elements: dict
    suboptions:
      gpu:
        description: UUID of the card or of its MIG device.
        type: str
      index:
        description: Number of the slot on that card, from 0.
        type: int
        required: true
      memory_mib:
        description: What a replica on this slot may use of the card's memory. Not looked at here.
        type: int
      mps:
        description: What a replica on this slot gets of a card that MPS shares. Not looked at here.
        type: dict
        suboptions:
          thread_percentage:
            description: The share of the card's threads.
            type: int
            required: true
          pipe_dir:
            description: Where the daemon has its pipes.
            type: path
            required: true
          uid:
            description: The user id that the daemon serves.
            type: str
            required: true
  requests:
    description:
      - Requests to send, one after the other, with what their answers have to be like.
      - No redirect is followed and no proxy is used. What is at this very address is what counts.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What the checks of this request are called.
        type: str
        required: true
      url:
        description: Where to send it.
        type: str
        required: true
      method:
        description: HTTP method.
        type: str
        default: GET
      headers:
        description: Headers to send. C(Host) chooses a router where the name does not resolve.
        type: dict
        default: {}
      body:
        description: What to send. Text is sent as it is, anything else as JSON.
        type: raw
      status:
        description: The status that has to come back.
        type: int
        default: 200
      response_headers:
        description:
          - Headers that have to come back, each with a regular expression found in its value. An empty one
            takes any value.
        type: dict
        default: {}
      min_bytes:
        description: How many bytes the body must have at least.
        type: int
        default: 0
      min_audio_seconds:
        description:
          - If more than 0, the body has to be a complete WAV file with at least so much audio, and not all
            of it silent.
        type: float
        default: 0
      dest:
        description: Save the body there, replacing what was there, if the answer is as wanted.
        type: path
      timeout_seconds:
        description: The whole answer has to be here by then.
        type: float
        default: 60
      validate_certs:
        description: Whether the server's certificate has to be valid for the name in O(requests[].url).
        type: bool
        default: true
      ca_path:
        description: File with the CA certificates to trust instead of the system's.
        type: path
      url_username:
        description: User name for basic authentication.
        type: str
      url_password:
        description: Password for basic authentication.
        type: str
  timeout_seconds:
    description: How long a replica may take to answer when it is asked for its health or version.
    type: float
    default: 5
  settle_seconds:
    description: How long replicas are asked again that tell other voices than O(services[].voices). They look
      for changed ones every two seconds.
    type: float
    default: 15
  docker_host:
    description: Where the Docker Engine is.
    type: str
    default: unix:///var/run/docker.sock
requirements:
  - Docker SDK for Python >= 5.0.3 on the host, and C(requests), which it brings along
seealso:
  - module: voicefleet.cosyvoice.traefik_verify
    description: What Traefik makes of the replicas.
  - module: voicefleet.cosyvoice.gpu_capacity
"""

EXAMPLES = r"""
- name: Look at two replicas and speak a sentence through Traefik
  voicefleet.cosyvoice.service_probe:
    services:
      - name: cosyvoice
        port: 7860
        version_path: /version
        replicas: 2
        revision: "2512"
    requests:
      - name: a sentence through Traefik
        url: https://speech.example.com/v1/audio/speech
        method: POST
        body: {model: cosyvoice, voice: default, input: Everything is up., response_format: wav}
        response_headers:
          Content-Type: ^audio/
          X-Replica: ^cosyvoice-\d+$
          X-Model-Version: ""
        min_audio_seconds: 0.5
        dest: /var/lib/voicefleet/verify/sentence.wav
  register: proof

- name: Stop here unless all is well
  ansible.builtin.assert:
    that: proof.ok
    fail_msg: "{{ proof.checks | rejectattr('ok') | map(attribute='remedy') | join(' ') }}"

- name: Look at a service that is not speech and tells no version
  voicefleet.cosyvoice.service_probe:
    services:
      - {name: embeddings, port: 8000, health_path: /health, replicas: 4}
    requests:
      - name: embeddings through Traefik
        url: http://127.0.0.1/embeddings/info
        headers: {Host: ai.example.com}
"""

RETURN = r"""
ok:
  description: Whether every check passed.
  returned: always
  type: bool
summary:
  description: How many checks passed.
  returned: always
  type: str
  sample: 11 of 12 checks passed
checks:
  description: Every check.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: What was looked at.
      type: str
    ok:
      description: Whether it is as wanted.
      type: bool
    found:
      description: What was found.
      type: str
    wanted:
      description: What was wanted.
      type: str
    remedy:
      description: What to do. Empty if RV(checks[].ok).
      type: str
  sample:
    - name: "cosyvoice-2: version"
      ok: false
      found: "2506"
      wanted: "2512"
      remedy: "Run site.yml: it replaces replicas that are out of date, one at a time."
replicas:
  description: The containers of the services, running or not.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The container's name.
      type: str
    service:
      description: The service it belongs to.
      type: str
    number:
      description: The replica's number, from 1.
      type: int
    slot:
      description: Its slot, C(<card>/<index>).
      type: str
    gpu:
      description: UUID of its slot's card. Empty on a CPU.
      type: str
    cards:
      description: The cards that the engine gives to the container.
      type: list
      elements: str
    image:
      description: The image, by the name it was asked for with.
      type: str
    labelled_revision:
      description: The revision that the container's label has.
      type: str
    revision:
      description: The revision that the replica tells. Empty if it was not asked or did not say.
      type: str
    weights_digest:
      description: The digest of the weights that the replica tells.
      type: str
    voices_digest:
      description: The digest of the voices that the replica tells. Empty if it does not take any.
      type: str
    voices:
      description: The digest of each of those voices, by its name.
      type: dict
    voices_refused:
      description: Voices that the replica has and cannot use, with the reason.
      type: dict
    version:
      description: All that the replica tells of its version.
      type: dict
    state:
      description: What the engine says, for example V(running) or V(exited).
      type: str
    health:
      description: What Docker's health check says. V(none) for an image without one.
      type: str
    address:
      description: Its IP address on the service's network.
      type: str
    restarts:
      description: How often the engine restarted it.
      type: int
    started_at:
      description: Since when it runs.
      type: str
answers:
  description: What came back for O(requests), in their order. Those not sent in check mode are missing.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The request's name.
      type: str
    url:
      description: Where it was sent.
      type: str
    status:
      description: The status. None if no answer came.
      type: int
    headers:
      description: The answer's headers, names in lower case.
      type: dict
    bytes:
      description: The size of the body.
      type: int
    first_byte_seconds:
      description: How long the first byte of the body took.
      type: float
    total_seconds:
      description: How long the whole answer took.
      type: float
    dest:
      description: Where the body was saved. Empty if it was not.
      type: str
"""

import os
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import (
    _probe,
    _proof,
    _specification,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._checks import Check, summary
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import (
    DEFAULT_DOCKER_HOST,
    EngineError,
    connect,
)

SERVICE_OPTIONS = {
    "name": {"type": "str", "required": True},
    "port": {"type": "int", "required": True},
    "network": {"type": "str", "default": "voicefleet"},
    "health_path": {"type": "str", "default": "/healthz"},
    "version_path": {"type": "str", "default": ""},
    "revision_key": {"type": "str", "default": "revision", "no_log": False},
    "digest_key": {"type": "str", "default": "weights_digest", "no_log": False},
    "replicas": {"type": "int"},
    "revision": {"type": "str"},
    "digest": {"type": "str"},
    "voices": {"type": "str"},
    "voice_digests": {"type": "dict"},
}
REQUEST_OPTIONS = {
    "name": {"type": "str", "required": True},
    "url": {"type": "str", "required": True},
    "method": {"type": "str", "default": "GET"},
    "headers": {"type": "dict", "default": {}},
    "body": {"type": "raw"},
    "status": {"type": "int", "default": 200},
    "response_headers": {"type": "dict", "default": {}},
    "min_bytes": {"type": "int", "default": 0},
    "min_audio_seconds": {"type": "float", "default": 0},
    "dest": {"type": "path"},
    "timeout_seconds": {"type": "float", "default": 60},
    "validate_certs": {"type": "bool", "default": True},
    "ca_path": {"type": "path"},
    "url_username": {"type": "str"},
    "url_password": {"type": "str", "no_log": True},
}


def look_at_replicas(params: dict[str, Any], check_mode: bool) -> tuple[list[Check], list[_proof.Replica]]:
    """All checks of all services; an engine that cannot be asked is one failed check."""
    services = [_proof.Service(**service) for service in params["services"]]
    if not services:
        return [], []
    try:
        replicas = _proof.observe(connect(params["docker_host"]), services)
    except EngineError as error:
        return [Check("Docker Engine", False, str(error), "answers", "What was found says what to do.")], []
    settle_seconds = 0 if check_mode else params["settle_seconds"]
    answers = _proof.ask_until_settled(replicas, services, params["timeout_seconds"], settle_seconds)
    slots = None
    if params["slots"] is not None:
        slots = [f"{slot['gpu'] or 'cpu'}/{slot['index']}" for slot in params["slots"]]
    return [
        each for service in services for each in _proof.judge_service(service, replicas, answers, slots)
    ], replicas


def to_request(asked: dict[str, Any]) -> _probe.Request:
    headers = {name: str(value) for name, value in asked["headers"].items()}
    body, headers = _probe.encode_body(asked["body"], headers)
    return _probe.Request(
        headers=headers,
        body=body,
        method=asked["method"].upper(),
        response_headers={name: str(pattern or "") for name, pattern in asked["response_headers"].items()},
        username=asked["url_username"],
        password=asked["url_password"],
        **{
            name: asked[name]
            for name in (
                "name", "url", "status", "min_bytes", "min_audio_seconds",
                "timeout_seconds", "validate_certs", "ca_path",
            )
        },
    )  # fmt: skip


def use(module: AnsibleModule, asked: dict[str, Any]) -> tuple[list[Check], dict[str, Any]]:
    """Send one request; the checks of its answer, and the answer as it is returned."""
    request = to_request(asked)
    answer = _probe.ask(request)
    checks = _probe.judge(request, answer)
    saved = ""
    if asked["dest"] and not module.check_mode and all(each.ok for each in checks):
        saved = save(module, answer.body, asked["dest"])
    return checks, {
        "name": request.name,
        "url": request.url,
        "status": answer.status,
        "headers": answer.headers,
        "bytes": len(answer.body),
        "first_byte_seconds": round(answer.first_byte_seconds, 3),
        "total_seconds": round(answer.total_seconds, 3),
        "dest": saved,
    }


def save(module: AnsibleModule, content: bytes, path: str) -> str:
    """Write next to the target and rename, so that nobody ever reads half a file."""
    os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
    handle, written = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.chmod(written, 0o644)
    module.atomic_move(written, path)
    return path


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "services": {"type": "list", "elements": "dict", "default": [], "options": SERVICE_OPTIONS},
            "cards": {"type": "list", "elements": "dict", "default": []},
            "slots": {
                "type": "list",
                "elements": "dict",
                "options": _specification.SLOT_OPTIONS,
            },
            "requests": {"type": "list", "elements": "dict", "default": [], "options": REQUEST_OPTIONS},
            "timeout_seconds": {"type": "float", "default": 5},
            "settle_seconds": {"type": "float", "default": 15},
            "docker_host": {"type": "str", "default": DEFAULT_DOCKER_HOST},
        },
        supports_check_mode=True,
    )
    checks = _proof.judge_cards(module.params["cards"])
    judged, replicas = look_at_replicas(module.params, module.check_mode)
    checks += judged
    answers = []
    for asked in module.params["requests"]:
        if module.check_mode and asked["method"].upper() not in ("GET", "HEAD"):
            continue
        judged, answer = use(module, asked)
        checks += judged
        answers.append(answer)
    module.exit_json(
        changed=False,
        ok=all(each.ok for each in checks),
        summary=summary(checks),
        checks=[each.as_dict() for each in checks],
        replicas=[replica.as_dict() for replica in replicas],
        answers=answers,
    )


if __name__ == "__main__":
    main()
