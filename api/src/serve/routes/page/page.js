// The coupon page. The server decides everything. This script shows its state, and retries requests
// that got no response: claiming twice is safe.

const part = (id) => document.getElementById(id);
const language = document.documentElement.lang;
const { coupon: id, token: wanted } = document.querySelector("main").dataset;
const wantsToken = wanted === "true";
const words = {};
for (const item of document.querySelectorAll("#words li")) words[item.dataset.key] = item.textContent;

const claims = `../v1/coupons/${id}/claims`;
const own = `firstcome:${id}`;
const tokenKey = "firstcome:token";

const PATIENCE_MS = 10_000; // for one response
const GIVE_UP_MS = 600_000; // for all attempts of a request
const LONGEST_PAUSE_MS = 10_000;
const ACCEPTED_PAUSE_MS = 1_500; // while the code is on its way
const RUSH_MS = 10_000; // after an opening
const CROWD_MS = 600_000; // before an opening
const LOOK_MS = 2_000; // how long the button waits for the check for an existing claim

let server = null; // the last state that the server sent
let readAt = 0; // when that state was read, by performance.now()
let mine = null; // this user's claim
let work = null; // "loading", "claiming" or "trying" while a request is under way
let full = null; // the drop whose waiting list is full
let note = null, noteDrop = null; // why the last claim was refused, and in which drop
let unsure = false; // whether a response to this claim was lost: it may have been accepted
let misses = 0; // consecutive failures to get the state
let asking = false; // whether the page asks to confirm a return
let looked = false; // whether an existing claim was looked up; until then, show nothing that would mislead a holder
let poll, ticker, copied = false;

// ---- words

const say = (key, values = {}) => words[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
const count = (number) => number.toLocaleString(language);
const at = (ms) => new Intl.DateTimeFormat(language, { dateStyle: "long", timeStyle: "short" }).format(ms);
const place = (n) => say(`place_${new Intl.PluralRules(language, { type: "ordinal" }).select(n)}`, { n: count(n) });

function countdown(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  const days = Math.floor(seconds / 86_400);
  const parts = [Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60, seconds % 60];
  const clock = parts.map((n) => String(n).padStart(2, "0")).join(":");
  return days ? `${say("days", { n: days })} ${clock}` : clock;
}

// ---- browser storage; claims also work in a browser that stores nothing

function recall(storage, key) {
  try {
    return window[storage].getItem(key);
  } catch {
    return null;
  }
}

function keep(storage, key, value) {
  try {
    if (value === null) window[storage].removeItem(key);
    else window[storage].setItem(key, value);
  } catch {} // the page works without storage
}

// The token is in the fragment, which browsers never send to a server, and is removed
// from the address at once.
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  const known = recall("sessionStorage", tokenKey);
  if (!given) return known;
  if (given !== known) keep("sessionStorage", own, null);
  keep("sessionStorage", tokenKey, given);
  history.replaceState(null, "", location.pathname + location.search);
  return given;
}

let token = takeToken();
addEventListener("hashchange", () => location.reload());

// ---- requests

// The time by the server's clock; the device's clock may be wrong.
const now = () => server.now_ms + performance.now() - readAt;
// Lengthens a delay randomly: browsers must not return together.
const spread = (ms) => ms * (1 + 0.4 * Math.random());

function pause(ms) {
  return new Promise((resolve) => {
    const over = new AbortController();
    const end = () => {
      over.abort();
      clearTimeout(timer);
      resolve();
    };
    const timer = setTimeout(end, spread(ms));
    addEventListener("online", end, { signal: over.signal });
  });
}

const visible = () =>
  document.hidden && new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));

