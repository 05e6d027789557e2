# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a model from ModelScope or Hugging Face, by these hubs' own client libraries.

This module util is private to the collection. The libraries lie in a directory of ours, where the host's
pip put them as it does for images: the host's own Python gets nothing. They run in a process of their own,
because they read their settings when they are imported, write to standard output as they like, and may hang;
and it ends with us. What they have fetched is seen from the size of the files, whichever of them it is.

A connection that breaks is taken up again where it broke, within a run and from one to the next: both
libraries keep the beginning of a file and ask for the rest. huggingface_hub 0.36 does so. Its release 2.4
begins anew in the next run, as its temporary files are of one process alone (its pull request 4228).
hf_xet is left out: it fetches from addresses of its own, which mirrors do not have.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import functools
import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._tools import ToolError, redact
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._weights_manifest import (
    Entry,
    WeightsError,
    safe_name,
)
from ansible_collections.voicefleet.cosyvoice.plugins.module_utils._wheels import install_wheels

ENDPOINTS = {"modelscope": "https://modelscope.cn", "huggingface": "https://huggingface.co"}
NAMES = {"modelscope": "ModelScope", "huggingface": "Hugging Face"}
# What the libraries themselves need.
OLDEST_PYTHON = (3, 10)
FILES_AT_ONCE = 4
# How often a file is taken up again without a byte more than the time before.
ATTEMPTS = 5
LONGEST_PAUSE_SECONDS = 30.0
POLL_SECONDS = 1.0
PIECE_BYTES = 2**20
_PR_SET_PDEATHSIG = 1

Tell = t.Callable[[], None]


@dataclass(frozen=True)
class Hub:
    """Where a model's files are, and as whom to ask for them."""

    kind: str
    repository: str
    ref: str
    endpoint: str
    token: str

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.repository} at {self.ref} on {redact(self.endpoint)}"


def installed(requirements: str, cache: str) -> str:
    """The directory that holds the libraries for this Python, empty if there is none."""
    place = _place(requirements, cache)
    return str(place) if place.is_dir() else ""


def install(requirements: str, cache: str) -> str:
    """Fill that directory, by the host's pip. Raises WeightsError."""
    if sys.version_info < OLDEST_PYTHON:
        raise WeightsError(
            f"The hubs' client libraries need Python {'.'.join(map(str, OLDEST_PYTHON))} or newer, and "
            f"{sys.executable} is {'.'.join(map(str, sys.version_info[:2]))}. Set "
            "ansible_python_interpreter to a newer one, or bring the files as a directory or an archive."
        )
    target = _place(requirements, cache)
    python = target.name.rpartition("-")[2]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as fresh:
        file = Path(fresh) / "requirements.txt"
        file.write_text(requirements, encoding="utf-8")
        try:
            install_wheels(sys.executable, file, Path(cache) / "wheels" / python, Path(fresh) / "libraries")
        except ToolError as error:
            raise WeightsError(f"The hubs' client libraries cannot be had: {error}") from error
        for other in target.parent.glob(f"*-{python}"):
            shutil.rmtree(other)
        os.rename(Path(fresh) / "libraries", target)
    return str(target)


def _place(requirements: str, cache: str) -> Path:
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    return Path(cache) / "libraries" / f"{hashlib.sha256(requirements.encode()).hexdigest()[:12]}-{python}"


def list_files(libraries: str, hub: Hub) -> list[Entry]:
    """All files of the revision. Raises WeightsError."""
    with tempfile.TemporaryDirectory() as home:
        return t.cast("list[Entry]", _in_a_process(libraries, hub, home, _list, (), lambda: None))


def fetch(
    libraries: str,
    hub: Hub,
    entries: t.Sequence[Entry],
    directory: str,
    tell: Tell,
    warn: t.Callable[[str], None],
) -> None:
    """Bring files into the directory, going on with what is there of them. Raises WeightsError."""
    home = os.path.join(directory, ".hub")
    _in_a_process(libraries, hub, home, _fetch, (list(entries), directory), tell, warn)


