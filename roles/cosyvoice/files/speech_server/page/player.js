// SPDX-FileCopyrightText: Voicefleet contributors
// SPDX-License-Identifier: GPL-3.0-or-later
// A player for sound that may still be arriving: a button, a waveform to move about in, the time.

import { context } from "./sound.js";
import { words } from "./strings.js";

const START_SECONDS = 0.06; // from a decision to the sound, so that nothing is scheduled into the past
const PEAK_SECONDS = 0.02;
const LEAST_SPAN_SECONDS = 3; // of the whole waveform, while little has arrived
const BAR_PIXELS = 3;
const GAP_PIXELS = 2;

export class Player {
  #button;
  #canvas;
  #range;
  #time;
  #parts = []; // {buffer, start}
  #peaks = []; // the loudest sample of each PEAK_SECONDS
  #sources = new Set();
  #seconds = 0;
  #complete = true;
  #playing = false;
  #held = 0; // the position while nothing plays
  #zero = 0; // when position 0 was, or would have been, on the context's clock

  constructor(element) {
    element.append(document.getElementById("player").content.cloneNode(true));
    this.#button = element.querySelector("button");
    this.#canvas = element.querySelector("canvas");
    this.#range = element.querySelector("input");
    this.#time = element.querySelector(".time");
    this.#button.addEventListener("click", () => (this.#playing ? this.pause() : this.play()));
    this.#range.addEventListener("input", () => this.seek(this.#range.valueAsNumber));
    new ResizeObserver(() => this.#draw()).observe(this.#canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    this.say();
  }

  /** How much there is. */
  get seconds() {
    return this.#seconds;
  }

  /** Forget what was there; more is to come. */
  begin() {
    this.#silence();
    this.#parts = [];
    this.#peaks = [];
    this.#seconds = this.#held = 0;
    this.#playing = this.#complete = false;
    this.#show();
  }

  /** More sound, mono. */
  add(samples, rateHz) {
    if (!samples.length) return;
    const buffer = context().createBuffer(1, samples.length, rateHz);
    buffer.copyToChannel(samples, 0);
    this.#note(samples, rateHz);
    const part = { buffer, start: this.#seconds };
    this.#parts.push(part);
    this.#seconds += buffer.duration;
    if (this.#playing) {
      const late = context().currentTime - (this.#zero + part.start);
      // The sound before it has ended already: from here on all is later by as much.
      if (late > 0) this.#zero += late + START_SECONDS;
      this.#schedule(part, 0);
    }
    this.#show();
  }

  /** Nothing more comes. */
  end() {
    this.#complete = true;
    this.#show();
  }

  /** Play from where it is; from the start, if it is at the end. */
  play() {
    if (this.#complete && this.#held >= this.#seconds) this.#held = 0;
    this.#zero = context().currentTime + START_SECONDS - this.#held;
    this.#playing = true;
    for (const part of this.#parts) {
      const over = Math.max(this.#held - part.start, 0);
      if (over < part.buffer.duration) this.#schedule(part, over);
    }
    this.#tick();
  }

  pause() {
    this.#held = this.#position();
    this.#playing = false;
    this.#silence();
    this.#show();
  }

  seek(seconds) {
    const playing = this.#playing;
    if (playing) this.pause();
    this.#held = Math.min(seconds, this.#seconds);
    if (playing) this.play();
    else this.#show();
  }

  /** Put the words of the language of now. */
  say() {
    this.#range.ariaLabel = words("position");
    this.#show();
  }

  #position() {
    if (!this.#playing) return this.#held;
    return Math.min(Math.max(context().currentTime - this.#zero, 0), this.#seconds);
  }

  #schedule(part, offset) {
    const source = context().createBufferSource();
    source.buffer = part.buffer;
    source.connect(context().destination);
    source.addEventListener("ended", () => this.#sources.delete(source));
    source.start(this.#zero + part.start + offset, offset);
    this.#sources.add(source);
  }

  #silence() {
    for (const source of this.#sources) source.disconnect();
    this.#sources.clear();
  }

  #tick() {
    if (!this.#playing) return;
    if (this.#complete && this.#position() >= this.#seconds) {
      this.pause();
      return;
    }
    this.#show();
    requestAnimationFrame(() => this.#tick());
  }

  #note(samples, rateHz) {
    samples.forEach((sample, at) => {
      const peak = Math.floor((this.#seconds + at / rateHz) / PEAK_SECONDS);
      this.#peaks[peak] = Math.max(this.#peaks[peak] ?? 0, Math.abs(sample));
    });
  }

  #span() {
    return this.#complete && this.#seconds ? this.#seconds : Math.max(this.#seconds, LEAST_SPAN_SECONDS);
  }

  #show() {
    const position = this.#position().toFixed(1);
    const seconds = this.#seconds.toFixed(1);
    this.#button.disabled = this.#range.disabled = !this.#parts.length;
    this.#button.ariaLabel = words(this.#playing ? "pause" : "play");
    this.#button.classList.toggle("playing", this.#playing);
    this.#range.max = this.#span();
    this.#range.value = this.#position();
    this.#range.setAttribute("aria-valuetext", words("position_of", { position, seconds }));
    this.#time.textContent = `${position} / ${seconds}`;
    this.#draw();
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const scale = devicePixelRatio;
    if (!width) return;
    this.#canvas.width = Math.round(width * scale);
    this.#canvas.height = Math.round(height * scale);
    const style = getComputedStyle(this.#canvas);
    const [played, waiting] = [style.getPropertyValue("--accent"), style.getPropertyValue("--bar")];
    const brush = this.#canvas.getContext("2d");
    brush.scale(scale, scale);
    const bars = Math.floor((width + GAP_PIXELS) / (BAR_PIXELS + GAP_PIXELS));
    const peaksPerBar = this.#span() / PEAK_SECONDS / bars;
    const reached = (this.#position() / this.#span()) * bars;
    for (let bar = 0; bar < bars; bar += 1) {
      const from = Math.floor(bar * peaksPerBar);
      const peaks = this.#peaks.slice(from, Math.max(from + 1, Math.floor((bar + 1) * peaksPerBar)));
      const loud = Math.max(0, ...peaks.map((peak) => peak ?? 0));
      const high = Math.max(BAR_PIXELS, Math.sqrt(loud) * height);
      brush.fillStyle = bar < reached ? played : waiting;
      brush.beginPath();
      brush.roundRect(bar * (BAR_PIXELS + GAP_PIXELS), (height - high) / 2, BAR_PIXELS, high, BAR_PIXELS / 2);
      brush.fill();
    }
  }
}
