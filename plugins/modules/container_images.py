#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: container_images
short_description: Bring container images to a host by registry, build or archive
version_added: 0.1.0
author: "Voicefleet contributors (@voicefleet)"
description:
  - Makes sure that all wanted images are in the Docker Engine of a host, in one call.
  - An image is a folder with a C(Dockerfile). It is put together on the host, or pulled by digest, or loaded
    from what C(docker save) wrote.
  - Images built on the host are named after the hash of all that goes into them. They are built again only
    when that changes, and former ones stay for going back.
options:
  state:
    description:
      - V(present) brings the wanted images to the host.
      - V(planned) changes nothing and tells which images are due, in O(ignore:RV(due)), also on a host that
        has no Docker Engine yet.
      - V(exported) writes the images we brought to this host as archives into O(dest), for hosts without a
        network.
      - V(absent) removes all images we brought to this host, as far as no container uses them.
    type: str
    choices: [present, planned, exported, absent]
    default: present
  images:
    description:
      - The images there are, by name, each a dictionary of C(folder), C(dockerfile), C(packages),
        C(requirements), C(build_requirements), C(trees), C(indexes) and C(free_mib), all optional.
      - C(folder) has the C(Dockerfile) and all files of the image. It is searched like the C(src) of a copy
        task, in the C(files) directories of the role and of the roles that included it, and is the name of
        the image unless given. C(dockerfile) is the name of a file in it, C(Dockerfile) unless given; several
        images can share a folder.
      - The C(Dockerfile) may use C(FROM scratch) or C(FROM) the name of another image here, C(COPY), and what
        only describes an image (C(CMD), C(ENTRYPOINT), C(ENV), C(EXPOSE), C(HEALTHCHECK), C(LABEL),
        C(STOPSIGNAL), C(USER), C(VOLUME), C(WORKDIR)). Nothing is run.
      - C(COPY --from=wheels) copies from what pip makes of the folder's C(requirements.txt), which must have
        hashes. C(requirements) names another file in the folder or anywhere on the controller, C(indexes)
        where pip looks for the packages, the first in place of the host's own settings, the others beside it.
      - With C(build_requirements), a file with hashes too, packages that come without wheels are built on the
        host with what it names, and a compiler. Without it, only wheels are taken.
      - C(COPY --from=rootfs) copies from a root file system with C(packages), a list of Debian packages,
        unpacked with all they depend on.
      - C(COPY --from=) another name copies from C(trees), a dictionary by that name. Each is a C(git)
        repository with the full C(commit), or a C(url) or C(path) of an archive with its C(checksum)
        (C(sha256:) and 64 hex digits); the path is on the controller unless C(remote_src). A directory that
        is alone in an archive is left out. Submodules are not fetched, they are trees of their own.
      - A tree named C(python) is the interpreter that the image brings along, with C(bin/python3) in it and
        pip. It fetches the image's packages, whatever Python the host has.
      - C(free_mib) is what O(minimum_free_mib) is at least when this image is to be built.
    type: dict
    default: {}
  sources:
    description:
      - Where images come from, by name. An image that is not named here is built.
      - C(source) is V(build), V(registry) or V(archive).
      - V(registry) takes C(reference), which must end in C(@sha256:) and a digest unless O(allow_tags).
      - V(archive) takes C(path), C(checksum) (C(sha256:) and 64 hex digits) and C(remote_src) (whether the
        path is on the host rather than on the controller, default V(false)).
    type: dict
    default: {}
  wanted:
    description:
      - Names of the images to bring. What they are built from comes along.
    type: list
    elements: str
    default: []
  folders:
    description:
      - What the folders hold. The action plugin that runs with this module fills it in from the controller.
    type: dict
    default: {}
  folders_archive:
    description:
      - Where the folders' files are on the host. The action plugin fills it in.
    type: path
  archives:
    description:
      - Where archives sent from the controller are on the host. The action plugin fills it in.
    type: dict
    default: {}
  repository:
    description:
      - First part of the names of all images we bring.
    type: str
    default: voicefleet
  revision:
    description:
      - Goes into the hash of built images. Give it a new value, as the date, to build all of them again with
        the newest packages of the distribution.
    type: str
    default: ''
  suite:
    description:
      - Release of Debian or Ubuntu that root file systems are made of. The host's own when empty.
    type: str
    default: ''
  mirrors:
    description:
      - What to pull from instead of a registry, as C(docker.io) to C(mirror.example.com/docker.io).
    type: dict
    default: {}
  allow_tags:
    description:
      - Whether images from a registry may be given by a tag, which may be another image tomorrow.
      - A tag that is on the host is not pulled again.
    type: bool
    default: false
  python:
    description:
      - The Python on the host whose pip fetches Python packages. It must be the version that is in the image.
    type: str
    default: /usr/bin/python3
  cache_dir:
    description:
      - Where wheels are kept, and where images are put together.
    type: path
    default: /var/cache/voicefleet
  minimum_free_mib:
    description:
      - How much room must be free below O(cache_dir) and in the engine's directory when an image is due.
    type: int
    default: 3072
  dest:
    description:
      - Directory for the archives of O(state=exported). On the controller unless O(remote_dest).
    type: path
  remote_dest:
    description:
      - Whether O(dest) is on the host.
    type: bool
    default: false
  names:
    description:
      - Which images O(state=exported) writes; all that we brought when empty.
    type: list
    elements: str
    default: []
  compress:
    description:
      - Whether O(state=exported) writes gzip files.
    type: bool
    default: true
  docker_host:
    description:
      - The Docker Engine.
    type: str
    default: unix:///var/run/docker.sock
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
attributes:
  check_mode:
    support: full
    details:
      - Works on a host without a Docker Engine too; all images are due there.
  diff_mode:
    support: full
  idempotent:
    support: full
