# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What containers see of NVIDIA's cards, asked from inside.

This module util is private to the collection. A container can lose its card while it runs on, and nothing on
the host shows it: NVIDIA's hook allows the card behind the engine's back, and systemd takes that away when it
reads its units anew (NVIDIA/nvidia-container-toolkit#48).
"""

from __future__ import annotations

import threading
import typing as t
from concurrent import futures
from dataclasses import replace

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils import _cdi
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._checks import Check, check
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._nvidia_smi_problems import explain

if t.TYPE_CHECKING:
    from docker import DockerClient

Json = dict[str, t.Any]
COMMAND = ["nvidia-smi", "-L"]
WANTED = "nvidia-smi lists its cards"
NEW = "cards in a new container"
LOST = "Failed to initialize NVML: Unknown Error"
OTHER_LIBRARY = "Driver/library version mismatch"
ANSWER_SECONDS = 60.0  # nvidia-smi waits for a card that hangs for as long as it hangs
# What a container can meet that outlives a change of its host.
_OUTLIVED = {
    LOST: "The host's systemd has read its units anew, and with NVIDIA's hook a container loses its cards by "
    "that (by CDI, which Docker 25 and newer have, it keeps them; see nvidia_container_toolkit_cdi)",
    OTHER_LIBRARY: "If nvidia-smi works on the host, the container has the library of a driver that was "
    "loaded before",
}
_HANGS = (
    "The card or its driver hangs: look at nvidia-smi and the kernel's log on the host; it may take a reboot."
)
# What a shell and an engine end with that cannot run a command.
_CANNOT_RUN = (126, 127)


def device_request(gpu: str, access: str) -> t.Any:
    """What gives a container the card of this UUID, or V(all). ``access``: V(cdi) or V(hook), see _cdi."""
    from docker.types import DeviceRequest

    if access == "cdi":
        return DeviceRequest(driver="cdi", device_ids=[f"{_cdi.KIND}={gpu}"])
    if gpu == "all":
        return DeviceRequest(count=-1, capabilities=[["gpu"]])
    return DeviceRequest(device_ids=[gpu], capabilities=[["gpu"]])


def holds_a_card(inspected: Json) -> bool:
    """Whether a container, as the engine describes it, was given a card of NVIDIA's."""
    host = inspected["HostConfig"]
    return host.get("Runtime") == "nvidia" or any(
        "gpu" in (word for words in request.get("Capabilities") or [] for word in words)
        or any(name.startswith(_cdi.KIND) for name in request.get("DeviceIDs") or [])
        for request in host.get("DeviceRequests") or []
    )


def holders(client: DockerClient) -> list[t.Any]:
    """The running containers that were given a card, by name."""
    running = client.containers.list(ignore_removed=True)
    return sorted((one for one in running if holds_a_card(one.attrs)), key=lambda one: str(one.name))


def look_into(container: t.Any) -> Check:
    """Whether a running container still gets at its cards. It costs a process in it for a moment."""
    from docker.errors import APIError

    name = f"cards in {container.name}"
    try:
        code, output = _within(ANSWER_SECONDS, lambda: container.exec_run(COMMAND))
    except futures.TimeoutError:
        return check(name, False, f"no answer within {ANSWER_SECONDS:g} s", WANTED, _HANGS)
    except APIError as error:  # it has ended since, is paused, or is just being restarted
        return check(name, True, f"not to be asked: {error.explanation}", WANTED, "")
    said = output.decode(errors="replace").strip()
    seen = _judged(name, code, said)
    why = next((words for sign, words in _OUTLIVED.items() if sign in said), "")
    if seen.ok or not why:
        return seen
    again = f"run 'docker restart {container.name}', one replica after the other."
    return replace(seen, remedy=f"{why}: {again}")


def _within(seconds: float, ask: t.Callable[[], t.Any]) -> t.Any:
    """The answer, or TimeoutError of futures: docker-py reads what a command says without any limit."""
    answer: futures.Future[t.Any] = futures.Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except Exception as error:
            answer.set_exception(error)

    # No pool: one would wait for it at the end of the process.
    threading.Thread(target=run, daemon=True).start()
    return answer.result(seconds)


def look_from(client: DockerClient, image: str) -> Check | None:
    """Whether a container of this image, made for this alone, gets at the cards; None without the image."""
    from docker.errors import APIError, ContainerError, ImageNotFound

    try:
        client.images.get(image)
    except ImageNotFound:  # which run() would pull
        return None
    request = device_request("all", _cdi.access(client.info()))
    try:
        output = client.containers.run(
            image,
            COMMAND[1:],
            entrypoint=COMMAND[0],
            device_requests=[request],
            network_mode="none",
            remove=True,
            stderr=True,
        )
    except ContainerError as error:
        said = error.stderr or b""
        text = said if isinstance(said, str) else said.decode(errors="replace")
        return _judged(NEW, error.exit_status, text.strip())
    except APIError as error:
        return check(NEW, False, error.explanation, WANTED, _refused(str(error.explanation)))
    return _judged(NEW, 0, output.decode(errors="replace").strip())


def _refused(said: str) -> str:
    if "could not select device driver" in said:
        return (
            "dockerd found no NVIDIA container toolkit as it started: install it (role "
            "nvidia_container_toolkit) and restart dockerd."
        )
    if "unresolvable CDI devices" in said or "CDI device injection failed" in said:
        return "The CDI specifications are out of date: 'systemctl restart nvidia-cdi-refresh'."
    return explain(said).remedy + "."


def _judged(name: str, code: int, said: str) -> Check:
    if code in _CANNOT_RUN:
        # With NVIDIA_DRIVER_CAPABILITIES of its own an image may have left it out.
        return check(name, True, "no nvidia-smi in it to ask", WANTED, "")
    cards = [line for line in said.splitlines() if line.startswith("GPU ")]
    if code == 0 and cards:
        return check(name, True, f"{len(cards)} card(s)", WANTED, "")
    problem = explain(said, code)
    return check(name, False, problem.message, WANTED, f"{problem.remedy}.")