// A response that is cut off, or is not JSON, counts as no response: status 0.
async function ask(method, path) {
  const headers = wantsToken ? { Authorization: `Bearer ${token}` } : {};
  try {
    const options = { signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store", redirect: "manual" };
    const answer = await fetch(path, { method, headers, ...options });
    // The API never redirects. A gateway does, to its log-in page, when the session is over.
    if (answer.type === "opaqueredirect") return { status: 401, body: {}, after: 0 };
    const after = Number(answer.headers.get("Retry-After")) * 1000 || 0;
    return { status: answer.status, body: await answer.json(), after };
  } catch {
    return { status: 0, body: {}, after: 0 };
  }
}

// Retries until a conclusive response; null if there was none for GIVE_UP_MS.
async function settle(method, path) {
  const last = performance.now() + GIVE_UP_MS;
  for (let failures = 0; ; failures++) {
    const answer = await ask(method, path);
    if (answer.status !== 0 && answer.status !== 429 && answer.status < 500) return answer;
    if (performance.now() > last) return null;
    work = "trying";
    unsure = true;
    render();
    await pause(Math.max(answer.after, Math.min(1000 * 2 ** failures, LONGEST_PAUSE_MS)));
  }
}

// The drop that is open, else the next one, else the last.
function stateOf({ now_ms, coupon }) {
  const { current_drop: current, next_drop: next } = coupon;
  const drop = (["open", "sold_out", "paused"].includes(current?.state) ? current : next) ?? current ?? coupon;
  const state = drop.state?.replace("sealed", "closed") ?? "closed";
  const opens = Date.parse(drop.opens_at);
  const left = opens - now_ms;
  const ahead = state === "scheduled" && current && left > CROWD_MS ? 0 : null;
  return {
    now_ms, state, drop_id: drop.id, quantity: drop.quantity, one_per_drop: coupon.once_per === "drop" && coupon.schedule?.type !== "once",
    opens_at_ms: opens, closes_at_ms: drop.closes_at && Date.parse(drop.closes_at),
    next: coupon.once_per === "drop" && Date.parse(next?.opens_at),
    can_wait: coupon.waiting_list > 0 && drop.id !== full,
    // No poll falls into the rush after an opening, and no claim is looked up around one.
    poll_after_ms: { scheduled: Math.min(Math.max(left / 4, 5_000), 60_000), open: 60_000, sold_out: 10_000, paused: 10_000 }[state],
    look_after_ms: state === "open" || state === "sold_out" ? Math.max(left + RUSH_MS, 0) : ahead,
  };
}

async function refresh() {
  clearTimeout(poll);
  const before = performance.now();
  const answer = await ask("GET", `${id}/state`);
  if (answer.status === 200) {
    server = stateOf(answer.body);
    readAt = (before + performance.now()) / 2;
    misses = 0;
    if (note !== "expired" && noteDrop !== server.drop_id) note = null; // a new drop
    if (note === "lost_place" && server.state === "closed") note = null;
  } else misses += 1;
  render();
  refreshIn(misses ? Math.min(1000 * 2 ** misses, 60_000) : server.poll_after_ms);
}

// No poll in a hidden tab, during a request, or once the user has the only claim.
const mayRefresh = () => !document.hidden && !work && (!mine || server.one_per_drop);

function refreshIn(ms) {
  clearTimeout(poll);
  if (ms) poll = setTimeout(() => mayRefresh() && refresh(), spread(ms));
}

// ---- this user's claim

// With one per drop, the previous drop's claim is shown until ten minutes before the next opens.
const isEarlier = () => server.one_per_drop && mine.drop_id !== server.drop_id && server.opens_at_ms - now() < CROWD_MS;
const isOpen = () => server?.state === "open" || server?.state === "sold_out";
const canClaim = () => isOpen() && (!mine || isEarlier());

async function claim() {
  if (work || !canClaim()) return; // a double tap sends one claim
  work = "claiming";
  mine = note = null;
  unsure = recall("sessionStorage", own) === "trying";
  keep("localStorage", own, "tried");
  keep("sessionStorage", own, "trying");
  render();
  let answer = await settle("POST", claims);
  // The server's clock is known only to within some milliseconds, so the claim may be early.
  for (let early = 0; early < 20 && opensSoon(answer); early++) {
    await pause(Math.max(opensSoon(answer), 300));
    answer = await settle("POST", claims);
  }
  if (answer) keep("sessionStorage", own, null);
  work = null;
  take(answer);
}

function opensSoon(answer) {
  if (answer?.body.code !== "not_open") return 0;
  const left = Date.parse(answer.body.opens_at) - now();
  return left < 5000 ? Math.max(left, 1) : 0;
}

function take(answer) {
  const code = answer?.body.code;
  if (!answer) refuse("stopped");
  else if (answer.status === 401 || code === "bad_user_id") forget();
  else if (answer.status < 300) meet(answer.body);
  else if (code === "not_allowed") refuse(code);
  else if (code === "revoked") mine = { status: code, drop_id: server.drop_id };
  else if (code === "sold_out") {
    full = server.drop_id;
    Object.assign(server, { state: code, can_wait: false });
  }
  else if (code === "paused" || code === "closed") server.state = code;
  else if (code === "not_open") Object.assign(server, { state: "scheduled", opens_at_ms: Date.parse(answer.body.opens_at) });
  else refuse("refused");
  render();
  // In a rush, ask for the next drop or a returned coupon only once it is over.
  if (!mine && note !== "expired") refreshIn(note ? 60_000 : code === "sold_out" ? 20_000 : (server.poll_after_ms ?? 10_000));
}

const refuse = (why) => ([note, noteDrop] = [why, server.drop_id]);

// What the browser stores of a place in a waiting list: the drop, and the token's checksum.
const placeMark = (drop) => `waiting ${drop} ${[...(token ?? "")].reduce((sum, c) => (sum * 31 + c.charCodeAt(0)) | 0, 0)}`;

// Handles a claim of `claims` and `claims/me`.
function meet(claim) {
  const waited = mine?.status === "waiting" ? mine.drop_id === server.drop_id : recall("localStorage", own) === placeMark(server.drop_id);
  if (claim.status === "already_claimed") mine = { ...claim, status: "accepted", old: true, already: !unsure };
  // An accepted claim stays until the server reports another status.
  else if (claim.status === "none") mine = mine?.status === "accepted" ? mine : null;
  else mine = { ...claim, drop_id: claim.drop_id ?? server.drop_id, already: mine?.already };
  if (mine) keep("localStorage", own, mine.status === "waiting" ? placeMark(mine.drop_id) : "tried");
  if (!mine && waited) missPlace(server.drop_id);
  follow();
}

// Redis may lose a waiting list. A closed drop has none, but this page may learn that later.
async function missPlace(drop) {
  work = "loading";
  do {
    await pause(2000);
    await refresh();
  } while (misses);
  work = null;
  if (!mine && server.drop_id === drop && isOpen()) refuse("lost_place");
  render();
}

function forget() {
  note = "expired";
  token = mine = null;
  keep("sessionStorage", tokenKey, null);
}

const isUnderWay = () => mine?.status === "accepted" || (mine?.position && mine.status !== "issued");
let following = false;
async function follow() {
  if (following || !isUnderWay()) return;
  following = true;
  for (let wait = 0; isUnderWay(); ) {
    const { status, old } = mine;
    const told = status === "accepted" ? ACCEPTED_PAUSE_MS : LONGEST_PAUSE_MS;
    // Most codes arrive at once, and an earlier claim most likely has its code.
    const first = status === "accepted" ? (old ? 100 : 200) : told;
    wait = wait ? Math.max(Math.min(wait * 2, told), Math.min(wait * 1.5, LONGEST_PAUSE_MS)) : first;
    await pause(wait);
    await visible();
    const answer = await ask("GET", `${claims}/me`);
    if (answer.status === 200) meet(answer.body);
    else if (answer.status === 401) forget();
    if (mine?.status !== status) wait = 0;
    render();
  }
  following = false;
  if (!mine && note !== "expired") refresh();
}

// Looks up a claim of another browser. In a rush, or without a response, the button does not wait.
async function lookBeside() {
  const show = () => {
    looked = true;
    render();
  };
  const late = setTimeout(show, server.look_after_ms ? 0 : LOOK_MS);
  if (server.look_after_ms) await pause(server.look_after_ms + Math.random() * 3000);
  const answer = !work && !mine && !note && (await ask("GET", `${claims}/me`));
  clearTimeout(late);
  looked = true;
  if ([200, 401].includes(answer.status) && !work && !mine && !note) take(answer);
  else render();
}

async function lookUp() {
  looked = true;
  work = "loading";
  render();
  const answer = await settle("GET", `${claims}/me`);
  work = null;
  take(answer);
}

async function giveBack() {
  if (work) return;
  asking = false;
  work = "loading";
  render();
  // Names the drop: a retry after the next drop has opened must not give back that drop's coupon.
  const answer = await settle("DELETE", `${claims}/me${server.one_per_drop ? `?drop_id=${mine.drop_id}` : ""}`);
  work = mine = null;
  if (answer?.status === 404) refresh(); // there is no claim
  else if (answer?.body.code === "used") lookUp();
  else take(answer);
}

async function copy() {
  const code = part("code").querySelector("output");
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    // Without https there is no clipboard: select the code for the user.
    return getSelection().selectAllChildren(code);
  }
  copied = true;
  render();
}