def _in_a_process(
    libraries: str,
    hub: Hub,
    home: str,
    what: t.Callable[..., t.Any],
    arguments: tuple[t.Any, ...],
    tell: Tell,
    warn: t.Callable[[str], None] = lambda _text: None,
) -> t.Any:
    """What the function answers there. C(tell) is called about once a second meanwhile."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_work, args=(os.getpid(), libraries, hub, home, what, arguments, theirs), daemon=True
    )
    process.start()
    theirs.close()
    try:
        while True:
            tell()
            if not ours.poll(POLL_SECONDS):
                continue
            try:
                kind, value = ours.recv()
            except EOFError:
                process.join()
                raise WeightsError(
                    f"The client library of {NAMES[hub.kind]} ended without a word (code "
                    f"{process.exitcode}), as when memory ran out. Run the same again: it goes on from what "
                    "is there."
                ) from None
            if kind == "warning":
                warn(value)
            elif kind == "failed":
                raise WeightsError(value)
            else:
                return value
    finally:
        process.kill()
        process.join()


def _work(
    parent: int,
    libraries: str,
    hub: Hub,
    home: str,
    what: t.Callable[..., t.Any],
    arguments: tuple[t.Any, ...],
    answer: t.Any,
) -> None:
    """The process: its settings, then the function, then its answer."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.makedirs(home, exist_ok=True)
    for name in list(os.environ):
        if name.startswith(
            ("HF_", "HUGGING", "MODELSCOPE_")
        ):  # Whoever logs in as this user has settings of his own.
            del os.environ[name]
    os.environ.update(
        HOME=home,
        HF_HOME=home,
        HF_ENDPOINT=hub.endpoint,
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_HUB_ETAG_TIMEOUT="30",
        HF_HUB_DOWNLOAD_TIMEOUT="30",
        MODELSCOPE_HOME=home,
        MODELSCOPE_CACHE=home,
        MODELSCOPE_ENDPOINT=hub.endpoint,
        # Several files at once are enough, and the parts of one take twice the room.
        MODELSCOPE_DOWNLOAD_PARALLEL_WORKERS="1",
        TQDM_DISABLE="1",
    )
    sys.path.insert(0, libraries)
    lock = multiprocessing.get_context("fork").Lock()

    def send(kind: str, value: t.Any) -> None:
        with lock:
            answer.send((kind, value))

    try:
        send("done", what(hub, *arguments, lambda text: send("warning", text)))
    except WeightsError as error:
        send("failed", str(error))
    except Exception as error:
        send("failed", _why(hub, error))


def _list(hub: Hub, warn: t.Callable[[str], None]) -> list[Entry]:
    listed = _list_huggingface if hub.kind == "huggingface" else _list_modelscope
    entries: list[Entry] = _patiently(hub, lambda: listed(hub), warn)
    return entries


def _list_huggingface(hub: Hub) -> list[Entry]:
    from huggingface_hub import HfApi

    info = HfApi(endpoint=hub.endpoint, token=hub.token or False).model_info(
        hub.repository, revision=hub.ref, files_metadata=True, timeout=60
    )
    return [
        Entry(
            safe_name(file.rfilename, hub.where),
            file.size or 0,
            file.lfs.sha256 if file.lfs else "",
            "" if file.lfs else file.blob_id or "",
        )
        for file in info.siblings or []
    ]


def _list_modelscope(hub: Hub) -> list[Entry]:
    from modelscope_hub import HubApi

    files = HubApi(endpoint=hub.endpoint, token=hub.token or None).list_repo_files(
        hub.repository, "model", revision=hub.ref
    )
    return [
        Entry(safe_name(file.path, hub.where), file.size, (file.sha256 or "").lower())
        for file in files
        if not file.is_dir
    ]


def _fetch(hub: Hub, entries: t.Sequence[Entry], directory: str, warn: t.Callable[[str], None]) -> None:
    one = (
        _one_from_huggingface(hub, directory)
        if hub.kind == "huggingface"
        else _one_from_modelscope(hub, directory)
    )
    with concurrent.futures.ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        waiting = [
            pool.submit(_patiently, hub, functools.partial(one, entry), warn, entry.name, directory)
            # The largest first, so that it does not come alone at the end.
            for entry in sorted(entries, key=lambda entry: -entry.size)
        ]
        for done in concurrent.futures.as_completed(waiting):
            if error := done.exception():
                pool.shutdown(wait=False, cancel_futures=True)
                raise error


