// The live page: asks the API about one vehicle and one meter every second and shows the answers, or what is wrong.
// Everything reaches the page as text (textContent), never as markup.

const REFRESH_MS = 1000;
const ANSWER_MS_MAX = 4000; // the API promises 3 s
const LATE_SECONDS = 300;
const DEFAULT_IDS = { vehicle: "VEH-001", meter: "METER-001" };
const HEALTH = {
  HEALTHY: ["✓", "The charging hardware does what it should."],
  WARNING: ["!", "More is lost than should be; have the charger looked at."],
  CRITICAL: ["×", "Far too much is lost; check the charging hardware now."],
  UNKNOWN: ["?", "No AC energy was measured, so nothing can be said."],
};

const byId = (id) => document.getElementById(id);
const form = byId("devices");
const inputs = { vehicle: byId("vehicle-id"), meter: byId("meter-id") };

let ids = idsOfAddress();
let round = new AbortController();
let timer = 0;

function idsOfAddress() {
  const asked = new URLSearchParams(location.search);
  return Object.fromEntries(Object.entries(DEFAULT_IDS).map(([kind, id]) => [kind, asked.get(kind) ?? id]));
}

/** An answer of the API: {data}, {problem: "..."} about this device, or {away: "..."} about the whole server. */
async function ask(path, signal) {
  let response, body;
  try {
    response = await fetch(path, { signal: AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS_MAX)]) });
    body = await response.json();
  } catch {
    return { away: "The server does not answer" };
  }
  if (body.success) return { data: body.data };
  if (response.status >= 500) return { away: body.message.replace(/\.$/, "") };
  return { problem: body.message };
}

async function askAll(signal) {
  const vehicle = encodeURIComponent(ids.vehicle);
  const meter = encodeURIComponent(ids.meter);
  const nothing = (kind) => ({ problem: `Enter a ${kind} id above.` });
  const [performance, vehicleStatus, meterStatus] = await Promise.all([
    vehicle ? ask(`/v1/analytics/performance/${vehicle}`, signal) : nothing("vehicle"),
    vehicle ? ask(`/v1/telemetry/vehicle/${vehicle}/status`, signal) : nothing("vehicle"),
    meter ? ask(`/v1/telemetry/meter/${meter}/status`, signal) : nothing("meter"),
  ]);
  return { performance, vehicle: vehicleStatus, meter: meterStatus };
}

async function refresh() {
  clearTimeout(timer);
  round.abort();
  round = new AbortController();
  const { signal } = round;
  const started = performance.now();
  const answers = await askAll(signal);
  if (signal.aborted) return;
  showAll(answers);
  if (!document.hidden) timer = setTimeout(refresh, Math.max(0, REFRESH_MS - (performance.now() - started)));
}

function showAll(answers) {
  const away = Object.values(answers).find((answer) => answer.away)?.away;
  setText(byId("connection-text"), away ? `${away}. Trying again every second.` : "Live");
  byId("connection").dataset.state = away ? "away" : "live";
  byId("cards").dataset.stale = away ? "yes" : "no";
  show("performance", answers.performance, performanceTexts);
  show("vehicle", answers.vehicle, vehicleTexts);
  show("meter", answers.meter, meterTexts);
}

function show(name, answer, textsOf) {
  const card = byId(name);
  if (answer.away) {
    if (card.dataset.state !== "shown") setField(card, "problem", "No answer yet.");
    return;
  }
  card.dataset.state = answer.data ? "shown" : "problem";
  setField(card, "problem", answer.problem ?? "");
  if (answer.data) for (const [field, text] of Object.entries(textsOf(answer.data, card))) setField(card, field, text);
  else for (const field of ["age", "period"]) setField(card, field, "");
}

function performanceTexts(data) {
  const [mark, meaning] = HEALTH[data.healthStatus];
  byId("health").dataset.health = byId("arc").dataset.health = data.healthStatus;
  byId("arc").setAttribute("stroke-dasharray", `${Math.min(100, (data.efficiencyRatio ?? 0) * 100)} 100`);
  return {
    period: `until ${new Date(data.period.end).toLocaleTimeString("en-GB")}`,
    percent: data.efficiencyPercent?.replace("%", " %") ?? "–",
    mark, meaning, health: data.healthStatus,
    ac: amount(data.totalAcConsumed, "kWh", 2),
    dc: amount(data.totalDcDelivered, "kWh", 2),
    lost: data.efficiencyRatio === null ? "–" : amount(data.totalAcConsumed - data.totalDcDelivered, "kWh", 2),
    temperature: amount(data.avgBatteryTemp, "°C", 1),
    "vehicle-readings": amount(data.readingsCount.vehicle),
    "meter-readings": amount(data.readingsCount.meter),
  };
}

function vehicleTexts(data, card) {
  byId("charge").style.width = `${data.soc}%`;
  return {
    ...deviceTexts(data.vehicleId, data.lastReading, card),
    soc: amount(data.soc, "%", 1),
    dc: amount(data.kwhDeliveredDc, "kWh", 4),
    temperature: amount(data.batteryTemp, "°C", 1),
  };
}

function meterTexts(data, card) {
  return {
    ...deviceTexts(data.meterId, data.lastReading, card),
    voltage: amount(data.voltage, "V", 1),
    ac: amount(data.kwhConsumedAc, "kWh", 4),
  };
}

function deviceTexts(id, lastReading, card) {
  const moment = new Date(lastReading);
  const seconds = Math.max(0, (Date.now() - moment) / 1000);
  card.querySelector('[data-field="age"]').dataset.late = seconds > LATE_SECONDS ? "yes" : "no";
  return { id, age: ago(seconds), "last-reading": moment.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" }) };
}

function ago(seconds) {
  const minutes = Math.floor(seconds / 60);
  const span = minutes < 1 ? `${Math.floor(seconds)} s` : minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h`;
  return seconds > LATE_SECONDS ? `silent for ${span}` : `${span} ago`;
}

function amount(value, unit = "", digits = 0) {
  if (value === null) return "–";
  const text = value.toLocaleString("en-GB", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return unit ? `${text} ${unit}` : text;
}

function setField(card, field, text) {
  for (const element of card.querySelectorAll(`[data-field="${field}"]`)) setText(element, text);
}

/** Only what changes is written, so that a screen reader is told only that. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function showDevices() {
  for (const [kind, input] of Object.entries(inputs)) input.value = ids[kind];
  for (const card of document.querySelectorAll(".card")) {
    card.dataset.state = "waiting";
    setField(card, "problem", "Waiting for the first answer…");
  }
  setField(byId("vehicle"), "id", ids.vehicle);
  setField(byId("meter"), "id", ids.meter);
  refresh();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  ids = Object.fromEntries(Object.entries(inputs).map(([kind, input]) => [kind, input.value.trim()]));
  history.pushState(null, "", `?${new URLSearchParams(ids)}`);
  showDevices();
});
addEventListener("popstate", () => {
  ids = idsOfAddress();
  showDevices();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});
showDevices();
