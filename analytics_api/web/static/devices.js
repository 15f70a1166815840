// The cards of the chosen vehicle and the chosen meter.

import { ago, amount, moment, percent, secondsSince, setField, time } from "./texts.js";

const HEALTH = {
  HEALTHY: ["✓", "The charging hardware does what it should."],
  WARNING: ["!", "More is lost than should be; have the charger looked at."],
  CRITICAL: ["×", "Far too much is lost; check the charging hardware now."],
  UNKNOWN: ["?", "No AC energy was measured, so nothing can be said."],
};
const REASONS = {
  meter_gap: "the meter sent fewer readings than usual",
  vehicle_gap: "the vehicle sent fewer readings than usual",
  ratio_above_one: "more energy came out than went in, so something measures wrongly",
  link_changed: "for a part of the time no meter is known",
  annulled: "readings were annulled",
};
const TEXTS = { performance: performanceTexts, vehicle: vehicleTexts, meter: meterTexts };

const byId = (id) => document.getElementById(id);
const lastReadings = {};

/** Empty cards, waiting for what is said about these devices. */
export function expect(ids) {
  for (const name of Object.keys(TEXTS)) {
    byId(name).dataset.state = "waiting";
    setField(byId(name), "problem", "Waiting for the first answer…");
  }
  for (const kind of Object.keys(ids)) {
    setField(byId(kind), "id", ids[kind]);
    delete lastReadings[kind];
  }
}

/** Show an answer, or why there is none; while the server is away, what was there stays. */
export function show(name, answer) {
  const card = byId(name);
  if (answer.away) {
    if (card.dataset.state !== "shown") setField(card, "problem", "No answer yet.");
    return;
  }
  card.dataset.state = answer.data ? "shown" : "problem";
  setField(card, "problem", answer.problem ?? "");
  if (answer.data) for (const [field, text] of Object.entries(TEXTS[name](answer.data))) setField(card, field, text);
  else for (const field of ["age", "period"]) setField(card, field, "");
}

/** Whether nothing is known of it yet. */
export function isUnknown(name) {
  return byId(name).dataset.state !== "shown";
}

/** How long ago the readings were, from now. */
export function showAges() {
  for (const [kind, lastReading] of Object.entries(lastReadings)) {
    if (isUnknown(kind)) continue;
    setField(byId(kind), "age", ago(secondsSince(lastReading)));
  }
}

function performanceTexts(data) {
  const [mark, meaning] = HEALTH[data.healthStatus];
  const paired = data.quality.paired ?? { ac: data.totalAcConsumed, dc: data.totalDcDelivered };
  byId("health").dataset.health = byId("arc").dataset.health = data.healthStatus;
  byId("arc").setAttribute("stroke-dasharray", `${Math.min(100, (data.efficiencyRatio ?? 0) * 100)} 100`);
  return {
    period: `until ${time(data.period.end)}`,
    percent: percent(data.efficiencyPercent),
    mark, health: data.healthStatus,
    meaning: data.quality.status === "impossible" ? "" : meaning, // quality says why
    ac: amount(data.totalAcConsumed, "kWh", 2),
    dc: amount(data.totalDcDelivered, "kWh", 2),
    lost: data.healthStatus === "UNKNOWN" ? "–" : amount(paired.ac - paired.dc, "kWh", 2),
    quality: qualityText(data.quality),
    temperature: amount(data.avgBatteryTemp, "°C", 1),
    "vehicle-readings": amount(data.readingsCount.vehicle),
    "meter-readings": amount(data.readingsCount.meter),
  };
}

/** Empty where nothing speaks against the figures. */
function qualityText(quality) {
  if (quality.status === "ok") return "";
  return `These figures are ${quality.status}: ${quality.reasons.map((reason) => REASONS[reason]).join("; ")}.`;
}

function vehicleTexts(data) {
  byId("charge").style.width = `${data.soc}%`;
  return {
    ...deviceTexts("vehicle", data.vehicleId, data.lastReading),
    soc: amount(data.soc, "%", 1),
    dc: amount(data.kwhDeliveredDc, "kWh", 4),
    temperature: amount(data.batteryTemp, "°C", 1),
  };
}

function meterTexts(data) {
  return {
    ...deviceTexts("meter", data.meterId, data.lastReading),
    voltage: amount(data.voltage, "V", 1),
    ac: amount(data.kwhConsumedAc, "kWh", 4),
  };
}

function deviceTexts(kind, id, lastReading) {
  lastReadings[kind] = lastReading;
  return { id, "last-reading": moment(lastReading) };
}