def _one_from_huggingface(hub: Hub, directory: str) -> t.Callable[[Entry], None]:
    from huggingface_hub import constants, hf_hub_download

    # What has come of a piece is lost with its connection: with the library's own 10 MiB nothing would ever
    # come through one that breaks sooner.
    constants.DOWNLOAD_CHUNK_SIZE = PIECE_BYTES

    def one(entry: Entry) -> None:
        hf_hub_download(
            hub.repository,
            entry.name,
            revision=hub.ref,
            local_dir=directory,
            endpoint=hub.endpoint,
            token=hub.token or False,
        )

    return one


def _one_from_modelscope(hub: Hub, directory: str) -> t.Callable[[Entry], None]:
    from modelscope_hub import HubApi

    api = HubApi(endpoint=hub.endpoint, token=hub.token or None)

    def one(entry: Entry) -> None:
        # Its content is compared later, and its message then is ours; here it would be fetched three times.
        api.download_file(
            hub.repository, "model", entry.name, revision=hub.ref, local_dir=directory, file_size=entry.size
        )

    return one


def _patiently(
    hub: Hub,
    action: t.Callable[[], t.Any],
    warn: t.Callable[[str], None],
    name: str = "",
    directory: str = "",
) -> t.Any:
    """Do it, and again after what passes by itself, as long as it gets any further."""
    attempt, size = 0, _fetched(directory)
    while True:
        try:
            return action()
        except Exception as error:
            now = _fetched(directory)
            attempt, size = (0 if now > size else attempt) + 1, now
            if attempt >= ATTEMPTS or not _passes(error):
                raise WeightsError(_why(hub, error, name)) from error
            pause = min(_asked_to_wait(error) or 2.0 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
            warn(f"{name or 'the list of files'}: {_short(error)}; once more in {pause:.0f} s")
            time.sleep(pause)


def _fetched(directory: str) -> int:
    total = 0
    for place, _directories, files in os.walk(directory) if directory else ():
        for file in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, file)).st_size
    return total


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error, if there was an answer at all."""
    while True:
        response = getattr(error, "response", None)
        for code in (getattr(response, "status_code", None), getattr(error, "status_code", None)):
            if isinstance(code, int):
                return code
        cause = error.__cause__ or error.__context__
        if cause is None:
            return None
        error = cause


def _passes(error: BaseException) -> bool:
    """Whether the same may go well in a moment: no connection, too many requests, a server's fault."""
    status = _status(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    return not (isinstance(error, OSError) and error.errno in (13, 28, 30))


def _asked_to_wait(error: BaseException) -> float:
    response = getattr(error, "response", None)
    with contextlib.suppress(AttributeError, TypeError, ValueError):
        return float(response.headers.get("Retry-After"))  # type: ignore[union-attr]
    return 0.0


def _short(error: BaseException) -> str:
    status = _status(error)
    while error.__cause__ is not None:  # The libraries' own say only that something went wrong.
        error = error.__cause__
    text = redact(str(error).strip()).splitlines()
    return (
        f"answered {status}"
        if status
        else f"{type(error).__name__}: {text[0][:200] if text else 'no reason given'}"
    )


def _why(hub: Hub, error: BaseException, name: str = "") -> str:
    """The error in words that say what to do."""
    what = f"{name} of {hub.where}" if name else hub.where
    status = _status(error)
    if status in (401, 403):
        return (
            f"{what}: {NAMES[hub.kind]} answered {status}. A model that is not public wants a token of an "
            "account that may read it; Hugging Face also answers so for one that does not exist."
        )
    if status == 404:
        return (
            f"{what}: {NAMES[hub.kind]} answered 404. Compare the repository's name and the revision with "
            "its page."
        )
    if isinstance(error, OSError) and error.errno == 28:
        return (
            f"{what}: no space left on the device. Make room and run the same again: it goes on from what is "
            "there."
        )
    return (
        f"{what}: {_short(error)}, {ATTEMPTS} times. What was fetched is kept, and the same run goes on "
        "from there. If the hub cannot be reached from this host, name a mirror as its endpoint, or bring "
        "an archive or a directory."
    )
