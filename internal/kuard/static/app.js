// The page's life: one panel at a time, each with its own look at the server, and a porthole that shows the weather.

const $ = (id) => document.getElementById(id);
const pollEvery = 2000; // milliseconds
const patience = 15000; // milliseconds; a DNS query takes up to 10 seconds

// Unreachable says that no answer came at all: the route to the pod is broken, or stalls.
class Unreachable extends Error {}

async function reach(path, options) {
  try {
    return await fetch(path, { signal: AbortSignal.timeout(patience), ...options });
  } catch (err) {
    throw new Unreachable(err.message);
  }
}

// call asks the server, and throws what it says is wrong as an Error.
async function call(path, options) {
  const reply = await reach(path, options);
  const body = await reply.json().catch(() => null);
  if (!reply.ok) throw new Error(body?.error ?? `The server answered ${reply.status} ${reply.statusText}.`);
  return body;
}

const post = (path, body) => call(path, { method: "POST", body: body && JSON.stringify(body) });

// node makes an element; text is always text, never markup.
function node(tag, text = "", props = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, props);
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; bytes >= 1024 && i < units.length - 1; i++) bytes /= 1024;
  return `${bytes.toFixed(i && bytes < 100 ? 1 : 0)} ${units[i]}`;
}

const clock = (time) => new Date(time).toLocaleTimeString([], { hour12: false });

// complain shows err in the element, or hides it when there is none. A lost server has a banner of its own.
function complain(id, err) {
  $(id).hidden = !err || err instanceof Unreachable;
  $(id).textContent = err ? err.message : "";
}

// attempt runs an action of the visitor and shows what it throws in the element.
async function attempt(errorID, action) {
  try {
    await action();
    complain(errorID);
  } catch (err) {
    complain(errorID, err);
    if (err instanceof Unreachable) loseSight();
  }
}

function pairs(list, rows) {
  list.replaceChildren(...rows.map(([name, value]) => {
    const row = node("div");
    row.append(node("dt", name), node("dd", value));
    return row;
  }));
}

// ---- The porthole.

const weather = { liveness: 0, readiness: 0, lost: false };

function showWeather() {
  const failing = ["liveness", "readiness"].filter((kind) => weather[kind] !== 0);
  document.body.dataset.weather = weather.lost ? "fog" : failing.length ? "storm" : "calm";
  const words = weather.lost ? "Fog. The pod is out of sight."
    : failing.length === 2 ? "Storm. Liveness and readiness fail."
    : failing.length ? `Storm. The ${failing[0]} probe fails.`
    : "Calm sea. All probes answer.";
  if ($("weather").textContent !== words) $("weather").textContent = words;
}

function loseSight() {
  weather.lost = true;
  $("lost").hidden = false;
  showWeather();
}

// findAgain is called once the server answers again. It may be another pod by now.
async function findAgain() {
  weather.lost = false;
  $("lost").hidden = true;
  const env = await call("/env/api");
  $("host").textContent = env.hostname;
  $("version").textContent = env.version;
  $("addresses").textContent = env.addresses.join(", ") || "loopback only";
}

// ---- Environment.

let variables = [];

async function showEnv() {
  const env = await call("/env/api");
  pairs($("env-about"), [
    ["Host name", env.hostname], ["Addresses", env.addresses.join(", ") || "loopback only"],
    ["Process", String(env.pid)], ["Started", new Date(env.started).toLocaleString()],
    ["Version", env.version], ["Built with", env.goVersion],
  ]);
  $("env-command").textContent = env.commandLine.join(" ");
  variables = Object.entries(env.env).sort(([a], [b]) => (a < b ? -1 : 1));
  filterEnv();
}

function filterEnv() {
  const want = $("env-filter").value.toLowerCase();
  const found = variables.filter((v) => v.join("=").toLowerCase().includes(want));
  pairs($("env-list"), found);
  $("env-count").textContent = found.length === variables.length ? found.length : `${found.length} of ${variables.length}`;
  $("env-none").hidden = found.length > 0;
}

// ---- Memory.

const residents = []; // bytes, oldest first

