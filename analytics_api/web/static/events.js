// Server-sent events over fetch, which can carry a token; EventSource cannot.

const SILENCE_MS_MAX = 25_000; // the server says something every 10 s
const EVENT_CHARACTERS_MAX = 1_000_000;
const RETRY_MS = 2_000;
const RETRY_MS_MAX = 30_000;

/** Takes the stream's text in pieces of any size; gives each event once it is whole (HTML standard, 9.2.6). */
export class EventParser {
  retryMs = RETRY_MS;
  #rest = "";
  #name = "";
  #data = [];

  /** The events, as {name, data}, that `text` completes. */
  push(text) {
    // A CR at the very end may be half of a CRLF: it waits for what follows.
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    if (this.#rest.length > EVENT_CHARACTERS_MAX) throw new Error("a line without an end");
    return lines.map((line) => this.#take(line)).filter(Boolean);
  }

  #take(line) {
    if (line === "") {
      const event = this.#data.length ? { name: this.#name || "message", data: this.#data.join("\n") } : null;
      this.#name = "";
      this.#data = [];
      return event;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#name = value;
    else if (field === "data") this.#data.push(value);
    else if (field === "retry" && /^\d+$/.test(value)) this.retryMs = Math.min(Number(value), RETRY_MS_MAX);
    return null;
  }
}

/**
 * Follows the stream until `signal` aborts. `open(signal)` fetches it: a Response, or a text that says why there is
 * none. `tell(event)` hears each event; `lost(words, seconds)` that there is none for a while.
 */
export async function follow({ open, tell, lost, signal }) {
  let failures = 0;
  let retryMs = RETRY_MS;
  while (!signal.aborted) {
    const attempt = new AbortController();
    const either = AbortSignal.any([signal, attempt.signal]);
    let words = "The connection was lost.";
    try {
      const answer = await open(either);
      if (typeof answer === "string") words = answer;
      else {
        const parser = new EventParser();
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        for (;;) {
          const { done, value } = await heard(reader, attempt);
          if (done) break;
          for (const event of parser.push(value)) {
            failures = 0;
            tell(event);
          }
          retryMs = parser.retryMs;
        }
      }
    } catch {
      // The words are the same whatever cut it.
    }
    attempt.abort();
    if (signal.aborted) return;
    // Half of the time is chance, so that a thousand pages do not return at once to a server that was restarted.
    const waitMs = Math.min(RETRY_MS_MAX, retryMs * 2 ** Math.min(failures++, 6)) * (0.5 + Math.random() / 2);
    lost(words, Math.ceil(waitMs / 1000));
    await pause(waitMs, signal);
  }
}

/** What comes next; a connection that says nothing for too long is one that was lost without a word. */
async function heard(reader, attempt) {
  const watch = setTimeout(() => attempt.abort(), SILENCE_MS_MAX);
  try {
    return await reader.read();
  } finally {
    clearTimeout(watch);
  }
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
