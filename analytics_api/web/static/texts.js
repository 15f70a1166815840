// Values as a reader sees them.

export function amount(value, unit = "", digits = 0) {
  if (value === null) return "–";
  const text = value.toLocaleString("en-GB", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return unit ? `${text} ${unit}` : text;
}

export function percent(text) {
  return text?.replace("%", " %") ?? "–";
}

export function share(ratio) {
  return ratio === null ? "–" : amount(ratio * 100, "%", 2);
}

export function time(stamp) {
  return new Date(stamp).toLocaleTimeString("en-GB");
}

export function moment(stamp) {
  return new Date(stamp).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
}

export function secondsSince(stamp) {
  return Math.max(0, (Date.now() - new Date(stamp)) / 1000);
}

export function ago(seconds) {
  const minutes = Math.floor(seconds / 60);
  const span = minutes < 1 ? `${Math.floor(seconds)} s` : minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h`;
  return `${span} ago`;
}

/** Only what changes is written, so that a screen reader is told only that. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setField(card, field, text) {
  for (const element of card.querySelectorAll(`[data-field="${field}"]`)) setText(element, text);
}
