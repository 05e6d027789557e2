#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: traefik_verify
short_description: Wait until Traefik serves what was asked for, and say exactly what is wrong
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Compares what is wanted with what Traefik's API has - routers, services and their servers, middlewares,
    entry points, certificates - and looks again until all of it is so or O(timeout_seconds) are over.
  - Traefik drops a container for one label that it cannot read, ignores a misspelt prefix, and deletes a
    service for everybody when two containers give it different options, all without a trace in its API.
    With O(containers=true) the module reads the engine's containers as Traefik does and names the container,
    the label, the nearest valid key and the remedy.
  - Stops at the first look at which every check is ok. A Traefik that is being restarted is waited for. A
    wrong password, a web page instead of JSON and a certificate that is not trusted are not healed by
    waiting, and are reported after 3 seconds.
  - Every check is returned, on success and on failure alike. The signal is RV(ok).
  - Works with Traefik 2.11 to 3.7. Checks HTTP routers and services; labels are checked for TCP and UDP too.
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.platform
attributes:
  check_mode:
    support: full
    details:
      - This module only reads. Of O(probes) only those with method C(GET) or C(HEAD) are sent in check mode.
  diff_mode:
    support: N/A
    details:
      - This module does not modify state.
  idempotent:
    support: full
    details:
      - This module does not modify state.
requirements:
  - requests
  - Docker SDK for Python 5.0.3 or newer, for O(containers=true)
options:
  api_url:
    description:
      - Address of Traefik's API as this host reaches it, such as V(http://127.0.0.1:8080). A path before
        C(/api) (Traefik's C(api.basePath\)) belongs to it. No proxy is used.
    type: str
    required: true
  url_username:
    description: User name where the API asks for one.
    type: str
  url_password:
    description: Password of O(url_username).
    type: str
  ca_path:
    description: File with the authority that signed the API's certificate. The system's by default.
    type: path
  validate_certs:
    description: Whether the API's certificate has to be valid.
    type: bool
    default: true
  timeout_seconds:
    description: How long to wait until every check is ok. V(0) looks once.
    type: float
    default: 60
  interval_seconds:
    description: Longest pause between two looks. The first pauses are shorter.
    type: float
    default: 1
  traefik_version:
    description:
      - Wanted version of Traefik. V(3.7.15) is that one, V(3.7) any of 3.7, V(>=3.6.1) that one or newer.
    type: str
  provider:
    description:
      - The provider that has to be there, and whose name is added to names without one, so that V(speech) is
        V(speech@docker). O(exclusive) looks at its routers.
    type: str
    default: docker
  routers:
    description: Routers that have to be there. What is not given is not compared.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the router, with its provider unless it is O(provider)'s.
        type: str
        required: true
      rule:
        description: Its rule, as Traefik was given it.
        type: str
      status:
        description:
          - Its status. V(warning) is what Traefik says of a router whose entry points exist only in part.
        type: str
        choices: [enabled, warning, disabled]
        default: enabled
      service:
        description: Its service.
        type: str
      entrypoints:
        description:
          - Its entry points. Where one of them has TLS of its own, Traefik serves that by a second router
            C(<entry point>-<name>), which counts as the same here.
        type: list
        elements: str
      middlewares:
        description: Its middlewares in order, without those of its entry point.
        type: list
        elements: str
      tls:
        description: Whether it serves TLS.
        type: bool
      certresolver:
        description:
          - Its certificate resolver. Whether that has a certificate for every host of the router is a check
            of its own (from Traefik 3.7 on, which lists certificates), also without this option.
        type: str
  services:
    description: Services that have to be there. What is not given is not compared.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the service, with its provider unless it is O(provider)'s.
        type: str
        required: true
      status:
        description: Its status, which says whether Traefik could build it and nothing of its servers' health.
        type: str
        choices: [enabled, warning, disabled]
        default: enabled
      servers:
        description: Number of its servers.
        type: int
      urls:
        description: The URLs of its servers, all of them, in any order.
        type: list
        elements: str
      strategy:
        description: How it chooses a server.
        type: str
      all_up:
        description: Whether it needs a server, and every server has to be C(UP).
        type: bool
        default: true
  middlewares:
    description: Middlewares that have to be there and enabled.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the middleware, with its provider unless it is O(provider)'s.
        type: str
        required: true
      type:
        description: Its type, such as V(ratelimit) or V(chain).
        type: str
  entrypoints:
    description: Entry points that have to be there.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the entry point.
        type: str
        required: true
      address:
        description: Its address, such as V(:443).
        type: str
  containers:
    description:
      - Whether to read the containers of O(docker_host) too. Every container with a label of Traefik's, or
        with one that resembles Traefik's, is checked - its labels, health, network, port and routers - and
        every service for having just the healthy ones as its servers.
      - Containers that were created or stopped, and those with C(traefik.enable=false), are left out.
    type: bool
    default: false
  docker_host:
    description: Address of the Docker Engine.
    type: str
    default: unix:///var/run/docker.sock
  container_labels:
    description:
      - With O(containers=true), look only at containers that bear all of these labels (V(key) or
        V(key=value\)). Say here what Traefik's own C(providers.docker.constraints) say.
    type: list
    elements: str
    default: []
  container_connect:
    description:
      - With O(containers=true), open a TCP connection from this host to each container's port. It is the only
        way to find a port label that is wrong, as Traefik calls such a server C(UP) while callers get 502.
      - Set to V(false) where this host does not reach its containers' addresses (a remote O(docker_host),
        rootless engines).
    type: bool
    default: true
  traefik_container:
    description:
      - With O(containers=true), name of the container that Traefik itself runs in. If given, a container that
        Traefik would reach over a network that it is not in is a failed check.
    type: str
  exclusive:
    description: >-
      Whether a router of O(provider) that is not in O(routers) is a failed check. Typical are routers that
      Traefik made itself for a container whose labels it ignored.
    type: bool
    default: false
  ignore:
    description: Routers that O(exclusive) lets pass, as shell patterns of names with or without provider.
    type: list
    elements: str
    default: []
  probes:
    description:
      - Requests to send when every other check is ok, or the time is over. Redirects are not followed.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the probe in the checks. Its method and URL by default.
        type: str
      url:
        description: Where to send it. For C(https) the certificate is checked for O(probes[].validate_certs).
        type: str
        required: true
      method:
        description: HTTP method.
        type: str
        default: GET
      headers:
        description: Headers to send, such as C(Host) to reach a router by name at a loopback address.
        type: dict
        default: {}
      body:
        description: Text to send as it is, or data to send as JSON.
        type: raw
      status:
        description: Wanted status.
        type: int
        default: 200
      response_headers:
        description: >-
          Headers that have to come back, with the regular expression that each has to match somewhere. An
          empty one takes any value.
        type: dict
        aliases: [header]
        default: {}
      min_bytes:
        description: Smallest size of the body.
        type: int
        default: 0
      timeout_seconds:
        description: How long the whole answer may take.
        type: float
        aliases: [timeout]
        default: 10
      validate_certs:
        description: Whether the certificate has to be valid. O(validate_certs) by default.
        type: bool
  fail:
    description:
      - Whether the module fails when a check does. If V(false), look at RV(ok).
    type: bool
    default: true
