// SPDX-FileCopyrightText: Voicefleet contributors
// SPDX-License-Identifier: GPL-3.0-or-later
// Who speaks: one of the service's voices, or a recording that is kept here and sent along.

import { ApiError } from "./api.js";
import { Player } from "./player.js";
import { Recorder, possible } from "./recorder.js";
import { context } from "./sound.js";
import { words } from "./strings.js";

const ADVISED_SECONDS = 3;
const by = (id) => document.getElementById(id);

export class Voices {
  #say;
  #heard = new Player(by("heard"));
  #recorder = null;
  #recording = null; // a data: URL
  #engine = "";

  /** `say` shows a sentence to the visitor. */
  constructor(say) {
    this.#say = say;
    for (const each of document.getElementsByName("source")) {
      each.addEventListener("change", () => this.#choose());
    }
    by("record").addEventListener("click", () => this.#record());
    by("file").addEventListener("change", () => this.#take(by("file").files[0]));
    addEventListener("pagehide", () => this.#recorder?.stop());
    this.#choose(); // a browser may come back with what was chosen before
    this.say();
  }

  /** Put the words of the language of now. */
  say() {
    by("prompt").textContent = words("prompt");
    if (this.#engine) {
      const why = words("not_here", { engine: this.#engine });
      by("own-hint").textContent = by("instructions").placeholder = why;
    }
    this.#heard.say();
  }

  /** The voices there are; before the first is laid down there is none. */
  list(voices) {
    const before = by("voice").value;
    by("voice").replaceChildren(...voices.map(({ id, name }) => new Option(name, id)));
    by("voice").value = voices.some(({ id }) => id === before) ? before : (voices[0]?.id ?? "");
  }

  /** What the engine can do; one that takes no recordings is named where they would be given. */
  suits({ engine, modes }) {
    if (modes.includes("zero_shot")) return;
    this.#engine = engine;
    by("own").disabled = by("instructions").disabled = true; // such an engine follows none either
    if (by("own").checked) document.getElementsByName("source")[0].click();
    this.say();
  }

  /** The part of a wish that says who speaks. */
  wish() {
    if (!by("own").checked) return { voice: by("voice").value };
    if (!this.#recording) throw new ApiError(words("need_recording"), "ref_audio");
    const text = by("transcript").value.trim();
    return { ref_audio: this.#recording, ...(text && { ref_text: text }) };
  }

  #choose() {
    by("of-voice").hidden = by("own").checked;
    by("of-recording").hidden = !by("own").checked;
    this.#recorder?.stop();
  }

  async #record() {
    if (this.#recorder) {
      this.#recorder.stop();
      return;
    }
    if (!possible()) {
      this.#say(words(isSecureContext ? "no_microphone" : "insecure"));
      return;
    }
    this.#heard.pause();
    this.#recorder = new Recorder();
    try {
      await this.#recorder.start(
        (seconds, loud) => {
          by("record-label").textContent = words("stop", { seconds: seconds.toFixed(1) });
          by("level").value = loud;
        },
        (blob, seconds) => this.#recorded(blob, seconds),
      );
      by("record").classList.add("recording");
      this.#say(words("recording"));
    } catch (error) {
      this.#recorder = null;
      const missing = error.name === "NotFoundError";
      this.#say(words(missing ? "no_microphone" : "microphone_refused", { reason: error.message }));
    }
  }

  async #recorded(blob, seconds) {
    this.#recorder = null;
    by("record").classList.remove("recording");
    by("record-label").textContent = words("record");
    by("level").value = 0;
    if (!by("transcript").value.trim()) by("transcript").value = words("prompt");
    await this.#keep(blob);
    const saying = seconds < ADVISED_SECONDS ? "recorded_short" : "recorded";
    this.#say(words(saying, { seconds: seconds.toFixed(1) }));
  }

  async #take(file) {
    if (!file) return;
    // The sentence that was proposed for the microphone is hardly what this one says.
    if (by("transcript").value === words("prompt")) by("transcript").value = "";
    await this.#keep(file);
    this.#say(words("taken", { name: file.name }));
  }

  async #keep(blob) {
    this.#recording = await new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.addEventListener("load", () => resolve(reader.result));
      reader.addEventListener("error", () => reject(reader.error));
      reader.readAsDataURL(blob);
    });
    this.#heard.begin();
    // A format this browser cannot play may still be one that the server reads.
    const sound = await blob.arrayBuffer().then((data) => context().decodeAudioData(data)).catch(() => null);
    if (sound) this.#heard.add(sound.getChannelData(0), sound.sampleRate);
    this.#heard.end();
  }
}
