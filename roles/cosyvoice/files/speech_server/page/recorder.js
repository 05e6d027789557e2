// SPDX-FileCopyrightText: Voicefleet contributors
// SPDX-License-Identifier: GPL-3.0-or-later
// The microphone. What it hears stays here until the page sends it along.

const LONGEST_SECONDS = 15; // longer ones make the model repeat itself
const BITS_PER_SECOND = 128000;

/** Whether this page may ask for a microphone at all. */
export const possible = () => Boolean(navigator.mediaDevices?.getUserMedia && globalThis.MediaRecorder);

/** One recording, from `start` until `stop`, or until it is long enough. */
export class Recorder {
  #media;
  #stream;
  #listening;
  #began;
  #timer;

  /** `hear` is told seconds and loudness (0 to 1) as it goes on, `done` gets the recording and its seconds. */
  async start(hear, done) {
    // The voice as it is: what browsers do for calls takes something away from it.
    const wishes = { channelCount: 1, echoCancellation: false, noiseSuppression: false };
    this.#stream = await navigator.mediaDevices.getUserMedia({ audio: wishes });
    const pieces = [];
    this.#media = new MediaRecorder(this.#stream, { audioBitsPerSecond: BITS_PER_SECOND });
    this.#media.addEventListener("dataavailable", ({ data }) => pieces.push(data));
    this.#media.addEventListener("stop", () => {
      const seconds = this.#seconds();
      this.#close();
      done(new Blob(pieces, { type: this.#media.mimeType }), seconds);
    });
    this.#media.start();
    this.#began = performance.now();
    this.#listen(hear);
  }

  stop() {
    if (this.#media?.state === "recording") this.#media.stop();
  }

  #seconds() {
    return (performance.now() - this.#began) / 1000;
  }

  #listen(hear) {
    this.#listening = new AudioContext();
    const ear = this.#listening.createAnalyser();
    this.#listening.createMediaStreamSource(this.#stream).connect(ear);
    const samples = new Float32Array(ear.fftSize);
    this.#timer = setInterval(() => {
      ear.getFloatTimeDomainData(samples);
      hear(this.#seconds(), Math.sqrt(Math.max(...samples.map(Math.abs))));
      if (this.#seconds() >= LONGEST_SECONDS) this.stop();
    }, 50);
  }

  #close() {
    clearInterval(this.#timer);
    this.#listening.close();
    for (const track of this.#stream.getTracks()) track.stop();
  }
}
