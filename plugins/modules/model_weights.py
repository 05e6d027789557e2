#!/usr/bin/python
# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: model_weights
short_description: Bring a revision of a model's files to a host, whole and checked
version_added: 0.1.0
author:
  - Voicefleet contributors (@voicefleet)
description:
  - Brings files of a model from ModelScope, Hugging Face, a mirror of it, an archive or a directory of the
    host into C(<dir>/<name>/<revision>).
  - The directory appears there when every file has the size and the SHA-256 of its manifest, and not before.
    What is being brought lies in C(<dir>/<name>/.incoming), where the next run finds it and goes on.
  - The manifest is O(manifest), as far as it names the files, and otherwise what the hub says and the files
    then contain. It is recorded beside the directory, and from then on holds for this revision.
  - A run that finds everything there compares sizes and times with those it saw last, which takes
    milliseconds. A file that was written since is read through.
  - Hubs are asked by their own client libraries, C(modelscope_hub) and C(huggingface_hub), which the host's
    pip puts into O(cache_dir), with hashes. The host's Python gets nothing.
extends_documentation_fragment:
  - voicefleet.cosyvoice.attributes
  - voicefleet.cosyvoice.attributes.platform
attributes:
  check_mode:
    support: full
    details:
      - Asks the source what there is to bring, and how large it is. A client library that is not on the host
        yet is had for the moment, if the host has pip.
  diff_mode:
    support: full
    details:
      - Shows the files, with their digests where these are known beforehand.
  idempotent:
    support: full
