// What the page asks of the API, with the token that the reader gave. The token is kept for this tab alone.

const ANSWER_MS_MAX = 4000; // the API promises 3 s
const TOKEN = "wattline token";
const ROOT = new URL("../", import.meta.url); // a proxy may serve all of this below a path of its own

let whenRefused = () => {};
let refused = false;
let waiting = [];

/** `whenRefused(message)` is called when a token is missing or wrong. */
export function onRefusal(handler) {
  whenRefused = handler;
}

/** Everything that waited for a token goes on with this one. */
export function giveToken(token) {
  sessionStorage.setItem(TOKEN, token);
  refused = false;
  for (const resume of waiting.splice(0)) resume();
}

/** An answer of the API to `path`, which begins with no slash: {data}, {problem: "..."} about what was asked, or {away: "..."} about the whole server. */
export async function ask(path, signal) {
  let body, response;
  try {
    response = await fetchAllowed(path, signal, true);
    body = await response.json();
  } catch {
    return { away: "The server does not answer." };
  }
  if (body.success) return { data: body.data };
  return response.status >= 500 ? { away: body.message } : { problem: body.message };
}

/** The stream as a Response whose body is still coming, or a text that says why there is none. */
export async function openStream(signal) {
  let body, response;
  try {
    response = await fetchAllowed("v1/stream", signal, false);
    if (response.ok) return response;
    body = await response.json();
  } catch {
    return "The server does not answer.";
  }
  return body.message;
}

/** The response, `whole` or only its head within the time for answers; waits for a token that is not refused. */
async function fetchAllowed(path, signal, whole) {
  for (;;) {
    if (refused) await aToken(signal);
    const token = sessionStorage.getItem(TOKEN);
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), ANSWER_MS_MAX);
    const response = await fetch(new URL(path, ROOT), { headers, signal: AbortSignal.any([signal, late.signal]), cache: "no-store" });
    if (!whole) clearTimeout(timer);
    if (response.status !== 401) return response;
    const body = await response.json();
    // It may have been refused with an older token than the one that is there now.
    if (!refused && token === sessionStorage.getItem(TOKEN)) {
      refused = true;
      whenRefused(token ? body.message : "Readings are shown here to those who have a token.");
    }
  }
}

function aToken(signal) {
  return new Promise((resolve, reject) => {
    waiting.push(resolve);
    signal.addEventListener("abort", reject, { once: true });
  });
}