async function showMemory() {
  const mem = await call("/mem/api");
  residents.push(mem.resident || mem.sys);
  if (residents.length > 90) residents.shift();
  drawMemory(mem);
}

function drawMemory(mem) {
  $("mem-allocated").textContent = size(mem.allocated);
  $("mem-limit").textContent = size(mem.limit);
  $("mem-bar").value = mem.allocated / mem.limit;
  $("mem-resident").textContent = mem.resident ? size(mem.resident) : "not told here";
  $("mem-heap").textContent = size(mem.heapAlloc);
  $("mem-heapsys").textContent = size(mem.heapSys);
  $("mem-sys").textContent = size(mem.sys);
  $("mem-gc").textContent = mem.numGC;
  $("mem-goroutines").textContent = mem.goroutines;
  $("mem-chunks").textContent = mem.chunks;
  document.body.style.setProperty("--tide", mem.allocated / mem.limit);
  drawSpark();
}

function drawSpark() {
  const top = Math.max(...residents) * 1.15;
  const points = residents.map((v, i) => `${(240 * i) / Math.max(1, residents.length - 1)},${56 - (50 * v) / top}`);
  if (points.length < 2) return;
  const line = `M${points.join("L")}`;
  document.querySelector("#mem-spark .spark-line").setAttribute("d", line);
  document.querySelector("#mem-spark .spark-fill").setAttribute("d", `${line}V56H0Z`);
}

// ---- Probes.

const probes = { liveness: "/healthy", readiness: "/ready" };

async function showProbe(kind) {
  const status = await call(`${probes[kind]}/api`);
  weather[kind] = status.failNext;
  if ($("panel-probes")) drawProbe(kind, status);
}

function drawProbe(kind, { failNext, asked, failed, history }) {
  const card = document.querySelector(`[data-probe="${kind}"]`);
  card.dataset.state = failNext ? "failing" : "ok";
  const words = failNext < 0 ? "Failing" : failNext ? `Failing the next ${failNext}` : "Succeeding";
  if ($(`${kind}-state`).textContent !== words) $(`${kind}-state`).textContent = words;
  $(`${kind}-succeed`).ariaPressed = failNext === 0;
  $(`${kind}-fail`).ariaPressed = failNext < 0;
  $(`${kind}-fail-next`).ariaPressed = failNext > 0;
  $(`${kind}-none`).hidden = asked > 0;
  $(`${kind}-history`).hidden = asked === 0;
  $(`${kind}-ticks`).hidden = asked === 0;
  $(`${kind}-ticks`).title = `${asked} asked, ${failed} failed`;
  $(`${kind}-ticks`).replaceChildren(...history.toReversed().map((h) => {
    const tick = node("i");
    tick.dataset.status = h.status;
    return tick;
  }));
  $(`${kind}-history`).tBodies[0].replaceChildren(...history.map(probeRow));
}

function probeRow(h) {
  const row = node("tr");
  row.dataset.id = h.id;
  row.dataset.status = h.status;
  const who = node("td", h.remote, { className: "wrap" });
  who.append(node("small", h.agent, { title: h.agent }));
  row.append(node("td", h.id), node("td", clock(h.time)), node("td", h.status, { className: h.status === 200 ? "good" : "bad" }), who);
  return row;
}

async function setProbe(kind, failNext) {
  await post(`${probes[kind]}/api`, { failNext });
  await showProbe(kind);
  showWeather();
}

function armProbe(kind) {
  const on = (what, action) => $(`${kind}-${what}`).addEventListener("click", () => attempt(`${kind}-error`, action));
  on("succeed", () => setProbe(kind, 0));
  on("fail", () => setProbe(kind, -1));
  on("fail-next", () => setProbe(kind, $(`${kind}-count`).valueAsNumber));
  on("ask", async () => {
    await reach(probes[kind]); // A 500 is an answer like any other here.
    await showProbe(kind);
    showWeather();
  });
}

// ---- DNS.

async function queryDNS() {
  const button = $("dns-query");
  button.disabled = true;
  $("dns-empty").hidden = true;
  try {
    const { result } = await post("/dns/api", { type: $("dns-type").value, name: $("dns-name").value });
    drawDNS(result);
  } catch (err) {
    $("dns-result").hidden = true;
    throw err;
  } finally {
    button.disabled = false;
  }
}