options:
  state:
    description:
      - V(present) brings the revision.
      - V(planned) tells what is there, and asks nobody.
      - V(absent) removes every revision of the model, and O(cache_dir). Refused while containers use one.
    type: str
    choices: [present, planned, absent]
    default: present
  dir:
    description: Directory of all models on the host.
    type: path
    default: /var/lib/voicefleet/models
  name:
    description: The model's name, a directory in O(dir).
    type: str
    required: true
  revision:
    description: The revision's name, a directory in there. Needed unless O(state=absent).
    type: str
    default: ''
  source:
    description:
      - Where the files come from.
      - V(archive) is a tar archive, compressed or not; one directory that holds everything in it is left out.
    type: str
    choices: [modelscope, huggingface, archive, directory]
    default: directory
  path:
    description: The archive or the directory, on the host.
    type: path
  repository:
    description: The model's id on a hub, C(<owner>/<name>).
    type: str
    default: ''
  ref:
    description: What the hub calls the revision, a commit, tag or branch; O(revision) when empty.
    type: str
    default: ''
  endpoint:
    description: The hub's address, or that of a mirror. V(https://modelscope.cn) or V(https://huggingface.co)
      when empty.
    type: str
    default: ''
  token:
    description: Of an account that may read the model, if it is not public.
    type: str
    default: ''
  files:
    description: Names of the files to bring, with C(*) as a shell has it. Each has to find one.
    type: list
    elements: str
    default: ['*']
  manifest:
    description:
      - What is known of the files beforehand, as C(sha256sum) writes it, each line after a line
        C(# size <bytes> <name>).
    type: str
    default: ''
  manifest_name:
    description: Where O(manifest) comes from, for messages.
    type: str
    default: ''
  digest:
    description: What RV(digest) has to be. Any when empty.
    type: str
    default: ''
  digest_files:
    description: Names of the files that count in RV(digest), as far as they are there. All when empty.
    type: list
    elements: str
    default: []
  family:
    description: By which file this kind of model is known.
    type: dict
    suboptions:
      name:
        description: What this kind of model is called.
        type: str
        required: true
      file:
        description: A file that it has, and others do not.
        type: str
        required: true
      others:
        description: Files of other kinds, each with what that kind is called.
        type: dict
        default: {}
  verify:
    description: Whether files are read through that have the size and time that was seen last.
    type: str
    choices: [stamp, full]
    default: stamp
  repair:
    description: Whether files that are not as they were brought are brought again. Refused otherwise, as a
      file changes by itself only on a disk that fails.
    type: bool
    default: false
  keep:
    description: How many revisions stay, besides this one, that neither a container nor a rollback needs.
    type: int
    default: 1
  minimum_free_mib:
    description: How much room has to stay free in O(dir).
    type: int
    default: 1024
  requirements:
    description: What pip has to install for the hubs, a text with hashes.
    type: str
    default: ''
  cache_dir:
    description: Where the client libraries are put.
    type: path
    default: /var/cache/voicefleet/model_weights
  docker_host:
    description: Where the Docker Engine listens whose containers use the files.
    type: str
    default: unix:///var/run/docker.sock
  progress_file:
    description: A file to which what is going on is written. The action plugin of the same name fills it in.
    type: path
seealso:
  - module: voicefleet.cosyvoice.replica
"""

EXAMPLES = r"""
- name: Bring a revision from a mirror of Hugging Face
  voicefleet.cosyvoice.model_weights:
    name: Fun-CosyVoice3-0.5B-2512
    revision: 29e01c4e8d000f4bcd70751be16fa94bf3d85a18
    source: huggingface
    endpoint: https://hf-mirror.com
    repository: FunAudioLLM/Fun-CosyVoice3-0.5B-2512
    files: [cosyvoice3.yaml, llm.pt, flow.pt, hift.pt, "*.onnx", CosyVoice-BlankEN/*]
    requirements: "{{ lookup('ansible.builtin.file', 'requirements.txt') }}"

- name: Take it from a share, and be sure which it is
  voicefleet.cosyvoice.model_weights:
    name: Fun-CosyVoice3-0.5B-2512
    revision: "2512"
    source: directory
    path: /mnt/models/Fun-CosyVoice3-0.5B
    digest: b939301b6f99ea314e979710647ef8ffcf4dc50a7d90cbc782c80395aeaccc14
"""

RETURN = r"""
path:
  description: The directory of the revision.
  returned: O(state=present) or O(state=planned)
  type: str
  sample: /var/lib/voicefleet/models/Fun-CosyVoice3-0.5B-2512/2512
manifest_file:
  description: Its manifest, for C(sha256sum --check) in that directory.
  returned: O(state=present) or O(state=planned)
  type: str
  sample: /var/lib/voicefleet/models/Fun-CosyVoice3-0.5B-2512/2512.sha256
digest:
  description:
    - One figure for all files, the SHA-256 over a line C(<sha256>  <name>) of each in the order of the names.
    - Empty while it is not known.
  returned: O(state=present) or O(state=planned)
  type: str
there:
  description: Whether the directory is there.
  returned: O(state=present) or O(state=planned)
  type: bool
faults:
  description: Files that are not as they were brought, with what is wrong.
  returned: O(state=present) or O(state=planned)
  type: dict
brought:
  description: The files that were brought, or are to be.
  returned: O(state=present)
  type: list
  elements: str
bytes:
  description: Their size. V(null) if nobody could be asked in check mode.
  returned: O(state=present), when something was due
  type: int
recorded:
  description: Whether the digest of a file was not known beforehand and was recorded.
  returned: O(state=present)
  type: bool
removed:
  description: Revisions that were removed.
  returned: O(state=present) or O(state=absent)
  type: list
  elements: str
due:
  description: Whether something has to be brought.
  returned: O(state=planned)
  type: bool
pip:
  description: Whether the host has pip.
  returned: O(state=planned)
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _weights_job
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._engine import (
    DEFAULT_DOCKER_HOST,
    EngineError,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._progress import Progress
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._weights_manifest import WeightsError

ARGUMENT_SPEC = {
    "state": {"type": "str", "choices": ["present", "planned", "absent"], "default": "present"},
    "dir": {"type": "path", "default": "/var/lib/voicefleet/models"},
    "name": {"type": "str", "required": True},
    "revision": {"type": "str", "default": ""},
    "source": {
        "type": "str",
        "choices": ["modelscope", "huggingface", "archive", "directory"],
        "default": "directory",
    },
    "path": {"type": "path"},
    "repository": {"type": "str", "default": ""},
    "ref": {"type": "str", "default": ""},
    "endpoint": {"type": "str", "default": ""},
    "token": {"type": "str", "default": "", "no_log": True},
    "files": {"type": "list", "elements": "str", "default": ["*"]},
    "manifest": {"type": "str", "default": ""},
    "manifest_name": {"type": "str", "default": ""},
    "digest": {"type": "str", "default": ""},
    "digest_files": {"type": "list", "elements": "str", "default": []},
    "family": {
        "type": "dict",
        "options": {
            "name": {"type": "str", "required": True},
            "file": {"type": "str", "required": True},
            "others": {"type": "dict", "default": {}},
        },
    },
    "verify": {"type": "str", "choices": ["stamp", "full"], "default": "stamp"},
    "repair": {"type": "bool", "default": False},
    "keep": {"type": "int", "default": 1},
    "minimum_free_mib": {"type": "int", "default": 1024},
    "requirements": {"type": "str", "default": ""},
    "cache_dir": {"type": "path", "default": "/var/cache/voicefleet/model_weights"},
    "docker_host": {"type": "str", "default": DEFAULT_DOCKER_HOST},
    "progress_file": {"type": "path"},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[
            ("state", "present", ["revision", "source"]),
            ("state", "planned", ["revision"]),
        ],
        supports_check_mode=True,
    )
    params = module.params
    if params["state"] == "present":
        needed = "path" if params["source"] in ("archive", "directory") else "repository"
        if not params[needed]:
            module.fail_json(
                msg=f"source is {params['source']} and {needed} is empty. Say where the files are."
            )
    job = {"planned": _weights_job.planned, "absent": _weights_job.absent}.get(
        params["state"], _weights_job.bring
    )
    progress = Progress(params["progress_file"])
    try:
        result = job(params, module.check_mode, progress.tell, module.warn)
    except (WeightsError, EngineError) as error:
        module.fail_json(msg=str(error), **progress.told())
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename or params['dir']} cannot be used: {error.strerror or error}. Files of "
            "models are written by root; set become: true, or correct dir.",
            **progress.told(),
        )
    module.exit_json(**result, **progress.told())


if __name__ == "__main__":
    main()
