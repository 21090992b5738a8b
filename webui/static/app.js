// What JavaScript adds: live regions, keys, a countdown. Every page is complete without it.

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

// -- live regions: the page is fetched again, and what is marked data-live is swapped -------------------------------

let waiting = 0, running = false, again = false;

function refresh() {
  if (document.hidden) { again = true; return; }
  clearTimeout(waiting);
  waiting = setTimeout(fetchAgain, 150);            // a burst of news is one look
}

async function fetchAgain() {
  if (running) { again = true; return; }
  running = true; again = false;
  try {
    const answer = await fetch(location.href, { headers: { "X-Live": "1" }, redirect: "manual" });
    if (answer.type === "opaqueredirect") { location.reload(); return; }   // signed out
    if (answer.ok) swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch { /* the next news tries again */ } finally { running = false; }
  if (again) setTimeout(refresh, 500);
}

function swap(fresh) {
  document.title = fresh.title;
  for (const region of $$("[data-live]")) {
    const news = fresh.getElementById(region.id);
    if (!news || busy(region)) continue;
    const now = document.createElement("template");
    now.innerHTML = news.innerHTML;
    keep(region, now.content);
    if (now.innerHTML === region.innerHTML) continue;
    const focus = pathOf(document.activeElement, region);
    region.replaceChildren(now.content);
    if (focus) $(focus, region)?.focus({ preventScroll: true });
  }
}

// Somebody types in it, or has a menu of it open: it waits.
function busy(region) {
  const active = document.activeElement;
  return (region.contains(active) && active.matches("input:not([type=checkbox]), textarea, select")) || !!$(".drop[open]", region);
}

// What is ticked, unfolded or loaded stays so.
function keep(old, fresh) {
  for (const box of $$("input[name=t]:checked", old)) $(`input[name=t][value="${box.value}"]`, fresh)?.setAttribute("checked", "");
  for (const fold of $$("details[id][open]", old)) {
    const same = fresh.getElementById(fold.id);
    same?.setAttribute("open", "");
    if (same && $("iframe", fold)) same.replaceWith(fold);
  }
}

function pathOf(element, region) {
  if (!element || !region.contains(element)) return "";
  if (element.id) return `#${CSS.escape(element.id)}`;
  if (element.name === "t") return `input[name=t][value="${element.value}"]`;
  const link = element.getAttribute("href");
  if (link) return `a[href="${CSS.escape(link)}"]`;
  const fold = element.closest("details[id]");
  return fold ? `#${CSS.escape(fold.id)} > summary` : "";
}

document.addEventListener("visibilitychange", () => { if (!document.hidden && again) refresh(); });

// -- news: one stream a browser, passed on to its other tabs --------------------------------------------------------

const tabs = "BroadcastChannel" in window ? new BroadcastChannel("ringback") : null;

function told(data) {
  const { tickets } = JSON.parse(data);
  const here = Number($("[data-ticket]")?.dataset.ticket || 0);
  if (here && tickets.includes(here)) say("Something new on this ticket.");
  if (!here || !tickets.length || tickets.includes(here) || $("#views")) refresh();
}

function say(words) { const place = $("#news"); if (place) place.textContent = words; }

function listen() {
  return new Promise((done) => {
    const stream = new EventSource("/events");
    stream.onmessage = (event) => { told(event.data); tabs?.postMessage(event.data); };
    stream.onerror = () => {                        // a refusal is final for EventSource: come back later
      if (stream.readyState === EventSource.CLOSED) setTimeout(() => done(listen()), 60_000);
    };
  });
}

if ($("[data-live]")) {
  if (tabs) tabs.onmessage = (event) => told(event.data);
  if (tabs && navigator.locks) navigator.locks.request("ringback-events", listen); else listen();
}

// -- the countdown of what can still be taken back -------------------------------------------------------------------

const left = $("[data-left]");
if (left) {
  const end = Date.now() + Number(left.dataset.left) * 1000;
  const timer = setInterval(() => {
    const seconds = Math.ceil((end - Date.now()) / 1000);
    if (seconds > 0) { left.textContent = String(seconds); return; }
    clearInterval(timer);
    left.closest("form").remove();
    refresh();
  }, 250);
}

// -- keys ------------------------------------------------------------------------------------------------------------

const rows = () => $$("#list .row .s a, .row.hit .s a");
let before = "";

function move(step) {
  const all = rows();
  const at = all.indexOf(document.activeElement);
  all[Math.max(0, Math.min(all.length - 1, at < 0 ? (step > 0 ? 0 : all.length - 1) : at + step))]?.focus();
}

// As chosen, else as the customer last wrote.
function answer() {
  const by = "#reply [name=by]:not([value=note])";
  write($(`${by}:checked`) ?? $(`${by}[checked]`) ?? $(`${by}:enabled`));
}

function write(choice) {
  if (!choice) return;
  choice.checked = true;
  $("#text").focus();
  $("#text").scrollIntoView({ block: "center" });
}

// The row that has the focus is ticked, and the bar below does it.
function forRow(act) {
  const box = $("input[name=t]", document.activeElement?.closest(".row") ?? document.createElement("p"));
  if (!box) return false;
  box.checked = true;
  act();
  return true;
}

function toMe() {
  const ticked = forRow(() => { $("#b-to").value = "me"; $(".bulk [value=assign]").click(); });
  if (!ticked) $("button[data-key=a]")?.click();
}

function close() {
  if (forRow(() => $("#b-why").focus())) return;
  const menu = $("details[data-key=e]");
  if (!menu) return;
  menu.open = true;
  $("button", menu).focus();
}

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  o: () => document.activeElement?.closest(".row") && $(".s a", document.activeElement.closest(".row")).click(),
  r: answer,
  n: () => write($("#reply [value=note]")),
  a: toMe,
  e: close,
  u: () => $(".toast button")?.click(),
  "/": () => { const field = $("#q"); field.offsetParent ? field.focus() : location.assign("/search"); },
  "?": () => { const help = $("#keys"); help.open ? help.close() : help.showModal(); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const field = event.target.closest("input:not([type=checkbox], [type=radio]), textarea, select");
  if (field) { if (event.key === "Escape") field.blur(); return; }
  if (before === "g" && event.key === "i") { location.assign("/"); before = ""; return; }
  before = event.key;
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

// Ctrl+Enter sends what is being written.
$("#text")?.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  const button = $$("#reply .main").find((each) => each.offsetParent);
  button?.click();
});