seealso:
  - plugin: voicefleet.cosyvoice.traefik_labels
    plugin_type: filter
  - name: Traefik's API
    description: What the checks read.
    link: https://doc.traefik.io/traefik/operations/api/
"""

EXAMPLES = r"""
- name: Wait until both replicas are served, by their own labels alone
  voicefleet.cosyvoice.traefik_verify:
    api_url: http://127.0.0.1:8080
    containers: true
    routers:
      - name: speech
        rule: PathPrefix(`/v1`)
        entrypoints: [web, websecure]
        middlewares: [speech@file]
    services:
      - name: speech
        servers: 2
        strategy: p2c
    exclusive: true

- name: Prove the whole way through Traefik
  voicefleet.cosyvoice.traefik_verify:
    api_url: https://admin.example.com:8443
    url_username: admin
    url_password: "{{ dashboard_password }}"
    ca_path: /etc/ssl/certs/house-ca.pem
    traefik_version: ">=3.7.13"
    entrypoints:
      - name: websecure
        address: ":443"
    routers:
      - name: speech
        tls: true
        certresolver: letsencrypt
    probes:
      - url: https://speech.example.com/v1/audio/speech
        method: POST
        body: {model: cosyvoice, input: Hello., voice: default}
        response_headers:
          Content-Type: ^audio/
          X-Replica: .
        min_bytes: 10000
        timeout_seconds: 60

- name: Look once, and decide in the playbook
  voicefleet.cosyvoice.traefik_verify:
    api_url: http://127.0.0.1:8080
    containers: true
    timeout_seconds: 0
    fail: false
  register: verified

- name: Say what is wrong
  ansible.builtin.debug:
    msg: "{{ verified.checks | rejectattr('ok') }}"
  when: not verified.ok
