// The admin page's refresh: asks the two JSON addresses every 5 s and writes what changed into the page.
// Everything is written as text, never as markup. The words are those of portal/views.py.
"use strict";

const EVERY_MS = 5000;
const WAIT_MS = 4000;
const POINTS_MAX = 120; // ten minutes
const SECONDS_MAX = 120;
const DASH = "\u2013";
const SVG = "http://www.w3.org/2000/svg";
const KINDS = { lag: "Waiting for", process: "Heard from" };
const LABELS = {
  feed_running: "Feed",
  feed_silence: "Feed silence",
  cpu: "CPU",
  stalled_memory: "Stalled for memory",
  stalled_io: "Stalled for the disk",
  tokens_per_minute: "Tokens a minute",
  canary: "Last canary through the line",
  ack_saturation: "Unacknowledged up to the limit for",
  not_fetching: "Not fetched from for",
  stream_room: "Room used in streams",
  replay_window: "Time kept by full streams",
  bots_in_step: "Bots out of step",
  backup_age: "Last backup",
  backup_unverified: "Last restore drill",
  secrets_store: "Vault",
  feed_budget: "Feed's cost",
};
const TONES = { good: "good", warning: "warning", critical: "bad", unknown: "unknown" };
const WORDS = { good: ": ok", warning: ": beyond its limit", bad: ": not ok", unknown: ": not known" };

const perPage = Number(document.body.dataset.perPage);
const history_ = { tokens_per_minute: [], signals_per_second: [] };
let page = Number(document.getElementById("page").textContent);
let before = null; // the signals of the answer before: {at, signals}
let due = 0; // when the next refresh is due
let timer = 0;

// Words

function number(value) {
  return value === null || value === undefined ? DASH : value.toLocaleString("en-US");
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return DASH;
  for (const [size, unit, smaller, name] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]]) {
    if (seconds >= size) {
      const rest = Math.floor((seconds % size) / smaller);
      return `${Math.floor(seconds / size)} ${unit}` + (rest ? ` ${rest} ${name}` : "");
    }
  }
  return `${Math.floor(seconds)} s`;
}

function measure(value, unit) {
  if (value === null) return "unknown";
  if (typeof value === "boolean") return value ? unit : `not ${unit}`;
  if (unit === "s" && value >= SECONDS_MAX) return duration(value);
  return number(value);
}

function atLeast(check) {
  return check.critical !== null && check.limit !== null && check.critical < check.limit;
}

function limit(check) {
  if (typeof check.limit !== "number") return "";
  return `${atLeast(check) ? "at least" : "of"} ${number(check.limit)} ${check.unit}`;
}

function sol(lamports) {
  const thousandths = Math.trunc(Math.abs(lamports) / 1e6);
  const whole = number(Math.trunc(thousandths / 1000));
  return `${lamports < 0 ? "\u2212" : "+"}${whole}.${String(thousandths % 1000).padStart(3, "0")}`;
}

function share(check) {
  if (check.value === null || typeof check.limit === "boolean" || !check.limit || atLeast(check)) return null;
  return Math.min(100, Math.round((100 * check.value) / check.limit));
}

function tone(check) {
  return TONES[check.level];
}

function label(name) {
  if (LABELS[name]) return LABELS[name];
  const at = name.indexOf("_");
  const kind = KINDS[name.slice(0, at)];
  if (kind) return `${kind} ${name.slice(at + 1)}`;
  const text = name.replaceAll("_", " ");
  return text[0].toUpperCase() + text.slice(1);
}

// The page

function put(element, text) {
  if (element && element.textContent !== String(text)) element.textContent = text;
}

function part(element, name) {
  return element.querySelector(`[data-part="${name}"]`);
}

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// Keep one child with a data-key for each item, in order; children stay the same elements, so focus and open
// details survive a refresh.
function rows(parent, items, key, create, update) {
  const old = new Map();
  for (const child of [...parent.children]) if (child.dataset.key !== undefined) old.set(child.dataset.key, child);
  let last = null;
  for (const item of items) {
    const name = key(item);
    const element = old.get(name) || create(item);
    old.delete(name);
    element.dataset.key = name;
    update(element, item);
    if (last ? last.nextElementSibling !== element : element.parentElement !== parent) {
      if (last) last.after(element); else parent.append(element);
    }
    last = element;
  }
  for (const element of old.values()) element.remove();
}