// ---- display

function validity() {
  if (mine.used_at) return say("used", { time: at(Date.parse(mine.used_at)) });
  if (!mine.expires_at) return "";
  const end = Date.parse(mine.expires_at);
  return say(end <= now() ? "ended" : "valid_until", { time: at(end) });
}

function ofClaim() {
  const total = count(server.quantity);
  const number = { n: count(mine.slot ?? 0), total };
  const label = say(mine.already ? "already" : "yours");
  const next = server.next ? say("next", { time: at(server.next) }) : "";
  switch (mine.status) {
    case "issued":
      return { view: "issued", label, big: count(mine.slot), detail: say("number", number) + validity() + next, code: mine.code,
        button: say(copied ? "copied" : "copy"), act: copy };
    case "accepted":
      return { view: "accepted", label, big: count(mine.slot), detail: say("coming", number) };
    case "waiting":
      return { view: "waiting", label: say("waiting"), big: place(mine.position), detail: say("waiting_why") };
    case "broken":
      return { view: "broken", label: say("broken"), big: mine.position ? place(mine.position) : "", detail: say("broken_why") };
    default: {
      const what = mine.slot === null ? "left" : "revoked"; // a position in the waiting list has no slot
      return { view: "revoked", label: say(what), detail: say(`${what}_why`) };
    }
  }
}

