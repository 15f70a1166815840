// The live page: follows the stream for what changes each second, and asks every few seconds for what is computed.
// Everything reaches the page as text (textContent), never as markup.

import { expect, isUnknown, show, showAges } from "./devices.js";
import { follow } from "./events.js";
import { markChosen, showEvent, showFigures, showWorst } from "./fleet.js";
import { ask, giveToken, onRefusal, openStream } from "./server.js";
import { setText } from "./texts.js";

const PERFORMANCE_MS = 7_000;
const FLEET_MS = 10_000;
const DEFAULT_IDS = { vehicle: "VEH-001", meter: "METER-001" };

const byId = (id) => document.getElementById(id);
const inputs = { vehicle: byId("vehicle-id"), meter: byId("meter-id") };

let ids = idsOfAddress();
let visible = new AbortController();
let chosen = new AbortController();
let missed = true; // whether a status may have changed without a word in the stream

function idsOfAddress() {
  const asked = new URLSearchParams(location.search);
  return Object.fromEntries(Object.entries(DEFAULT_IDS).map(([kind, id]) => [kind, asked.get(kind) ?? id]));
}

function connection(state, text) {
  setText(byId("connection-text"), text);
  byId("connection").dataset.state = state;
  for (const id of ["fleet-cards", "device-cards"]) byId(id).dataset.stale = state === "live" ? "no" : "yes";
}

function tell({ name, data }) {
  const content = JSON.parse(data);
  if (name === "problem") connection("away", `${content.message} Waiting for it to return.`);
  if (name === "skipped") missed = true;
  if (name !== "fleet") return;
  connection("live", "Live");
  missed ||= content.more > 0;
  showEvent(content);
  for (const [kind, changed] of [["vehicle", content.vehicles], ["meter", content.meters]]) {
    const status = changed.find((device) => device[`${kind}Id`] === ids[kind]);
    if (status) show(kind, { data: status });
  }
  showAges();
}

function lost(words, seconds) {
  missed = true;
  connection("away", `${words} Trying again in ${seconds} s.`);
}

/** Calls `round(signal)` now and again `ms` after it ended, until `signal` aborts. */
async function repeat(ms, signal, round) {
  while (!signal.aborted) {
    await round(signal);
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
    });
  }
}

async function refreshFleet(signal) {
  const [figures, worst] = await Promise.all([
    ask("v1/analytics/fleet", signal),
    ask("v1/analytics/fleet/vehicles?limit=10", signal),
  ]);
  if (signal.aborted) return;
  showFigures(figures);
  showWorst(worst, ids.vehicle, chooseVehicle);
}

async function refreshDevices(signal) {
  const asked = [askAbout("performance", "vehicle", "v1/analytics/performance/ID", signal)];
  const wasMissed = missed;
  missed = false;
  for (const kind of ["vehicle", "meter"]) {
    if (wasMissed || isUnknown(kind)) asked.push(askAbout(kind, kind, `v1/telemetry/${kind}/ID/status`, signal));
  }
  const answers = await Promise.all(asked);
  if (signal.aborted || answers.some((answer) => answer.away)) missed = true;
}

async function askAbout(card, kind, path, signal) {
  const id = encodeURIComponent(ids[kind]);
  const answer = id ? await ask(path.replace("ID", () => id), signal) : { problem: `Enter a ${kind} id above.` };
  if (!signal.aborted) show(card, answer);
  showAges();
  return answer;
}

/** Asks about the chosen devices from now on, until others are chosen. */
function followDevices() {
  chosen.abort();
  chosen = new AbortController();
  missed = true;
  if (!document.hidden) repeat(PERFORMANCE_MS, chosen.signal, refreshDevices);
}

function showDevices() {
  for (const [kind, input] of Object.entries(inputs)) input.value = ids[kind];
  expect(ids);
  markChosen(ids.vehicle);
  followDevices();
}

function choose(chosenIds) {
  ids = chosenIds;
  history.pushState(null, "", `?${new URLSearchParams(ids)}`);
  showDevices();
}

/** The vehicle, with the meter that feeds it now: by its open link, else by its name, else the one that is shown. */
async function chooseVehicle(vehicle) {
  choose({ vehicle, meter: meterByName(vehicle) ?? ids.meter });
  const { signal } = chosen;
  const { data } = await ask(`v1/vehicles/${encodeURIComponent(vehicle)}/meters`, signal);
  const link = data?.find(({ validFrom, validTo }) => new Date(validFrom) <= Date.now() && !(new Date(validTo ?? Infinity) <= Date.now()));
  if (!signal.aborted && link && link.meterId !== ids.meter) choose({ vehicle, meter: link.meterId });
}

function meterByName(vehicle) {
  const { vehiclePrefix, meterPrefix } = document.documentElement.dataset;
  const named = vehiclePrefix !== undefined && vehicle.startsWith(vehiclePrefix);
  return named ? meterPrefix + vehicle.slice(vehiclePrefix.length) : null;
}

/** A page that nobody sees asks nothing. */
function followAll() {
  visible.abort();
  visible = new AbortController();
  const { signal } = visible;
  if (!document.hidden) {
    connection("waiting", "Connecting…");
    follow({ open: openStream, tell, lost, signal });
    repeat(FLEET_MS, signal, refreshFleet);
  }
  followDevices();
}

onRefusal((message) => {
  connection("away", "A token is needed");
  setText(byId("token-why"), `${message} It is kept until this tab is closed.`);
  byId("token-form").hidden = false;
});
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = byId("token");
  byId("token-form").hidden = true;
  connection("waiting", "Connecting…");
  giveToken(input.value.trim());
  input.value = "";
});
byId("devices").addEventListener("submit", (event) => {
  event.preventDefault();
  choose(Object.fromEntries(Object.entries(inputs).map(([kind, input]) => [kind, input.value.trim()])));
});
addEventListener("popstate", () => {
  ids = idsOfAddress();
  showDevices();
});
document.addEventListener("visibilitychange", followAll);
setInterval(showAges, 1000);
showDevices();
followAll();