function spark(name, value) {
  const points = history_[name];
  points.push(value);
  if (points.length > POINTS_MAX) points.shift();
  const svg = document.querySelector(`[data-spark="${name}"]`);
  if (points.length < 2) return;
  const top = Math.max(...points, 1);
  const line = points.map((v, i) => `${((100 * i) / (points.length - 1)).toFixed(2)},${(22 - (19 * v) / top).toFixed(2)}`);
  svg.replaceChildren(
    draw("polygon", { points: `0,24 ${line.join(" ")} 100,24` }),
    draw("polyline", { points: line.join(" ") }),
  );
}

function showTiles(stats, streams) {
  const ledger = streams.get("FILLS")?.contents ?? {};
  const values = { ...stats.feed_stats, ...stats.engine_stats, ...ledger };
  for (const element of document.querySelectorAll("[data-figure]")) put(element, number(values[element.dataset.figure]));
  for (const [name, text] of Object.entries(notes(stats, ledger))) put(note(name), text);
}

function note(name) {
  return document.querySelector(`[data-tile="${name}"] .note`);
}

function notes(stats, ledger) {
  const feed = stats.feed_stats;
  const waiting = Math.max(0, feed.tokens_received - stats.engine_stats.tokens_analyzed);
  const texts = {
    active_bots: `of ${number(stats.max_capacity)}`,
    tokens_received: feed.is_running ? `feed up ${duration(feed.uptime_seconds)}` : "feed not running",
    tokens_analyzed: `${number(waiting)} to go`,
  };
  if (ledger.fills !== undefined) {
    const share = Math.floor((100 * ledger.refused) / Math.max(1, ledger.signals_settled));
    texts.fills = `${sol(ledger.realised_lamports)} SOL realised`;
    texts.refused = `${Math.min(100, share)} % of signals`;
  }
  return texts;
}

function showRates(answer) {
  const now = { at: Date.parse(answer.timestamp), signals: answer.stats.engine_stats.signals_sent };
  spark("tokens_per_minute", answer.stats.feed_stats.tokens_per_minute);
  if (before && now.at > before.at) {
    const rate = (1000 * Math.max(0, now.signals - before.signals)) / (now.at - before.at);
    spark("signals_per_second", rate);
    put(note("signals_sent"), `${rate < 10 ? rate.toFixed(1) : number(Math.round(rate))} a second`);
  }
  before = now;
}

function showLine(streams) {
  for (const node of document.querySelectorAll("[data-stream]")) {
    const stream = streams.get(node.dataset.stream);
    put(part(node, "stored"), number(stream?.stored));
    put(part(node, "kept"), number(stream?.messages));
    put(part(node, "lag"), number(stream?.lag));
    put(part(node, "lag_seconds"), duration(stream?.lag_seconds));
  }
}

function newCheck() {
  const bar = draw("svg", { class: "bar", viewBox: "0 0 100 2", preserveAspectRatio: "none", "aria-hidden": "true" });
  bar.append(draw("rect", { width: 0, height: 2 }));
  return make("li", {},
    make("span", { class: "dot", "aria-hidden": "true" }),
    make("span", { class: "name" }, "", make("span", { class: "hidden", "data-part": "word" })),
    make("span", { class: "value" }, make("span", { "data-part": "value" }), " ", make("span", { class: "muted", "data-part": "limit" })),
    bar,
  );
}

function showCheck(element, [name, check]) {
  element.dataset.tone = tone(check);
  element.title = `since ${check.since}` + (check.reason ? `: ${check.reason}` : "");
  element.querySelector(".name").firstChild.nodeValue = label(name);
  put(part(element, "word"), WORDS[tone(check)]);
  put(part(element, "value"), measure(check.value, check.unit));
  put(part(element, "limit"), limit(check));
  element.querySelector("rect").setAttribute("width", share(check) ?? 0);
}

