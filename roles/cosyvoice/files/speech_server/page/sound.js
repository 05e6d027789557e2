// SPDX-FileCopyrightText: Voicefleet contributors
// SPDX-License-Identifier: GPL-3.0-or-later
// Samples: as they come from the server, and as a file to keep.

const RATE_HZ = 24000;
const HEADER_BYTES = 44;

let shared;

/** The one way to the loudspeaker. To be called from a click or a key first, or browsers keep it mute. */
export function context() {
  // At the answers' own rate: parts that are each resampled by themselves would click where they meet.
  shared ??= new AudioContext({ sampleRate: RATE_HZ });
  shared.resume();
  return shared;
}

/** Raw 16 bit samples, whatever the size of the pieces that they arrive in. */
export class Samples {
  #pieces = [];
  #odd = new Uint8Array(0);

  /** Take bytes; the whole samples among them come back, full scale at -1 and 1. */
  take(bytes) {
    const joined = new Uint8Array(this.#odd.length + bytes.length);
    joined.set(this.#odd);
    joined.set(bytes, this.#odd.length);
    const whole = joined.length - (joined.length % 2);
    this.#odd = joined.slice(whole);
    this.#pieces.push(joined.subarray(0, whole));
    const view = new DataView(joined.buffer, 0, whole);
    return Float32Array.from({ length: whole / 2 }, (_, at) => view.getInt16(2 * at, true) / 32768);
  }

  /** All of it as a wav file. */
  wav(rateHz) {
    const size = this.#pieces.reduce((sum, piece) => sum + piece.length, 0);
    const header = new DataView(new ArrayBuffer(HEADER_BYTES));
    const letters = (at, text) => [...text].forEach((letter, i) => header.setUint8(at + i, letter.charCodeAt(0)));
    letters(0, "RIFF");
    header.setUint32(4, HEADER_BYTES - 8 + size, true);
    letters(8, "WAVEfmt ");
    header.setUint32(16, 16, true);
    header.setUint16(20, 1, true); // PCM
    header.setUint16(22, 1, true); // mono
    header.setUint32(24, rateHz, true);
    header.setUint32(28, 2 * rateHz, true);
    header.setUint16(32, 2, true);
    header.setUint16(34, 16, true);
    letters(36, "data");
    header.setUint32(40, size, true);
    return new Blob([header, ...this.#pieces], { type: "audio/wav" });
  }
}
