// Every page works without this script, but it then has to be reloaded for newer figures, and an
// allow list cannot be read from a file.

const status = document.querySelector("#live");
const board = document.querySelector("#board");

const say = (state) => { status.dataset.state = state; };
const parts = (root) => [...root.querySelectorAll("[data-part]")];
const leaves = (root) => [...root.querySelectorAll("[data-live]")];
const names = (elements) => elements.map((one) => one.dataset.live).join(" ");

const UTC = /(\d{4}-\d\d-\d\d) (\d\d:\d\d(?::\d\d)?) UTC/;

/** Shows UTC times in the browser's time zone, with UTC on hover. Times in a coupon's zone stay. */
function localise(root) {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) if (UTC.test(walker.currentNode.data)) found.push(walker.currentNode);
  for (const text of found) {
    const [utc, day, clock] = UTC.exec(text.data);
    const at = new Date(`${day}T${clock}Z`);
    if (!at.getTimezoneOffset()) continue;
    const time = document.createElement("time");
    time.title = utc;
    // Sweden writes dates as 2026-12-01 15:00:00.
    const there = at.toLocaleString("sv-SE").slice(0, day.length + 1 + clock.length);
    const zone = at.toLocaleTimeString("en", { timeZoneName: "short" }).split(" ").pop();
    time.textContent = `${there} ${zone}`;
    const rest = text.splitText(text.data.indexOf(utc));
    rest.data = rest.data.slice(utc.length);
    rest.before(time);
    if (UTC.test(rest.data)) found.push(rest);
  }
}

/**
 * Replaces only elements that differ: the selection, the focus and a screen reader's position stay.
 * Replaces all if there are other elements than before.
 */
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
  localise(fresh.content);
  const focused = document.activeElement?.id;
  const now = parts(fresh.content);
  parts(board).forEach((mine, at) => merge(mine, now[at]));
  if (focused && document.activeElement?.id !== focused) {
    document.getElementById(focused)?.focus({ preventScroll: true });
  }
  document.title = now[0].dataset.tab;
}

// The server answers within seconds even while a store does not answer. A connection that goes
// silent raises no error, so a request without an answer is ended after this time.
const SILENT_MS = 8_000;
const EVERY_MS = 1_000;

let last = "";
let timer = 0;
let isBusy = false;

/** Asks for the live part, and again a second later. Pauses while the page is hidden. */
async function listen() {
  clearTimeout(timer);
  if (document.hidden || isBusy) return;
  isBusy = true;
  try {
    const signal = AbortSignal.timeout(SILENT_MS);
    const answer = await fetch(status.dataset.source, { redirect: "manual", signal });
    if (answer.type === "opaqueredirect") {
      say("ended");
      return;
    }
    const { at, html } = await answer.json();
    if (html !== last) show(html);
    last = html;
    const clock = document.querySelector("#clock");
    clock.textContent = at;
    localise(clock);
    say("live");
  } catch {
    say("away");
  }
  isBusy = false;
  timer = setTimeout(listen, EVERY_MS);
}

localise(document.body);

if (status?.dataset.source) {
  document.addEventListener("visibilitychange", listen);
  listen();
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

// "No" and "Go back" lead to the previous page.
document.querySelector("[data-back]")?.addEventListener("click", (event) => {
  event.preventDefault();
  history.back();
});

// A preview of what was typed before is misleading.
const preview = document.querySelector("[data-preview]");
document.querySelector("form.fields")?.addEventListener("input", () => preview?.remove());

// The times of a new coupon default to the browser's time zone.
const zone = document.querySelector("[data-browser-zone]");
if (zone) zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone ?? zone.value;

if (document.querySelector("[data-running]")) setTimeout(() => location.reload(), 1500);

for (const input of document.querySelectorAll("[data-into]")) {
  input.addEventListener("change", async () => {
    const [file] = input.files;
    if (file) document.getElementById(input.dataset.into).value = await file.text();
  });
}