"""

RETURN = r"""
ok:
  description: Whether every check is ok.
  type: bool
  returned: always
  sample: false
summary:
  description: How many checks are ok.
  type: str
  returned: always
  sample: 41 of 43 checks passed
checks:
  description:
    - Every check that was made, in a fixed order. Of a thing that is absent there is no check but its
      absence.
    - When the API cannot be read, that is the only check.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: What was looked at. No two checks have the same name.
      type: str
    ok:
      description: Whether it is as wanted.
      type: bool
    found:
      description: What was found, with the reason where it is wrong.
      type: str
    wanted:
      description: What was wanted. For a label that is not valid, the nearest valid key, if one is near.
      type: str
    remedy:
      description: What to do. Empty for a check that is ok.
      type: str
  sample:
    - name: 'container speech-2: label "traefik.http.services.speech.loadbalancer.healtcheck.path"'
      ok: false
      found: '"/healthz": unknown to Traefik 3.7.15, which drops the whole container for it'
      wanted: traefik.http.services.speech.loadbalancer.healthcheck.path
      remedy: >-
        write "traefik.http.services.speech.loadbalancer.healthcheck.path" instead of
        "traefik.http.services.speech.loadbalancer.healtcheck.path"
    - name: router speech@docker
      ok: true
      found: enabled
      wanted: enabled
      remedy: ""
version:
  description: Version of Traefik. Empty when the API cannot be read.
  type: str
  returned: always
  sample: 3.7.15
entrypoints:
  description: Entry points as C(/api/entrypoints) has them.
  type: list
  elements: dict
  returned: always
routers:
  description: HTTP routers of all providers and all pages, as C(/api/http/routers) has them.
  type: list
  elements: dict
  returned: always
  sample:
    - name: speech@docker
      provider: docker
      rule: PathPrefix(`/v1`)
      service: speech
      entryPoints: [web]
      status: enabled
services:
  description: HTTP services, as C(/api/http/services) has them, with C(serverStatus).
  type: list
  elements: dict
  returned: always
middlewares:
  description: HTTP middlewares, as C(/api/http/middlewares) has them.
  type: list
  elements: dict
  returned: always
looks:
  description: How many times was looked.
  type: int
  returned: always
  sample: 3
waited_seconds:
  description: How long it took until every check was ok, or was given up.
  type: float
  returned: always
  sample: 1.204
