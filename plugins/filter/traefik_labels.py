# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A service's routes as labels for Traefik, unknown keys refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._route_labels import RouteError, labels_of

DOCUMENTATION = r"""
name: traefik_labels
short_description: Build the labels that make Traefik route to a container
version_added: 0.1.0
author: Voicefleet contributors (@voicefleet)
description:
  - Turns one route or several into the labels of a container, for Traefik's Docker provider.
  - >-
    Traefik drops a whole container for one label that it cannot read, and ignores a misspelt prefix
    without a word. This filter refuses both before anything is deployed, and names the nearest valid key.
  - >-
    The labels are few and do not depend on anything that changes in an upgrade. Two containers that give
    one router or service different options make Traefik drop it for all of them, so what changes (limits,
    headers, retries) belongs into a middleware of the file provider, which O(_input[].middlewares) names. A
    router that several containers share can stand there as a whole, see
    P(voicefleet.cosyvoice.traefik_router#filter); then the labels define its service only.
positional: _input
options:
  _input:
    description: One route, or a list of them.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: >-
          Name of the router and of the service. Every router names its service: with several of them
          Traefik would drop a router that does not. Letters, digits, C(-) and C(_); a dot would make
          Traefik drop the container.
        type: str
        required: true
      rule:
        description:
          - Traefik's rule, such as V(PathPrefix(`/v1`\)). Without one there is only the service, for a router
            that is defined elsewhere; then O(_input[].entrypoints), O(_input[].middlewares), O(_input[].tls)
            and O(_input[].priority), which are a router's, are refused.
          - One route at least needs one. For a container without any router Traefik makes one of its own,
            with the container's name as host, on every default entry point.
        type: str
      service:
        description: >-
          Name of the service that the router uses, if it is not one of its own: that of another route of
          the same container, or one that is defined elsewhere, with its provider, such as V(speech@file).
          Then the route defines no service, and O(_input[].port), O(_input[].strategy) and
          O(_input[].flush_interval) are refused.
        type: str
      port:
        description: >-
          Port in the container. Traefik drops a container whose port it cannot tell. Required unless
          O(_input[].service) names another service.
        type: int
      entrypoints:
        description: Names of Traefik's entry points.
        type: list
        elements: str
        default: [web]
      middlewares:
        description: Middlewares in order, with their provider, such as V(speech@file).
        type: list
        elements: str
        default: []
      strategy:
        description:
          - How requests are spread over the containers of the service.
          - >-
            V(p2c) counts requests in flight and so suits work of several seconds. V(leasttime) would send
            every request to a server without a measured time until its first byte came.
        type: str
        choices: [wrr, p2c, hrw, leasttime]
        default: p2c
      flush_interval:
        description:
          - >-
            How often an answer of known length is passed on while it comes, such as V(100ms), which is
            Traefik's default; V(0) is at its end only. What streams, in chunks or as events, is passed on at
            once.
          - >-
            Use V(0) with a middleware that tries again after a status: with Traefik 3.7 an answer that was
            held back, and whose body took longer than this, was a 200 without headers to its caller
            (U(https://github.com/traefik/traefik/pull/13874)).
        type: str
      tls:
        description: >-
          Whether the router serves TLS; or a dictionary with C(certresolver), C(options), and C(domains),
          a list of dictionaries with C(main) and C(sans).
        type: raw
        default: false
      priority:
        description: Priority of the router; the length of the rule by default.
        type: int
      extra:
        description: >-
          Further labels of Traefik. Every key and value is checked; labels that are not Traefik's are
          refused, give them to the container beside these.
        type: dict
        default: {}
  network:
    description: >-
      Docker network through which Traefik reaches the container. Without it Traefik picks any of the
      container's networks.
    type: str
seealso:
  - plugin: voicefleet.cosyvoice.traefik_router
    plugin_type: filter
  - module: voicefleet.cosyvoice.traefik_verify
"""

EXAMPLES = r"""
- name: Run a container behind Traefik
  community.docker.docker_container:
    name: speech-1
    image: registry.example.com/speech@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
    networks:
      - name: voicefleet
    labels: "{{ route | voicefleet.cosyvoice.traefik_labels(network='voicefleet') }}"
  vars:
    route:
      name: speech
      rule: PathPrefix(`/v1`)
      port: 7860
      middlewares: [speech@file]

- name: Route two ports of one container, one of them by TLS
  ansible.builtin.set_fact:
    speech_labels: "{{ routes | voicefleet.cosyvoice.traefik_labels(network='voicefleet') }}"
  vars:
    routes:
      - name: speech
        rule: Host(`speech.example.com`)
        port: 7860
        entrypoints: [websecure]
        tls:
          certresolver: letsencrypt
        extra:
          traefik.http.services.speech.loadbalancer.healthcheck.path: /healthz
      - name: speech-metrics
        rule: PathPrefix(`/metrics`)
        port: 9090
        entrypoints: [admin]

- name: Leave the shared router to a file, and give each container a router of its own
  ansible.builtin.set_fact:
    speech_labels: "{{ routes | voicefleet.cosyvoice.traefik_labels(network='voicefleet') }}"
  vars:
    routes:
      - {name: speech-p2c, port: 7860}
      - {name: speech-1, rule: Host(`speech-1.example.com`), service: speech-p2c}
"""

RETURN = r"""
_value:
  description: Labels as a dictionary of strings, in a stable order.
  type: dict
  sample:
    traefik.enable: "true"
    traefik.docker.network: voicefleet
    traefik.http.routers.speech.rule: PathPrefix(`/v1`)
    traefik.http.routers.speech.entrypoints: web
    traefik.http.routers.speech.service: speech
    traefik.http.services.speech.loadbalancer.server.port: "7860"
    traefik.http.services.speech.loadbalancer.strategy: p2c
"""


def traefik_labels(routes: Any, network: str | None = None) -> dict[str, str]:
    """Labels of the routes; a route that cannot become labels is an error of the filter."""
    try:
        return labels_of(routes, network)
    except RouteError as error:
        raise AnsibleFilterError(f"traefik_labels: {error}") from error


class FilterModule:
    """Ansible's entry to the filter."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"traefik_labels": traefik_labels}