function ofWork() {
  if (work === "loading") return { view: "loading", label: say("loading") };
  if (work === "claiming") return { view: "claiming", label: say("claiming"), detail: say("claiming_why"), button: say("get") };
  return { view: "trying", label: say("trying"), detail: say("trying_why"), button: say("claiming") };
}

const claimButton = () => (server.state === "open" ? say("get") : server.can_wait ? say("join") : say("try_anyway"));

function ofNote() {
  if (note === "not_allowed")
    return { view: note, label: say(note), detail: say("not_allowed_why"), button: canClaim() && say("again"), act: claim };
  if (note === "lost_place")
    return { view: note, label: say(note), detail: say("lost_place_why"), button: canClaim() && claimButton(), act: claim };
  if (note === "stopped") return { view: note, label: say("stopped"), detail: say("stopped_why"), button: say("again"), act: begin };
  return { view: "refused", label: say("refused"), detail: say("refused_why") };
}

function ofState() {
  const { state, opens_at_ms: opens, closes_at_ms: closes } = server;
  switch (state) {
    case "scheduled":
      return { view: state, label: say("opens_in"), big: countdown(opens - now()), detail: say("opens_at", { time: at(opens) }),
        button: say("not_yet") };
    case "paused":
      return { view: state, label: say("paused"), detail: say("paused_why"), button: say("get") };
    case "open":
      return { view: state, label: say("open"),
        detail: closes ? say(server.one_per_drop ? "open_daily" : "open_until", { time: at(closes) }) : say("open_why"),
        button: claimButton(), act: claim };
    case "sold_out":
      return { view: server.can_wait ? "can_wait" : state, label: say("sold_out"),
        detail: say(server.can_wait ? "can_wait_why" : "sold_out_why"), button: claimButton(), act: claim };
    default:
      return { view: "closed", label: say("closed"), detail: closes ? say("closed_at", { time: at(closes) }) : say("closed_why") };
  }
}

