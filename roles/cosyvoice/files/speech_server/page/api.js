// SPDX-FileCopyrightText: Voicefleet contributors
// SPDX-License-Identifier: GPL-3.0-or-later
// The speech server's API, as any other caller meets it. Paths are relative: the page may lie below a prefix.

import { words } from "./strings.js";

const MOST_TRIES = 20;
const LONGEST_WAIT_SECONDS = 60;

/** An answer that is no success, in the API's own words. */
export class ApiError extends Error {
  constructor(message, param = null, retryAfterSeconds = 0) {
    super(message);
    this.param = param;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** The answer to a GET. */
export async function get(path, signal) {
  return (await ask(path, { signal })).json();
}

/** The answer to a wish, once its headers are there. */
export function speak(wish, signal) {
  const headers = { "Content-Type": "application/json" };
  return ask("v1/audio/speech", { method: "POST", headers, body: JSON.stringify(wish), signal });
}

/** Ask again for as long as the answer is "busy"; `tell` hears how many seconds are left, each second. */
export async function patiently(request, signal, tell) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await request();
    } catch (error) {
      if (!error.retryAfterSeconds || tries === MOST_TRIES) throw error;
      for (let left = error.retryAfterSeconds; left > 0; left -= 1) {
        tell(left, left === error.retryAfterSeconds);
        await second(signal);
      }
    }
  }
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(words("no_answer"));
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  const said = await response.json().catch(() => null);
  const message = said?.error?.message ?? words("strange", { status: response.status });
  const busy = response.status === 503 || response.status === 429;
  const seconds = Number.parseInt(response.headers.get("Retry-After"), 10) || 0;
  return new ApiError(message, said?.error?.param, busy ? Math.min(seconds, LONGEST_WAIT_SECONDS) : 0);
}

function second(signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, 1000);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
