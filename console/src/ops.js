// Every page works without this script if it is reloaded. The script keeps the start page up to date.

const status = document.querySelector("#live");
const board = document.querySelector("#board");

const say = (state) => { status.dataset.state = state; };
const parts = (root) => [...root.querySelectorAll("[data-part]")];
const leaves = (root) => [...root.querySelectorAll("[data-live]")];
const names = (elements) => elements.map((one) => one.dataset.live).join(" ");

/** Replaces only elements that differ: the selection, the focus and a screen reader's position stay. */
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
  // Safe: this server wrote it and escapes every text in it.
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

// The server sends a message every second, or some seconds later while a store does not answer. A
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
    // Nobody looks at a hidden page: the server need not query its stores.
    leave();
  } else if (!source) {
    listen();
  }
}

if (status?.dataset.source) {
  document.addEventListener("visibilitychange", follow);
  follow();
}

// A browser that follows a link from another site (a webmail, say) sends no `SameSite=Strict` cookie. A
// request from this page does send it.
const next = document.querySelector("input[name=next]");
if (next) {
  // Keep the fragment of the link: `#alert-41`.
  next.value += location.hash;
  const answer = await fetch("/login", { redirect: "manual" }).catch(() => null);
  if (answer?.type === "opaqueredirect") location.replace(next.value);
}

// The button shows the number that is typed into its field.
for (const place of document.querySelectorAll("[data-number]")) {
  const [field, without] = [document.getElementById(place.dataset.number), place.textContent];
  field.addEventListener("input", () => { place.textContent = field.value.trim() || without; });
}

// The times of a new coupon default to the browser's time zone.
const zone = document.querySelector("[data-browser-zone]");
if (zone) zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone ?? zone.value;

if (document.querySelector("[data-running]")) setTimeout(() => location.reload(), 1500);
