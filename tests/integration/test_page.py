# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page at / as its visitors meet it: in a real browser, through Traefik with the role's middlewares.

At 127.0.0.1 two replicas of the engine cosyvoice3 on the stand-in of upstream, whose voices are tones; at
localhost one of the engine piper. Both are the image with this tree's server, as gpu_service starts it.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import typing as t
import urllib.request
import wave
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from browser import Visitor, chromium
from patience import until
from playwright.sync_api import Browser, expect
from recorded_voices import (
    PYTHONPATH,
    TRANSCRIPT,
    model,
    speech_server_image,
    stand_in_volumes,
    tone,
    voice,
)

ROOT = Path(__file__).parents[2]
ANNA_HZ, BERT_HZ, VISITOR_HZ, FILE_HZ = 200, 320, 260, 410
PHONE = {
    "viewport": {"width": 360, "height": 740},
    "is_mobile": True,
    "has_touch": True,
    "color_scheme": "dark",
}
SENTENCE = "The rain has stopped, and the street is quiet again this evening."
# Minutes of sound, which the stand-in makes in a second; as mp3 they take some more.
LONG_TEXT = f"{SENTENCE} " * 60


def heard(content: bytes) -> tuple[float, float]:
    """Seconds and pitch of a wav file."""
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 24000)
        data = file.readframes(file.getnframes())
    assert len(data) == len(content) - 44, "the header does not say how much follows"
    samples = struct.unpack(f"<{len(data) // 2}h", data)
    crossings = sum((one < 0) != (other < 0) for one, other in pairwise(samples))
    seconds = len(samples) / 24000
    return seconds, crossings / 2 / seconds


class Service:
    """Traefik and what is behind it."""

    def __init__(self, lab: t.Any, path: Path) -> None:
        self._lab, self._path = lab, path
        self._network = lab.network("page").name
        dynamic = path / "dynamic"
        dynamic.mkdir(mode=0o755)
        self._middlewares(dynamic / "middlewares.yml")
        self._model, self._voices = path / "model", path / "voices"
        model(self._model)
        for name, hertz in (("anna", ANNA_HZ), ("bert", BERT_HZ)):
            voice(self._voices / name, hertz)
        (self._voices / "bert/voice.yml").write_text("name: Bert from next door\n")
        self.traefik = lab.traefik(dynamic=dynamic, network=self._network)
        cloning = {
            "SPEECH_ENGINE": "cosyvoice3",
            "SPEECH_MODEL": "Fun-CosyVoice3-0.5B",
            "SPEECH_MODEL_DIR": "/model",
            "SPEECH_MAX_QUEUED": "0",
        }
        self.replicas = [
            self._replica(f"clone-{number}", "clone", "PathPrefix(`/`)", cloning) for number in (1, 2)
        ]
        self._replica("piper-1", "piper", "Host(`localhost`)", {})
        self.wait_for("clone", 2)
        port = self.traefik.ports["80"].split(":")[1]
        self.url, self.piper_url = f"http://127.0.0.1:{port}/", f"http://localhost:{port}/"

    def wait_for(self, service: str, replicas: int) -> None:
        """Until Traefik sends callers to that many."""

        def there(have: t.Any) -> bool:
            found = [
                each.get("serverStatus", {}) for each in have.services if each["name"] == f"{service}@docker"
            ]
            return [list(each.values()).count("UP") for each in found] == [replicas]

        self.traefik.wait_for(there, seconds=300)

    @staticmethod
    def _middlewares(dest: Path) -> None:
        role = ROOT / "roles/traefik"
        arguments = f"src={role / 'templates/middlewares.yml.j2'} dest={dest} mode=0644"
        variables = [f"--extra-vars=@{role / part / 'main.yml'}" for part in ("defaults", "vars")]
        subprocess.run(
            ["ansible", "localhost", "-m", "ansible.builtin.template", "-a", arguments, *variables],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
            check=True,
            capture_output=True,
        )

    def _replica(self, name: str, service: str, rule: str, environment: dict[str, str]) -> t.Any:
        router, server = f"traefik.http.routers.{service}", f"traefik.http.services.{service}.loadbalancer"
        container = self._lab.engine.containers.create(
            speech_server_image(self._lab.engine),
            name=f"{self._lab.id}-{name}",
            labels={
                "vf.test": self._lab.id,
                "traefik.enable": "true",
                f"{router}.rule": rule,
                f"{router}.middlewares": "security-headers@file,retry@file",
                f"{server}.server.port": "7860",
            },
            environment={
                "PYTHONPATH": PYTHONPATH,
                "SPEECH_REPLICA": name,
                "SPEECH_THREADS": "1",
                **environment,
            },
            volumes=stand_in_volumes(self._model, self._voices),
            healthcheck={
                "test": ["CMD", "python3", "-I", "-S", "-E", "/opt/speech/speech_server/healthcheck.py"],
                "interval": 10**9,
                "timeout": 10**10,
                "retries": 30,
            },
            network=self._network,
            # As gpu_service has it.
            read_only=True,
            tmpfs={"/tmp": "mode=1777"},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            user="10001:10001",
        )
        self._lab.made.append(container)
        container.start()
        return container

    def address(self, container: t.Any) -> str:
        container.reload()
        found: str = container.attrs["NetworkSettings"]["Networks"][self._network]["IPAddress"]
        return found

    def metric(self, name: str) -> float:
        """Of the replicas that clone, together."""
        total = 0.0
        for container in self.replicas:
            with urllib.request.urlopen(f"http://{self.address(container)}:7860/metrics") as answer:
                for line in answer.read().decode().splitlines():
                    if line.startswith(f"speech_{name} "):
                        total += float(line.split()[1])
        return total


