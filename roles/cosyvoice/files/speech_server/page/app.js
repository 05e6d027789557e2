// SPDX-FileCopyrightText: Voicefleet contributors
// SPDX-License-Identifier: GPL-3.0-or-later
// The page: a form that becomes a wish, and the answer as it arrives.

import { ApiError, get, patiently, speak } from "./api.js";
import { Player } from "./player.js";
import { Samples, context } from "./sound.js";
import { begin, choose, chosen, words } from "./strings.js";
import { Voices } from "./voices.js";

const FIELDS = {
  input: "text",
  voice: "voice",
  ref_audio: "record",
  ref_text: "transcript",
  speed: "speed",
  instructions: "instructions",
};
const still = matchMedia("(prefers-reduced-motion: reduce)");
const by = (id) => document.getElementById(id);

let running = null; // the AbortController of the request in hand
let example = by("text").defaultValue;

begin();
const voices = new Voices(say);
const player = new Player(by("answer"));

/** Show a sentence; those who listen to the page hear it too, unless it only counts on. */
function say(sentence, aloud = true) {
  by("said").textContent = sentence;
  if (aloud) by("status").textContent = sentence;
}

function busy(left, first) {
  say(words("busy", { seconds: left }), first);
}

/** Whether something is being waited for: what can be pressed now, and what cannot. */
function wait(controller) {
  running = controller;
  by("cancel").disabled = !controller;
  by("speak").setAttribute("aria-disabled", Boolean(controller)); // `disabled` would lose the focus
}

/** An example in the language of the page, as long as the visitor has not written a text. */
function exemplify() {
  if (by("text").value !== example) return;
  // Only an engine that takes recordings surely speaks more than one language.
  example = by("text").value = words("example", {}, by("own").disabled ? "en" : chosen());
}

function wish() {
  const speed = by("speed").valueAsNumber;
  const instructions = by("instructions").value.trim();
  return {
    input: by("text").value,
    response_format: "pcm",
    ...voices.wish(),
    ...(speed !== 1 && { speed }),
    ...(instructions && { instructions }),
  };
}

function figures(values) {
  for (const [id, value] of Object.entries(values)) by(id).textContent = value;
}

const seconds = (value) => words("seconds", { seconds: value.toFixed(2) });

function reveal(id) {
  by(id).scrollIntoView({ block: "nearest", behavior: still.matches ? "auto" : "smooth" });
}

function blame(param) {
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  const field = by(FIELDS[param]);
  if (!field) return;
  field.setAttribute("aria-invalid", "true");
  if (by("how").contains(field)) by("how").open = true;
  field.focus();
}

function offer(file) {
  const link = by("download");
  if (link.href) URL.revokeObjectURL(link.href);
  if (file) link.href = URL.createObjectURL(file);
  else link.removeAttribute("href");
  link.setAttribute("aria-disabled", !file);
}

/** One request, until the last sample is there. */
async function perform(body, signal) {
  let sent;
  const response = await patiently(
    () => {
      sent = performance.now();
      say(words("speaking"));
      return speak(body, signal);
    },
    signal,
    busy,
  );
  const since = () => (performance.now() - sent) / 1000;
  const rateHz = Number(response.headers.get("X-Sample-Rate"));
  const samples = new Samples();
  let first = null;
  figures({ replica: response.headers.get("X-Replica") ?? "–" });
  try {
    const reader = response.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      if (first === null) {
        first = since();
        reveal("bar");
        reveal("answer");
      }
      player.add(samples.take(part.value), rateHz);
      figures({ "first-audio": seconds(first), length: seconds(player.seconds) });
    }
    if (first === null) throw new ApiError(words("silent"));
    figures({ "all-after": seconds(since()) });
    say(words("done", { seconds: first.toFixed(2) }));
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError(words("cut"));
  } finally {
    if (player.seconds) offer(samples.wav(rateHz));
  }
}

async function submit() {
  if (running) return;
  context(); // while this still counts as the visitor's doing
  blame(null);
  const controller = new AbortController();
  try {
    const body = wish();
    wait(controller);
    offer(null);
    figures({ "first-audio": "–", "all-after": "–", length: "–", replica: "–" });
    player.begin();
    player.play();
    await perform(body, controller.signal);
  } catch (error) {
    player.pause();
    say(error.name === "AbortError" ? words("cancelled") : error.message);
    blame(error.param);
    reveal("bar");
  } finally {
    player.end();
    if (document.activeElement === by("cancel")) by("speak").focus();
    wait(null);
  }
}

/** What the service is, and its voices. */
async function arrive() {
  say(words("loading_voices"));
  try {
    const version = await patiently(() => get("version"), undefined, busy);
    by("service").textContent = `${version.service} · ${version.engine}`;
    by("model").textContent = `${version.model} @ ${version.revision}`;
    voices.suits(version);
    exemplify();
    const { voices: list } = await patiently(() => get("v1/audio/voices"), undefined, busy);
    voices.list(list);
    if (!running) say(words(list.length ? "ready" : "need_recording"));
  } catch (error) {
    say(error.message);
  }
}

by("form").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
by("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) by("form").requestSubmit();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
by("cancel").addEventListener("click", () => running?.abort());
by("speed").addEventListener("input", () => {
  by("speed-shown").textContent = `${by("speed").valueAsNumber.toFixed(1)}×`;
});
by("language").value = chosen();
by("language").addEventListener("change", () => {
  choose(by("language").value, true);
  voices.say();
  player.say();
  exemplify();
});

arrive();