notes:
  - Building takes root, C(mmdebstrap) for root file systems and C(pip) for wheels, both with the host's own
    settings.
requirements:
  - docker (Docker SDK for Python) 5.0.3 or newer
"""

EXAMPLES = r"""
- name: Build two images, or find them built
  voicefleet.cosyvoice.container_images:
    images:
      base:
        packages: [python3]
      hello: {}
    wanted: [hello]

- name: Take Traefik from a registry, through a mirror
  voicefleet.cosyvoice.container_images:
    images:
      traefik: {}
    sources:
      traefik:
        source: registry
        reference: traefik@sha256:0000000000000000000000000000000000000000000000000000000000000000
    mirrors:
      docker.io: mirror.example.com/docker.io
    wanted: [traefik]
"""

RETURN = r"""
refs:
  description: For each wanted image, and each it is built from, the reference to run it by.
  returned: O(state=present) or O(state=planned)
  type: dict
  sample: {traefik: "voicefleet/traefik:0123456789ab"}
due:
  description: What is to be done, or was done; C(verb) is build, pull or load.
  returned: O(state=present) or O(state=planned)
  type: list
  elements: dict
  sample: [{name: traefik, verb: build, reference: "voicefleet/traefik:0123456789ab"}]
missing_tools:
  description: Programs that building takes and the host lacks, with the Debian package of each.
  returned: O(state=present) or O(state=planned)
  type: dict
  sample: {mmdebstrap: mmdebstrap}
engine:
  description: Why the Docker Engine cannot be used, or empty. Can have a value only while nothing is changed.
  returned: O(state=present) or O(state=planned)
  type: str
  sample: ''
seconds:
  description: How long each image took; they are made side by side.
  returned: O(state=present), when an image was due
  type: dict
  sample: {traefik: 9.4}
sizes_mib:
  description: Size of each image that was due.
  returned: O(state=present), when an image was due
  type: dict
  sample: {traefik: 176}
removed:
  description: References of the images that were removed.
  returned: O(state=absent)
  type: list
  elements: str
kept:
  description: References of the images that stay because containers use them.
  returned: O(state=absent)
  type: list
  elements: str
archives:
  description: The archives written, each with C(name), C(file), C(checksum) and C(reference).
  returned: O(state=exported)
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import EngineError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._image_jobs import absent, bring, export
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._images import ARGUMENT_SPEC, ImagesError
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._tools import ToolError


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "exported", ["dest"])],
        supports_check_mode=True,
    )
    job = {"exported": export, "absent": absent}.get(module.params["state"], bring)
    try:
        result = job(module.params, module.check_mode)
    except (ImagesError, EngineError, ToolError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