@pytest.fixture(scope="module")
def service(lab: t.Any, tmp_path_factory: pytest.TempPathFactory) -> Service:
    return Service(lab, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    microphone = tmp_path_factory.mktemp("microphone") / "voice.wav"
    microphone.write_bytes(tone(VISITOR_HZ, seconds=20))
    with chromium(microphone) as browser:
        yield browser


@pytest.fixture
def visit(service: Service, browser: Browser) -> Iterator[Callable[..., Visitor]]:
    """Open the page; what went wrong unseen fails the test at its end."""
    visitors: list[Visitor] = []

    def begin(url: str = "", **options: t.Any) -> Visitor:
        visitors.append(Visitor(browser, url or service.url, **options))
        visitors[-1].hears("Ready|就绪")
        return visitors[-1]

    yield begin
    faults = [fault for visitor in visitors for fault in visitor.faults()]
    for visitor in visitors:
        visitor.close()
    assert not faults


def speaks(visitor: Visitor, act: Callable[[], None] | None = None) -> tuple[float, float]:
    """Have it spoken; seconds and pitch of what is offered for download."""
    (act or visitor.at("speak").click)()
    visitor.hears("^Spoken")
    return heard(visitor.download(visitor.offered))


def test_a_voice_by_keyboard_alone(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    keys = visitor.page.keyboard
    assert visitor.tab_to("speak")[:2] == ["language", "source"]
    keys.press("Shift+Tab")
    while visitor.focused() != "voice":
        keys.press("Shift+Tab")
    keys.type("Bert")
    visitor.tab_to("text")
    keys.press("Control+A")
    keys.type("The street is quiet again this evening.")
    keys.press("Control+Enter")
    visitor.hears("^Spoken. First audio after [0-9.]+ s")
    assert visitor.focused() == "text"
    assert re.fullmatch(r"[0-9.]+ s", visitor.at("first-audio").inner_text())
    visitor.tab_to("download")
    seconds, pitch = heard(visitor.download(lambda: keys.press("Enter")))
    assert seconds == pytest.approx(39 / 15, abs=0.3)
    assert pitch == pytest.approx(BERT_HZ, rel=0.05)
    assert visitor.at("length").inner_text() == f"{seconds:.2f} s"
    assert not visitor.inaccessible()


def test_it_is_heard_to_its_end_and_once_more_from_the_middle(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    button = visitor.page.locator("#answer button")
    expect(button).to_be_disabled()
    seconds, _pitch = speaks(visitor)
    position = visitor.page.locator("#answer input")
    expect(button).to_have_accessible_name("Pause")
    expect(button).to_have_accessible_name("Play", timeout=1000 * (seconds + 20))
    assert float(position.input_value()) == pytest.approx(seconds, abs=0.1)
    position.focus()
    visitor.page.keyboard.press("Home")
    button.click()
    expect(position).to_have_attribute("aria-valuetext", re.compile("^0.[5-9] of"))
    button.click()
    expect(button).to_have_accessible_name("Play")
    held = position.input_value()
    visitor.page.wait_for_timeout(300)
    assert position.input_value() == held


def test_a_server_may_have_no_voice_yet(visit: Callable[..., Visitor]) -> None:
    chosen = visit().page.evaluate(
        """async () => {
          const { Voices } = await import("/page/voices.js");
          return [[], [{ id: "anna", name: "Anna" }]].map((voices) => {
            Voices.prototype.list(voices);
            return document.getElementById("voice").value;
          });
        }"""
    )
    assert chosen == ["", "anna"]


def test_sound_that_comes_late_and_in_odd_pieces(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    speaks(visitor)  # a page that nobody has touched yet may not sound
    samples = visitor.page.evaluate(
        """async () => {
          const { Samples } = await import("/page/sound.js");
          const samples = new Samples();
          return [[0], [64, 0], [192]].flatMap((piece) => [...samples.take(new Uint8Array(piece))]);
        }"""
    )
    assert samples == [0.5, -0.5]
    waited = visitor.page.evaluate(
        """async () => {
          const { Player } = await import("/page/player.js");
          const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
          const element = document.createElement("div");
          const player = new Player(element);
          player.begin();
          player.play();
          await pause(1);
          player.add(new Float32Array(12000), 24000);
          player.end();
          const came = performance.now();
          while (element.querySelector("button").ariaLabel !== "Play") await pause(0.01);
          return (performance.now() - came) / 1000;
        }"""
    )
    assert 0.45 < waited < 10  # half a second of sound, heard from its beginning


def test_a_recording_of_ones_own_by_keyboard_on_every_replica(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    keys = visitor.page.keyboard
    visitor.tab_to("source")
    keys.press("ArrowRight")
    visitor.tab_to("record")
    keys.press("Space")
    visitor.hears("^Recording")
    expect(visitor.at("record-label")).to_have_text(re.compile("Stop, 3.[0-9] s"))
    assert float(visitor.at("level").get_attribute("value") or 0) > 0.1
    assert visitor.focused() == "record"
    keys.press("Space")
    visitor.hears("^Recorded 3.[0-9] s")
    assert visitor.at("transcript").input_value() == visitor.at("prompt").inner_text()
    visitor.tab_to("speak")
    with visitor.page.expect_request("**/v1/audio/speech") as sent:
        speaks(visitor, lambda: keys.press("Enter"))
    assert sent.value.post_data_json["ref_text"] == visitor.at("prompt").inner_text()
    replicas = set()
    for _try in range(30):
        seconds, pitch = speaks(visitor, lambda: keys.press("Enter"))
        assert seconds > 2
        assert pitch == pytest.approx(VISITOR_HZ, rel=0.05)
        replicas.add(visitor.at("replica").inner_text())
        if len(replicas) == 2:
            break
    assert replicas == {"clone-1", "clone-2"}
    assert visitor.focused() == "speak"
    assert not visitor.inaccessible()


def test_a_file_on_a_dark_phone(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    visitor = visit(**PHONE)
    for way in ("listed", "own"):
        wide = visitor.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= PHONE["viewport"]["width"], way
        small = visitor.page.evaluate(
            """() => [...document.querySelectorAll("button, select, .choice, .file label, textarea")]
              .filter((each) => each.checkVisibility() && each.getBoundingClientRect().height < 44)
              .map((each) => each.outerHTML)"""
        )
        assert not small
        assert not visitor.inaccessible()
        visitor.page.locator(".choice", has=visitor.at("own")).tap()
    file = tmp_path / "voice.wav"
    file.write_bytes(tone(FILE_HZ, seconds=20, rate_hz=48000))  # more than Traefik keeps to try it elsewhere
    visitor.at("file").set_input_files(file)
    visitor.hears("^Taken: voice.wav")
    visitor.at("transcript").fill(TRANSCRIPT)
    _seconds, pitch = speaks(visitor, visitor.at("speak").tap)
    assert pitch == pytest.approx(FILE_HZ, rel=0.05)
    expect(visitor.page.locator("#answer")).to_be_in_viewport()
    dark = visitor.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert max(map(int, re.findall(r"\d+", dark))) < 60


def test_errors_in_the_words_of_the_api_at_the_field_they_are_about(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    visitor = visit()
    visitor.at("text").fill("???")
    visitor.at("speak").click()
    visitor.hears("^'input' has no letter and no digit that could be spoken.$")
    assert visitor.focused() == "text"
    expect(visitor.at("text")).to_have_attribute("aria-invalid", "true")
    visitor.at("text").fill("Now it has some.")
    visitor.page.locator(".choice", has=visitor.at("own")).click()
    visitor.at("speak").click()
    visitor.hears("^Record a voice, or take a file")
    assert visitor.focused() == "record"
    assert visitor.page.locator("[aria-invalid]").count() == 1
    file = tmp_path / "short.wav"
    file.write_bytes(tone(FILE_HZ, seconds=0.4))
    visitor.at("file").set_input_files(file)
    visitor.hears("^Taken")
    visitor.at("speak").click()
    visitor.hears("^The recording has 0.40 s; 1 s are the least.$")
    assert visitor.focused() == "record"
    expect(visitor.at("download")).to_have_attribute("aria-disabled", "true")


def test_busy_then_tried_again_by_itself(visit: Callable[..., Visitor], service: Service) -> None:
    visitor = visit()
    body = json.dumps({"input": LONG_TEXT, "response_format": "mp3"}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{service.url}v1/audio/speech", body, headers)
    with closing(urllib.request.urlopen(request)), closing(urllib.request.urlopen(request)):
        assert service.metric("in_flight") == 2
        visitor.at("speak").click()
        said = visitor.hears("^Busy, trying again in [0-9]+ s.$")
        if said != "Busy, trying again in 1 s.":
            expect(visitor.at("said")).not_to_have_text(said)  # it counts down, but only for the eye
            expect(visitor.at("status")).to_have_text(said)
    visitor.hears("^Spoken")


def test_cancelled_while_busy_and_while_speaking(visit: Callable[..., Visitor], service: Service) -> None:
    visitor = visit()
    cancel = visitor.at("cancel")
    expect(cancel).to_be_disabled()
    left = service.metric("callers_left_total")
    visitor.at("text").fill(LONG_TEXT)
    # As a slow network would: the answer is on its way when the visitor has had enough.
    network = visitor.context.new_cdp_session(visitor.page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": 200_000, "uploadThroughput": -1}
    network.send("Network.emulateNetworkConditions", slow)
    visitor.at("speak").click()
    expect(visitor.at("first-audio")).to_have_text(re.compile(" s$"))
    expect(cancel).to_be_enabled()
    cancel.click()
    visitor.hears("^Cancelled.$")
    assert visitor.focused() == "speak"
    until("noticed by a replica", lambda: service.metric("callers_left_total") > left)
    until("every slot free", lambda: not service.metric("in_flight"))
    seconds, _pitch = heard(visitor.download(visitor.offered))
    assert 0 < seconds < 200  # what had come is there
    assert visitor.page.locator("#answer button").get_attribute("aria-label") == "Play"


def test_a_cut_answer_is_called_one(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.at("text").fill(f"{SENTENCE} " * 5 + f"Slowly, Explode, {SENTENCE}")  # a piece of its own
    visitor.at("speak").click()
    visitor.hears("^The audio was cut off")
    seconds, _pitch = heard(visitor.download(visitor.offered))
    # Not all that came before: what the browser had not handed over yet goes with the connection (Streams
    # Standard, ReadableStreamError resets the queue), and the stand-in speaks faster than a page reads.
    assert seconds > 0.5


def test_in_chinese(visit: Callable[..., Visitor]) -> None:
    visitor = visit(locale="zh-CN")
    expect(visitor.page).to_have_title("试听声音")
    assert visitor.page.locator("html").get_attribute("lang") == "zh"
    assert visitor.at("text").input_value().startswith("你好")
    left = visitor.page.evaluate(
        """() => [...document.querySelectorAll("[data-say]")].map((each) => each.textContent)
          .filter((words) => !/[\\u4e00-\\u9fff]/.test(words))"""
    )
    assert not left
    visitor.at("speak").click()
    visitor.hears("^朗读完毕")
    visitor.at("language").select_option("en")
    expect(visitor.at("speak")).to_have_text("Speak")
    visitor.page.reload()
    visitor.hears("Ready")  # what was chosen is kept


def test_without_https_it_says_why_there_is_no_microphone(
    visit: Callable[..., Visitor], service: Service
) -> None:
    visitor = visit(f"http://{service.address(service.traefik.container)}/")
    visitor.page.locator(".choice", has=visitor.at("own")).click()
    visitor.at("record").click()
    visitor.hears("only to pages over HTTPS")


def test_the_headers_that_traefik_lets_through(visit: Callable[..., Visitor], service: Service) -> None:
    request = urllib.request.Request(service.url, headers={"Accept": "text/html"})
    with urllib.request.urlopen(request) as answer:
        headers = answer.headers
    assert headers.get_all("Permissions-Policy") == ["microphone=(self), camera=(), geolocation=()"]
    assert len(headers.get_all("Content-Security-Policy") or []) == 1
    assert headers["X-Frame-Options"] == "DENY"  # so that the role's middleware was there
    visitor = visit()
    done = visitor.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.foreign = true";
          document.body.append(script);
          const refused = window.foreign === undefined;
          return refused;
        }"""
    )
    assert done
    until("asked of the policy", lambda: visitor.page.evaluate("window.refused.length"))
    assert visitor.page.evaluate("window.refused.splice(0)") == ["script-src-elem inline"]
    visitor.noted.clear()


def test_an_engine_that_takes_no_recordings(visit: Callable[..., Visitor], service: Service) -> None:
    service.wait_for("piper", 1)
    visitor = visit(service.piper_url, locale="zh-CN")
    expect(visitor.at("own")).to_be_disabled()
    expect(visitor.at("own-hint")).to_have_text("引擎 piper 不支持")
    visitor.at("language").select_option("en")
    expect(visitor.at("own-hint")).to_have_text("not with the engine piper")
    expect(visitor.at("instructions")).to_be_disabled()
    assert visitor.at("text").input_value().startswith("Hello!")
    seconds, _pitch = speaks(visitor)
    assert seconds > 2
    assert not visitor.inaccessible()