function drawDNS(result) {
  $("dns-result").hidden = false;
  $("dns-result").replaceChildren(...result.trimEnd().split("\n").map((line) =>
    node("span", `${line}\n`, { className: line.startsWith(";; tried") ? "tried" : line.startsWith(";") ? "remark" : "record" })));
}

// ---- Keys.

async function showKeygen() {
  drawKeygen(await call("/keygen"));
}

function drawKeygen({ config, generated, seconds, history }) {
  document.body.dataset.steam = config.enabled ? "on" : "off";
  if (!$("panel-keygen")) return;
  const byTime = seconds / config.timeToRun;
  const byCount = config.numToGen ? generated / config.numToGen : 0;
  $("keygen-generated").textContent = generated.toLocaleString();
  $("keygen-state").textContent = `keys made. ${config.enabled ? "Under steam" : seconds ? "Ended" : "Idle"}${seconds ? `, ${seconds.toFixed(1)} s` : ""}.`;
  $("keygen-bar").value = generated || config.enabled ? Math.min(1, Math.max(byTime, byCount)) : 0;
  $("keygen-stop").disabled = !config.enabled;
  $("keygen-none").hidden = history.length > 0;
  $("keygen-history").hidden = history.length === 0;
  $("keygen-history").tBodies[0].replaceChildren(...history.map((k) => {
    const row = node("tr");
    row.append(node("td", k.id), node("td", clock(k.time)), node("td", k.kind), node("td", `${k.millis.toFixed(1)} ms`), node("td", k.fingerprint));
    return row;
  }));
}

async function startKeygen(enabled) {
  const config = { enabled, kind: $("keygen-kind").value, numToGen: $("keygen-count").valueAsNumber, timeToRun: $("keygen-time").valueAsNumber };
  drawKeygen(await post("/keygen", enabled ? config : { enabled }));
}

// ---- Panels and polling.

const panels = {
  request: () => {},
  env: showEnv,
  memory: showMemory,
  probes: () => {},
  dns: () => {},
  keygen: () => {},
};
const polled = new Set(["memory"]);

const current = () => (location.hash.slice(1) in panels ? location.hash.slice(1) : "request");

function showPanel({ focus }) {
  const name = current();
  for (const other of Object.keys(panels)) $(`panel-${other}`).hidden = other !== name;
  for (const link of document.querySelectorAll("[data-tab]")) {
    if (link.dataset.tab === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (focus) $(`h-${name}`).focus({ preventScroll: true });
  look(panels[name]).catch(console.error);
}

// look runs looks at the server, one after the other.
async function look(...shows) {
  try {
    for (const show of shows) await show();
    if (weather.lost) await findAgain();
    showWeather();
  } catch (err) {
    if (!(err instanceof Unreachable)) throw err;
    loseSight();
  }
}

async function poll() {
  if (document.visibilityState === "visible") {
    const shows = [() => showProbe("liveness"), () => showProbe("readiness"), showKeygen];
    if ($("panel-request") && polled.has(current())) shows.push(panels[current()]);
    await look(...shows).catch(console.error);
  }
  setTimeout(poll, pollEvery);
}

function arm() {
  $("env-filter").addEventListener("input", filterEnv);
  const submit = (form, error, action) => $(form).addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(error, action);
  });
  submit("mem-form", "mem-error", async () => drawMemory(await post(`/mem/api/alloc?size=${$("mem-size").value}`)));
  submit("dns-form", "dns-error", queryDNS);
  submit("keygen-form", "keygen-error", () => startKeygen(true));
  $("mem-clear").addEventListener("click", () => attempt("mem-error", async () => drawMemory(await post("/mem/api/clear"))));
  $("keygen-stop").addEventListener("click", () => attempt("keygen-error", () => startKeygen(false)));
  Object.keys(probes).forEach(armProbe);
  addEventListener("hashchange", () => showPanel({ focus: true }));
  showPanel({ focus: false });
}

if ($("panel-request")) arm();
poll();