"""

import os
import re
import typing as t
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._checks import Check
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import (
    DEFAULT_DOCKER_HOST,
    EngineError,
    connect,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._probe import Request, encode_body
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import (
    HAS_REQUESTS,
    TraefikApi,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_checks import Expectations
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_verify import (
    Engine,
    Result,
    Verifier,
)

STATUSES = ["enabled", "warning", "disabled"]


def argument_spec() -> dict[str, t.Any]:
    return {
        "api_url": {"type": "str", "required": True},
        "url_username": {"type": "str"},
        "url_password": {"type": "str", "no_log": True},
        "ca_path": {"type": "path"},
        "validate_certs": {"type": "bool", "default": True},
        "timeout_seconds": {"type": "float", "default": 60},
        "interval_seconds": {"type": "float", "default": 1},
        "traefik_version": {"type": "str"},
        "provider": {"type": "str", "default": "docker"},
        "routers": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "name": {"type": "str", "required": True},
                "rule": {"type": "str"},
                "status": {"type": "str", "choices": STATUSES, "default": "enabled"},
                "service": {"type": "str"},
                "entrypoints": {"type": "list", "elements": "str"},
                "middlewares": {"type": "list", "elements": "str"},
                "tls": {"type": "bool"},
                "certresolver": {"type": "str"},
            },
        },
        "services": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "name": {"type": "str", "required": True},
                "status": {"type": "str", "choices": STATUSES, "default": "enabled"},
                "servers": {"type": "int"},
                "urls": {"type": "list", "elements": "str"},
                "strategy": {"type": "str"},
                "all_up": {"type": "bool", "default": True},
            },
        },
        "middlewares": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {"name": {"type": "str", "required": True}, "type": {"type": "str"}},
        },
        "entrypoints": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {"name": {"type": "str", "required": True}, "address": {"type": "str"}},
        },
        "containers": {"type": "bool", "default": False},
        "docker_host": {"type": "str", "default": DEFAULT_DOCKER_HOST},
        "container_labels": {"type": "list", "elements": "str", "default": []},
        "container_connect": {"type": "bool", "default": True},
        "traefik_container": {"type": "str"},
        "exclusive": {"type": "bool", "default": False},
        "ignore": {"type": "list", "elements": "str", "default": []},
        "probes": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "name": {"type": "str"},
                "url": {"type": "str", "required": True},
                "method": {"type": "str", "default": "GET"},
                "headers": {"type": "dict", "default": {}},
                "body": {"type": "raw"},
                "status": {"type": "int", "default": 200},
                "response_headers": {"type": "dict", "aliases": ["header"], "default": {}},
                "min_bytes": {"type": "int", "default": 0},
                "timeout_seconds": {"type": "float", "aliases": ["timeout"], "default": 10},
                "validate_certs": {"type": "bool"},
            },
        },
        "fail": {"type": "bool", "default": True},
    }


def faults(params: t.Mapping[str, t.Any]) -> list[str]:
    """What is wrong with the parameters: option, value and what is wanted."""
    found = [
        f"{option} {url!r}: an address such as http://127.0.0.1:8080 is wanted"
        for option, url in [
            ("api_url", params["api_url"]),
            *(("probes: url", p["url"]) for p in params["probes"]),
        ]
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname
    ]
    if params["timeout_seconds"] < 0:
        found.append(f"timeout_seconds {params['timeout_seconds']:g}: 0 or more is wanted")
    if params["interval_seconds"] <= 0:
        found.append(f"interval_seconds {params['interval_seconds']:g}: more than 0 is wanted")
    version = params["traefik_version"]
    if version and not re.fullmatch(r"(>=\s*)?\d+(\.\d+)*", version):
        found.append(f"traefik_version {version!r}: a version such as 3.7.15, 3.7 or >=3.6.1 is wanted")
    if params["ca_path"] and not os.path.isfile(params["ca_path"]):
        found.append(f"ca_path {params['ca_path']!r}: there is no such file on this host")
    for probe in params["probes"]:
        for name, pattern in probe["response_headers"].items():
            try:
                re.compile(str(pattern))
            except re.error as error:
                found.append(f"probes: response_headers {name} {pattern!r}: no regular expression: {error}")
    return found


def requests_of(params: t.Mapping[str, t.Any], check_mode: bool) -> list[Request]:
    """The probes to send; in check mode those that cannot change anything."""
    requests = []
    for probe in params["probes"]:
        method = probe["method"].upper()
        if check_mode and method not in ("GET", "HEAD"):
            continue
        headers = {str(name): str(value) for name, value in probe["headers"].items()}
        body, headers = encode_body(probe["body"], headers)
        validate = probe["validate_certs"]
        requests.append(
            Request(
                name=probe["name"] or f"probe {method} {probe['url']}",
                url=probe["url"],
                method=method,
                headers=headers,
                body=body,
                status=probe["status"],
                response_headers={str(k): str(v or "") for k, v in probe["response_headers"].items()},
                min_bytes=probe["min_bytes"],
                timeout_seconds=probe["timeout_seconds"],
                validate_certs=params["validate_certs"] if validate is None else validate,
                ca_path=params["ca_path"],
            )
        )
    return requests


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    params = module.params
    wrong = faults(params)
    if wrong:
        module.fail_json(msg="; ".join(wrong))
    if not HAS_REQUESTS:
        module.fail_json(msg=missing_required_lib("requests"))
    engine = None
    if params["containers"]:
        try:
            client = connect(params["docker_host"])
        except EngineError as error:
            finish(module, Result([Check("Docker engine", False, str(error), "it answers", "see found")]))
            return
        engine = Engine(
            client, params["container_labels"], params["container_connect"], params["traefik_container"]
        )
    api = TraefikApi(
        params["api_url"],
        params["url_username"],
        params["url_password"],
        params["ca_path"],
        params["validate_certs"],
    )
    want = Expectations(
        provider=params["provider"],
        traefik_version=params["traefik_version"],
        routers=params["routers"],
        services=params["services"],
        middlewares=params["middlewares"],
        entrypoints=params["entrypoints"],
        exclusive=params["exclusive"],
        ignore=params["ignore"],
    )
    result = Verifier(api, want, engine, requests_of(params, module.check_mode)).wait(
        params["timeout_seconds"], params["interval_seconds"]
    )
    api.close()
    finish(module, result)


def finish(module: AnsibleModule, result: Result) -> None:
    """Exit with everything that was found, whether or not it is as wanted."""
    for warning in result.warnings:
        module.warn(warning)
    if not result.ok and module.params["fail"]:
        module.fail_json(msg=result.message(), **result.as_dict())
    module.exit_json(changed=False, **result.as_dict())


if __name__ == "__main__":
    main()