function ofAll() {
  if (note === "expired") {
    if (wantsToken) return { view: note, label: say("expired"), detail: say("expired_why") };
    // Loading the page leads to the gateway's log-in page.
    return { view: note, label: say("logged_out"), detail: say("logged_out_why"), button: say("log_in"), act: () => location.reload() };
  }
  if (wantsToken && !token) return { view: "who", label: say("who"), detail: say("who_why") };
  if (!server && misses > 1) return { view: "away", label: say("away"), detail: say("away_why") };
  if (!server || !looked) return { view: "loading", label: say("loading") };
  if (work) return ofWork();
  if (mine && !isEarlier()) return ofClaim();
  return note ? ofNote() : ofState();
}

let shown = {};

// Unchanged text is not written again: a screen reader would repeat it.
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function render() {
  passTime();
  shown = ofAll();
  part("view").dataset.view = shown.view;
  write(part("label"), shown.label);
  write(part("big"), shown.big ?? "");
  write(part("detail"), shown.detail ?? "");
  part("big").hidden = !shown.big;
  part("code").hidden = !shown.code;
  write(part("code").querySelector("output"), shown.code ?? "");
  const button = part("main");
  // Hiding the focused button would lose the focus.
  if (!shown.button && document.activeElement === button) part("label").focus();
  button.hidden = !shown.button;
  button.setAttribute("aria-disabled", String(!shown.act));
  write(button, shown.button ?? "");
  const waits = mine?.status === "waiting";
  write(part("back"), say(waits ? "leave" : "give_back"));
  write(part("ask"), say(waits ? "leave_sure" : "sure"));
  write(part("yes"), say(waits ? "yes_leave" : "yes_back"));
  write(part("keep"), say(waits ? "stay" : "keep"));
  const giveable = !work && ["accepted", "issued", "waiting"].includes(mine?.status);
  part("back").hidden = !giveable || asking;
  part("sure").hidden = !giveable || !asking;
}

// Opens and closes the drop by the server's clock, and renders again at the next second or the closing.
function passTime() {
  clearTimeout(ticker);
  if (!server) return;
  if (server.state === "scheduled" && now() >= server.opens_at_ms) {
    server.state = "open";
    refreshIn(60_000); // no request during the rush
  }
  if (isOpen() && server.closes_at_ms && now() >= server.closes_at_ms) {
    server.state = "closed";
    refreshIn(5_000); // there may be a next drop
  }
  const { state, opens_at_ms: opens, closes_at_ms: closes } = server;
  if (state === "scheduled") ticker = setTimeout(render, ((opens - now()) % 1000) + 1);
  else if (isOpen() && closes) ticker = setTimeout(render, Math.min(closes - now(), 3_600_000) + 1);
}

part("main").addEventListener("click", () => shown.act?.());
part("yes").addEventListener("click", giveBack);
for (const [button, to, next] of [["back", true, "keep"], ["keep", false, "back"]]) {
  part(button).addEventListener("click", () => {
    asking = to;
    render();
    part(next).focus();
  });
}
document.addEventListener("visibilitychange", () => mayRefresh() && refresh());

async function begin() {
  note = null;
  render();
  if (wantsToken && !token) return;
  await refresh();
  while (!server) await pause(1000);
  if (recall("sessionStorage", own) === "trying" && canClaim()) {
    looked = true;
    return claim();
  }
  if (recall("localStorage", own) || server.state === "closed" || server.state === "paused") return lookUp();
  // Null while a crowd waits for an opening: that spares the stores.
  if (server.look_after_ms != null) return lookBeside();
  looked = true;
  render();
}

begin();
