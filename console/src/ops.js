// Every page works without this script, but it then has to be reloaded for newer figures, and an
// allow list cannot be read from a file.

const status = document.querySelector("#live");

const say = (state) => { status.dataset.state = state; };

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

/** Replaces only nodes that differ: the selection, the focus and a screen reader's position stay. */
function merge(mine, fresh) {
  if (mine.isEqualNode(fresh)) return;
  const [old, now] = [[...mine.childNodes], [...fresh.childNodes]];
  if (mine.nodeName !== fresh.nodeName || old.length !== now.length || !now.length) {
    mine.replaceWith(fresh);
    return;
  }
  for (const { name, value } of fresh.attributes) mine.setAttribute(name, value);
  old.forEach((child, at) => merge(child, now[at]));
}

function show(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  localise(fresh.body);
  const focused = document.activeElement?.id;
  for (const part of ["#clock", "#board"]) merge(document.querySelector(part), fresh.querySelector(part));
  if (focused && document.activeElement?.id !== focused) {
    document.getElementById(focused)?.focus({ preventScroll: true });
  }
  document.title = fresh.title;
}

// The server answers within seconds even while a store does not answer. A connection that goes
// silent raises no error, so a request without an answer is ended after this time.
const SILENT_MS = 8_000;
const EVERY_MS = 1_000;

let timer = 0;
let isBusy = false;

/** Asks for this page, and again a second later. Pauses while it is hidden. */
async function listen() {
  clearTimeout(timer);
  if (document.hidden || isBusy) return;
  isBusy = true;
  try {
    const signal = AbortSignal.timeout(SILENT_MS);
    const answer = await fetch(location.href, { redirect: "manual", signal });
    if (answer.type === "opaqueredirect") {
      say("ended");
      return;
    }
    show(await answer.text());
    say("live");
  } catch {
    say("away");
  }
  isBusy = false;
  timer = setTimeout(listen, EVERY_MS);
}

localise(document.body);

if (status) {
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

// "No" and "Go back" lead to the previous page.
document.querySelector("[data-back]")?.addEventListener("click", (event) => {
  event.preventDefault();
  history.back();
});

// The times of a new coupon are those of the browser's time zone, unless another was typed.
const zone = document.querySelector("[data-browser-zone]");
if (zone) zone.value ||= Intl.DateTimeFormat().resolvedOptions().timeZone;

if (document.querySelector("[data-running]")) setTimeout(() => location.reload(), 1500);

for (const input of document.querySelectorAll("[data-into]")) {
  input.addEventListener("change", async () => {
    const [file] = input.files;
    if (file) document.getElementById(input.dataset.into).value = await file.text();
  });
}
