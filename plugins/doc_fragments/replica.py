# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options that every module which deals with replicas has."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragment C(replica)."""

    DOCUMENTATION = r"""
options:
  service:
    description:
      - Name of the service. Its replicas are the containers C(<service>-1), C(<service>-2) and so on.
    type: str
    required: true
  specification:
    description:
      - What the container of every replica of the service is made from.
      - In O(specification.environment) and O(specification.labels) (keys too) and in
        O(specification.mounts[].source), C({replica}) stands for the replica's name and C({number}) for its
        number.
      - Any change of it, of the content of its image, or of the slot gives the replica another specification
        hash, by which a running replica is known to be out of date.
    type: dict
    suboptions:
      image:
        description: The image, as C(docker run) takes it. It has to be on the host already.
        type: str
        required: true
      revision:
        description: What the service calls this version of itself. Shown in plans and kept as a label.
        type: str
        default: ""
      weights_digest:
        description:
          - The digest of the weights that every replica has to have loaded, as it tells itself. One that
            tells another gets no callers. Kept as a label.
          - Any when empty.
        type: str
        default: ""
      command:
        description: Command and arguments. The image's own when empty.
        type: list
        elements: str
        default: []
      entrypoint:
        description: Entry point. The image's own when empty.
        type: list
        elements: str
        default: []
      environment:
        description: Environment variables. Values that are not strings are written as JSON.
        type: dict
        default: {}
      mounts:
        description: Directories or files of the host that every replica sees.
        type: list
        elements: dict
        default: []
        suboptions:
          source:
            description: Path on the host. It has to exist.
            type: path
            required: true
          target:
            description: Path inside the container.
            type: str
            required: true
          read_only:
            description: Whether the replica may only read it.
            type: bool
            default: true
      outputs_target:
        description: Where the replica finds its own outputs directory.
        type: str
        default: /outputs
      port:
        description: The port that the replica listens on inside its container.
        type: int
        required: true
      network:
        description: The Docker network that Traefik reaches the replica through. It has to exist.
        type: str
        required: true
      labels:
        description: Labels for Traefik, as P(voicefleet.cosyvoice.traefik_labels#filter) makes them.
        type: dict
        default: {}
      health:
        description: The Docker health check. Traefik sends callers only to replicas that it calls healthy.
        type: dict
        required: true
        suboptions:
          test:
            description: >-
              What to run, in Docker's form: a list that begins with V(CMD) or V(CMD-SHELL). It must fail
              while the file C(/run/voicefleet/drain) exists, or the replica cannot be drained.
            type: list
            elements: str
            required: true
          interval_seconds:
            description: Pause between two checks.
            type: float
            default: 2
          timeout_seconds:
            description: A check that takes longer has failed.
            type: float
            default: 2
          retries:
            description: So many failures in a row make the replica unhealthy.
            type: int
            default: 1
          start_period_seconds:
            description: So long after its start a failure does not count.
            type: float
            default: 180
      user:
        description: Numeric user, or user and group as C(uid:gid), to run as. The image's own when empty.
        type: str
        default: ""
      capabilities:
        description: Linux capabilities to leave to the container; all others are dropped.
        type: list
        elements: str
        default: []
      read_only:
        description: Whether the container's root file system is read-only.
        type: bool
        default: true
      tmpfs:
        description: Paths in the container that live in memory, with their mount options.
        type: dict
        default:
          /tmp: mode=1777
      shm_size_mib:
        description: Size of C(/dev/shm).
        type: int
        default: 64
      memory_mib:
        description: Limit of the host's memory for one replica. No limit when 0.
        type: int
        default: 0
      gpu_access:
        description: How the container is given its card, by the host's CDI specification or by NVIDIA's hook.
        type: str
        choices: [hook, cdi]
        default: hook
      stop_timeout_seconds:
        description: How long a replica may take to finish what it has in hand after SIGTERM.
        type: int
        default: 90
  data_dir:
    description:
      - Directory on the host below which each replica has its own C(<service>/<replica>/outputs) and
        C(<service>/<replica>/control), the home of its drain flag. They outlive the container.
    type: path
    default: /var/lib/voicefleet
  docker_host:
    description: Where the Docker Engine listens.
    type: str
    default: unix:///var/run/docker.sock
"""

    # How a service tells how busy it is; modules say what they do with it.
    METRICS = r"""
options:
  metrics:
    type: dict
    suboptions:
      path:
        description: Path of its metrics in Prometheus' text format.
        type: str
        default: /metrics
      in_flight:
        description: Gauges that add up to the requests in hand.
        type: list
        elements: str
        default: []
      capacity:
        description: Gauge of the requests that a replica takes at once.
        type: str
        default: ""
      requests:
        description: Counter of answers, with a label for their status.
        type: str
        default: ""
      status_label:
        description: That label.
        type: str
        default: status
      latency:
        description: Histogram of the time to the first byte, or whatever counts as latency.
        type: str
        default: ""
"""