function newProcess(process) {
  const name = make("th", { scope: "row" }, `${process.service} `, make("span", { class: "muted" }, process.instance));
  const state = make("td", {}, make("span", { class: "dot", "aria-hidden": "true" }), make("span", { "data-part": "state" }));
  const details = make("details", {}, make("summary", {}, "Figures", make("span", { class: "hidden" }, ` of ${process.service} ${process.instance}`)), make("dl", {}));
  return make("tbody", {},
    make("tr", {}, name, state, make("td", { class: "right", "data-part": "uptime" }), make("td", { class: "right wide", "data-part": "heard" })),
    make("tr", { class: "more" }, make("td", { colspan: 4 }, details)),
  );
}

function showProcess(element, process) {
  const [look, state] = !process.alive ? ["bad", "silent"] : process.ready ? ["good", "ready"] : ["warning", "not ready"];
  element.dataset.tone = look;
  put(part(element, "state"), state);
  put(part(element, "uptime"), duration(process.uptime_seconds));
  put(part(element, "heard"), `${(process.silence_ms / 1000).toFixed(1)} s ago`);
  const figures = Object.entries(process.figures).sort(([a], [b]) => (a < b ? -1 : 1));
  rows(element.querySelector("dl"), figures, ([name]) => name,
    ([name]) => make("div", {}, make("dt", {}, name), make("dd", {})),
    (pair, [, value]) => put(pair.lastElementChild, number(value)));
}

function showBots(stats) {
  const bots = stats.engine_stats.bots;
  rows(document.querySelector("#bots tbody"), bots, (bot) => bot.user_id,
    (bot) => make("tr", {}, make("th", { scope: "row" }, bot.user_id), make("td", { class: "right" }), make("td", { class: "right" })),
    (row, bot) => {
      put(row.children[1], number(bot.signals_received));
      put(row.children[2], duration(bot.uptime));
    });
  const pages = Math.max(1, Math.ceil(stats.active_bots / perPage));
  put(document.getElementById("page"), page);
  put(document.getElementById("pages"), pages);
  document.getElementById("no-bots").hidden = bots.length > 0;
  for (const [id, target, shown] of [["previous", page - 1, page > 1], ["next", page + 1, page < pages]]) {
    const link = document.getElementById(id);
    link.href = `/admin?page=${target}`;
    link.hidden = !shown;
  }
}

function showState(state, notice) {
  document.body.dataset.state = state;
  put(document.getElementById("status"), state);
  const element = document.getElementById("notice");
  element.hidden = !notice;
  put(element, notice);
}

// Asking

async function ask(address) {
  const answer = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(WAIT_MS) });
  if (answer.status === 401 || answer.status === 403) throw new Error("ended");
  return [answer.status, await answer.json()];
}

async function refresh() {
  const [[status, stats], [, health]] = await Promise.all([
    ask(`/api/admin/stats?page=${page}&per_page=${perPage}`),
    ask("/api/admin/health"),
  ]);
  if (status !== 200) throw new Error(stats.error);
  const streams = new Map(stats.stats.streams.map((stream) => [stream.name, stream]));
  showTiles(stats.stats, streams);
  showRates(stats);
  showLine(streams);
  rows(document.getElementById("checks"), Object.entries(health.checks), ([name]) => name, newCheck, showCheck);
  rows(document.querySelector("section[aria-labelledby=processes-title] table"), stats.stats.processes,
    (process) => `${process.service}.${process.instance}`, newProcess, showProcess);
  showBots(stats.stats);
  put(document.getElementById("updated"), `${stats.timestamp.slice(11, 19)} UTC`);
  showState(health.status, "");
}

async function turn() {
  clearTimeout(timer);
  let going = true;
  try {
    await refresh();
  } catch (error) {
    going = error.message !== "ended";
    const last = document.getElementById("updated").textContent;
    showState("unreachable", going
      ? `No answer from mintline. These are the figures of ${last}; trying again every 5 s.`
      : "Your session has ended. Open a new admin link to go on.");
  }
  due = Date.now() + EVERY_MS;
  if (going) timer = setTimeout(turn, EVERY_MS);
}

function go(event) {
  event.preventDefault();
  page = Number(new URL(event.currentTarget.href).searchParams.get("page"));
  window.history.replaceState(null, "", event.currentTarget.href);
  turn();
}

document.getElementById("previous").addEventListener("click", go);
document.getElementById("next").addEventListener("click", go);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && Date.now() > due) turn();
});
turn();
