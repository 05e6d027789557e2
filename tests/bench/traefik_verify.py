# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long one pass of traefik_verify over many routers takes, against a real Traefik.

    VOICEFLEET_TRAEFIK_IMAGE=... python tests/bench/traefik_verify.py [ROUTERS]

Run from the root of the checkout, with .collections on PYTHONPATH. Starts one Traefik with a file provider of
500 routers, expects every one of them by name, rule, service and entry point, and removes it.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import docker
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_api import ApiError, TraefikApi
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_checks import Expectations
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._traefik_verify import Verifier

PASSES = 15


def dynamic(routers: int) -> str:
    lines = [
        f"    r{number}: {{rule: 'Path(`/{number}`)', service: s, entryPoints: [web]}}"
        for number in range(routers)
    ]
    service = "    s: {loadBalancer: {servers: [{url: 'http://127.0.0.1:1'}]}}"
    return "\n".join(["http:", "  routers:", *lines, "  services:", service, ""])


def expected(routers: int) -> Expectations:
    return Expectations(
        provider="file",
        routers=[
            {"name": f"r{number}", "rule": f"Path(`/{number}`)", "service": "s", "entrypoints": ["web"]}
            for number in range(routers)
        ],
        exclusive=True,
    )


def milliseconds(verifier: Verifier) -> float:
    """Median of several passes, each of which must find everything as expected."""
    times = []
    for _ in range(PASSES):
        begin = time.perf_counter()
        result = verifier.look()
        times.append((time.perf_counter() - begin) * 1000)
        assert result.ok, result.message()
    return statistics.median(times)


def main() -> None:
    image = os.environ.get("VOICEFLEET_TRAEFIK_IMAGE")
    if not image:
        sys.exit("set VOICEFLEET_TRAEFIK_IMAGE to an image of Traefik on this engine")
    routers = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    engine = docker.from_env()
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        (Path(directory) / "routers.yml").write_text(dynamic(routers), encoding="utf-8")
        traefik = engine.containers.run(
            image,
            ["--api.insecure=true", "--entrypoints.web.address=:80", "--providers.file.directory=/dynamic"],
            detach=True,
            volumes={directory: {"bind": "/dynamic", "mode": "ro"}},
            ports={"8080/tcp": ("127.0.0.1", 0)},
        )
        try:
            traefik.reload()
            bound = traefik.ports["8080/tcp"] or []
            url = f"http://127.0.0.1:{bound[0]['HostPort']}"
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                try:
                    if len(TraefikApi(url).snapshot().routers) >= routers:
                        break
                except ApiError:
                    pass
                time.sleep(0.2)
            for per_page in (1000, 100):
                verifier = Verifier(TraefikApi(url, per_page=per_page), expected(routers))
                count = len(verifier.look().checks)
                print(
                    f"{routers} routers, {count} checks, pages of {per_page}: "
                    f"{milliseconds(verifier):.0f} ms a pass (median of {PASSES})"
                )
        finally:
            traefik.remove(force=True, v=True)


if __name__ == "__main__":
    main()