// -- how many SMS it is: the server counts, once the typing pauses ------------------------------------------------------

const parts = $("#parts"), text = $("#text");
let counting = 0;

function bySms() {
  const chosen = $("#reply [name=by]:checked"), to = $(".compose #to");
  if (!to) return chosen?.value === "sms";
  const phone = /^[+(\d][^@]*$/.test(to.value.trim());
  to.dataset.by = phone ? "sms" : "mail";
  return phone;
}

async function count() {
  const words = text.value;
  let said = { words: "" };
  if (bySms() && words.trim()) {
    const headers = { "Content-Type": "application/json", "X-CSRFToken": $("[name=csrf_token]", text.form).value };
    const inbox = parts.dataset.inbox || $("#inbox")?.value;
    const answer = await fetch("/segments", { method: "POST", headers, body: JSON.stringify({ text: words, inbox }), redirect: "manual" });
    if (!answer.ok || words !== text.value) return;  // signed out, or an older text
    said = await answer.json();
  }
  $("span", parts).textContent = said.words;
  const button = $("button", parts);
  button.hidden = !said.offer;
  button.onclick = () => { text.value = said.plain; text.focus(); count(); };
}

function soon() { clearTimeout(counting); counting = setTimeout(() => count().catch(() => {}), 200); }

if (parts) {
  for (const field of [text, ...$$("#reply [name=by]"), ...$$(".compose :is(#to, #inbox)")]) field.addEventListener("input", soon);
  soon();
}

// A form is sent once, however often it is clicked.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method === "dialog") return;
  if (form.dataset.sent) { event.preventDefault(); return; }
  form.dataset.sent = "1";
  setTimeout(() => delete form.dataset.sent, 5000);
});
