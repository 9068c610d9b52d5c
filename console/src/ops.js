// Every screen works without this by reloading: it keeps the first one up to date.

const status = document.querySelector("#live");
const board = document.querySelector("#board");

const say = (state) => { status.dataset.state = state; };
const parts = (root) => [...root.querySelectorAll("[data-part]")];
const leaves = (root) => [...root.querySelectorAll("[data-live]")];
const names = (elements) => elements.map((one) => one.dataset.live).join(" ");

/** Changes what has changed, and leaves the rest alone: a selection, a focus, a screen reader's place. */
function merge(mine, fresh) {
  if (mine.className !== fresh.className) mine.className = fresh.className;
  const [old, now] = [leaves(mine), leaves(fresh)];
  if (names(old) !== names(now)) {
    mine.replaceChildren(...fresh.childNodes);
    return;
  }
  old.forEach((one, at) => {
    if (one.className !== now[at].className) one.className = now[at].className;
    if (one.innerHTML !== now[at].innerHTML) one.replaceChildren(...now[at].childNodes);
  });
}

function show(html) {
  const fresh = document.createElement("template");
  // Written by our own server, which escapes every text in it.
  fresh.innerHTML = html;
  const focused = document.activeElement?.id;
  const now = parts(fresh.content);
  parts(board).forEach((mine, at) => merge(mine, now[at]));
  if (focused && document.activeElement?.id !== focused) {
    document.getElementById(focused)?.focus({ preventScroll: true });
  }
  document.title = now[0].dataset.tab;
}

let source = null;
let silence = 0;

// The server says something every second, or a few seconds later while a store is silent. A
// connection that goes silent raises no error.
const SILENT_MS = 15_000;

function leave() {
  clearTimeout(silence);
  source?.close();
  source = null;
  say("away");
}

function hear() {
  clearTimeout(silence);
  silence = setTimeout(() => { leave(); listen(); }, SILENT_MS);
}

function listen() {
  source = new EventSource(status.dataset.source);
  hear();
  source.addEventListener("message", ({ data }) => {
    const { at, html } = JSON.parse(data);
    if (html !== null) show(html);
    document.querySelector("#clock").textContent = at;
    say("live");
    hear();
  });
  source.addEventListener("error", ({ target }) => {
    const hasEnded = target.readyState === EventSource.CLOSED;
    if (hasEnded) clearTimeout(silence);
    say(hasEnded ? "ended" : "away");
  });
}

function follow() {
  if (document.hidden) {
    // Nobody looks: the server need not either.
    leave();
  } else if (!source) {
    listen();
  }
}

if (status?.dataset.source) {
  document.addEventListener("visibilitychange", follow);
  follow();
}

// Who comes by a link from another site, a mail in a browser, sends no `SameSite=Strict` cookie. Asked
// from here, the server knows them.
const next = document.querySelector("input[name=next]");
if (next) {
  // A link's fragment comes along: `#alert-41`.
  next.value += location.hash;
  const answer = await fetch("/login", { redirect: "manual" }).catch(() => null);
  if (answer?.type === "opaqueredirect") location.replace(next.value);
}

// A button says the number that is typed.
for (const place of document.querySelectorAll("[data-number]")) {
  const [field, without] = [document.getElementById(place.dataset.number), place.textContent];
  field.addEventListener("input", () => { place.textContent = field.value.trim() || without; });
}

// A new coupon's times are those of the person who makes it.
const zone = document.querySelector("[data-browser-zone]");
if (zone) zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone ?? zone.value;

if (document.querySelector("[data-running]")) setTimeout(() => location.reload(), 1500);
