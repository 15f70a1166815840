// The fleet's cards: counters, the least efficient vehicles, the latest readings.

import { amount, percent, setField, setText, share, time } from "./texts.js";

const CHANGED_ROWS = 10;

const byId = (id) => document.getElementById(id);
const worstRows = new Map();
let latest = [];

/** The counters of an event of the stream, and the devices that it names. */
export function showEvent(data) {
  const card = shown("fleet");
  setField(card, "time", time(data.time));
  setField(card, "meters", amount(data.totalMeters));
  setField(card, "vehicles", amount(data.totalVehicles));
  setField(card, "silent", amount(data.silentDevices));
  byId("silent").dataset.late = data.silentDevices ? "yes" : "no";
  showChanged(data);
}

/** An answer about the fleet's figures. */
export function showFigures(answer) {
  if (!answer.data) return; // the last figures stay
  const card = shown("fleet");
  setField(card, "efficiency", share(answer.data.fleetEfficiency));
  for (const health of ["healthy", "warning", "critical", "unknown"]) {
    setField(card, health, amount(answer.data[`${health}Count`]));
  }
}

/** An answer with the table's first rows; `choose` is called with the id of one that is clicked. */
export function showWorst(answer, chosenId, choose) {
  if (!answer.data?.length) {
    if (answer.data || answer.problem) {
      const card = byId("worst");
      card.dataset.state = "problem";
      setField(card, "problem", answer.problem ?? "No vehicle has sent a reading yet.");
    }
    return;
  }
  shown("worst");
  const rows = answer.data.map((vehicle) => worstRow(vehicle, choose));
  const list = byId("worst-list");
  // A list that stays as it is keeps the reader's focus.
  if (rows.length !== list.children.length || rows.some((row, place) => row !== list.children[place])) {
    list.replaceChildren(...rows);
  }
  const kept = new Set(answer.data.map((vehicle) => vehicle.vehicleId));
  for (const id of worstRows.keys()) if (!kept.has(id)) worstRows.delete(id);
  markChosen(chosenId);
}

/** Shows which of the rows is the chosen vehicle's. */
export function markChosen(chosenId) {
  for (const [id, row] of worstRows) row.firstChild.setAttribute("aria-pressed", String(id === chosenId));
}

function worstRow(vehicle, choose) {
  const id = vehicle.vehicleId;
  let row = worstRows.get(id);
  if (!row) {
    row = newRow("button");
    row.firstChild.addEventListener("click", () => choose(id));
    worstRows.set(id, row);
  }
  const state = vehicle.healthStatus;
  const { status } = vehicle.quality;
  fillRow(row, id, percent(vehicle.efficiencyPercent), status === "ok" ? state : `${state} · ${status}`);
  row.dataset.health = state;
  return row;
}

function showChanged(data) {
  const meters = data.meters.map((meter) => [
    meter.meterId,
    `${amount(meter.voltage, "V", 1)} · ${amount(meter.kwhConsumedAc, "kWh", 4)}`,
    meter,
  ]);
  const vehicles = data.vehicles.map((vehicle) => [
    vehicle.vehicleId,
    `${amount(vehicle.soc, "%", 1)} · ${amount(vehicle.kwhDeliveredDc, "kWh", 4)}`,
    vehicle,
  ]);
  const changed = [...meters, ...vehicles];
  setField(byId("changed"), "more", `${amount(changed.length + data.more)} new`);
  if (!changed.length) return;
  shown("changed");
  changed.sort(([, , one], [, , other]) => (one.lastReading < other.lastReading ? 1 : -1));
  latest = [...changed.slice(0, CHANGED_ROWS), ...latest].slice(0, CHANGED_ROWS);
  const list = byId("changed-list");
  while (list.children.length < latest.length) list.append(newRow("div"));
  latest.forEach(([id, values, status], place) => fillRow(list.children[place], id, values, time(status.lastReading)));
}

function newRow(tag) {
  const row = document.createElement("li");
  const line = document.createElement(tag);
  line.className = "row";
  for (const name of ["id", "soft", "state"]) {
    const part = document.createElement("span");
    part.className = name;
    line.append(part);
  }
  row.append(line);
  return row;
}

function fillRow(row, ...texts) {
  texts.forEach((text, place) => setText(row.firstChild.children[place], text));
}

function shown(name) {
  const card = byId(name);
  card.dataset.state = "shown";
  setField(card, "problem", "");
  return card;
}
