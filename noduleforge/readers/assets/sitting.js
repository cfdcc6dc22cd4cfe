// A reader's sitting: fetches what is to be read, shows it, measures the time, sends the answer.

import { GreyWindow, Picture, PLANES, View } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const pages = ["start", "reading", "paused", "finished"].map($);
const KEPT = `reading ${location.pathname}`; // time of a case whose page was closed

let state = null; // of the server
let page = null;
let views = [], active = null, grey = null;
let answers = {}, order = [], asked = 0;
let sending = false;
const fetched = new Map(); // pictures by their names

// Time of the present case, in ms: runs only while it is seen.
const clock = {
  before: 0,
  since: null,
  set(before) { [this.before, this.since] = [before, null]; },
  run() { this.since ??= performance.now(); },
  stop() { [this.before, this.since] = [this.read(), null]; },
  read() { return this.before + (this.since === null ? 0 : performance.now() - this.since); },
};

function keepTime() {
  if (state?.case) localStorage.setItem(KEPT, JSON.stringify([state.position, Math.round(clock.read())]));
}

function keptTime() {
  const [position, time] = JSON.parse(localStorage.getItem(KEPT) ?? "[-1, 0]");
  return position === state.position ? time : 0;
}

function show(name) {
  page = name;
  for (const one of pages) one.hidden = one.id !== name;
  $("pause").hidden = name !== "reading";
  if (name === "reading" && !document.hidden) clock.run();
  else clock.stop();
  if (name === "reading") drawAll();
}

async function picture(name) {
  if (!fetched.has(name)) {
    fetched.set(name, fetch(`images/${name}`).then(async (response) => {
      if (!response.ok) throw new Error(`picture ${response.status}`);
      return new Picture(new Uint16Array(await response.arrayBuffer()), state.picture);
    }));
    fetched.get(name).catch(() => fetched.delete(name));
  }
  return fetched.get(name);
}

const drawAll = () => views.forEach((view) => view.draw());

function activate(view) {
  active = view;
  for (const one of views) one.figure.classList.toggle("active", one === view && views.length > 1);
}

/** Lay out all planes of one or two pictures, or one plane of each of many. */
function layOut(pictures) {
  const ct = state.picture.modality === "ct", several = pictures.length > 1;
  const planes = ct && pictures.length < 3 ? PLANES : ["axial"];
  grey = new GreyWindow(state.picture);
  views = pictures.flatMap((one, k) => planes.map((plane) => new View(one, plane, grey, {
    label: several ? String(k + 1) : "", onchange: drawAll, onactive: activate,
  })));
  const few = views.length < 4 ? views.length : Math.ceil(Math.sqrt(views.length));
  const columns = planes.length > 1 ? 3 : few;
  const box = $("views");
  box.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  if (ct && !several) box.style.gridTemplateColumns = "minmax(0, 2fr) minmax(0, 1fr)";
  box.style.gridAutoRows = "minmax(0, 1fr)";
  box.replaceChildren(...views.map((view) => view.figure));
  if (ct && !several) views[0].figure.style.gridRow = "span 2";
  activate(views[0]);
}

function element(tag, text, settings = {}) {
  return Object.assign(document.createElement(tag), { textContent: text, ...settings });
}

function optionButton(key, text, choose) {
  const button = element("button", text, { type: "button", onclick: () => { choose(); button.blur(); } });
  button.prepend(element("kbd", key));
  return button;
}

function ask() {
  const current = state.case;
  [answers, order, asked] = [{}, [], 0];
  $("practice").hidden = !current.practice;
  $("introduction").textContent = current.introduction;
  $("progress").textContent = current.practice ? "practice" : `${current.number} of ${current.of}`;
  if (current.task === "order") {
    const box = element("div", "", { className: "options" });
    current.images.forEach((_, k) => box.append(optionButton(String(k + 1), "picture", () => put(k))));
    const field = element("fieldset", "");
    field.append(element("legend", "Weakest to strongest"), box, element("p", "", { id: "order" }));
    $("questions").replaceChildren(field);
  } else {
    $("questions").replaceChildren(...current.questions.map((question, q) => {
      const field = element("fieldset", ""), box = element("div", "", { className: "options" });
      question.options.forEach(([value, text], k) => {
        // steps of a scale begin with their key already
        const label = text.startsWith(String(k + 1)) ? text.slice(1).trim() : text;
        box.append(optionButton(String(k + 1), label, () => choose(q, value)));
      });
      field.append(element("legend", question.text), box);
      return field;
    }));
  }
  mark();
}

function choose(question, value) {
  answers[state.case.questions[question].name] = value;
  const open = state.case.questions.findIndex(({ name }) => !(name in answers));
  asked = open < 0 ? question : open;
  mark();
}

function put(number) {
  if (!order.includes(number)) order.push(number);
  mark();
}

function back() {
  if (state.case.task === "order") order.pop();
  else {
    if (!(state.case.questions[asked].name in answers)) asked = Math.max(asked - 1, 0);
    delete answers[state.case.questions[asked].name];
  }
  mark();
}

function mark() {
  const { task, questions } = state.case, fields = [...$("questions").children];
  fields.forEach((field, q) => {
    field.classList.toggle("active", task === "order" || q === asked);
    [...field.querySelectorAll("button")].forEach((button, k) => {
      const chosen = task === "order" ? order.includes(k) : answers[questions[q].name] === questions[q].options[k][0];
      button.setAttribute("aria-pressed", chosen);
    });
  });
  if (task === "order") $("order").textContent = order.map((k) => k + 1).join(" < ") || "none chosen yet";
  $("answer").disabled = sending || !complete();
}

function complete() {
  const { task, questions, images } = state.case;
  return task === "order" ? order.length === images.length : questions.every(({ name }) => name in answers);
}

async function readState() {
  const response = await fetch("state");
  if (!response.ok) throw new Error(`state ${response.status}`);
  state = await response.json();
}

/** Show the present case; what was seen before stays until all of its pictures are there. */
async function present() {
  $("trouble").textContent = "";
  if (!state.case) {
    localStorage.removeItem(KEPT);
    $("progress").textContent = "";
    show("finished");
    return;
  }
  const wanted = new Set([...state.case.images, ...state.following]);
  for (const name of fetched.keys()) if (!wanted.has(name)) fetched.delete(name);
  const pictures = await Promise.all(state.case.images.map(picture));
  layOut(pictures);
  ask();
  clock.set(keptTime());
  show("reading");
  state.following.forEach((name) => picture(name).catch(() => {}));
}

async function send() {
  if (sending || page !== "reading" || !complete()) return;
  sending = true;
  $("answer").disabled = true;
  clock.stop();
  const picturesInOrder = state.case.task === "order" ? { order } : answers;
  const body = JSON.stringify({
    position: state.position, answer: picturesInOrder, reading_ms: Math.round(clock.read()),
  });
  try {
    const response = await fetch("answers", { method: "POST", body, headers: { "Content-Type": "application/json" } });
    if (response.ok) state = { ...state, ...(await response.json()) };
    else if (response.status === 409) await readState(); // answered before, such as in another window
    else throw new Error(`answer ${response.status}`);
    sending = false;
    await present();
  } catch (error) {
    sending = false;
    clock.run();
    $("trouble").textContent = `The server did not take the answer (${error.message}). Is it running? Press Enter to try again.`;
    mark();
  }
}

function key(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (page === "start" && pressed === "Enter") begin();
  else if (page === "paused" && ["Enter", "p", " "].includes(pressed)) show("reading");
  else if (page === "reading" && !act(pressed)) return;
  event.preventDefault();
}

/** Do what a key stands for; says whether it stands for anything. */
function act(pressed) {
  const digit = Number(pressed), { task, questions, images } = state.case;
  if (digit >= 1) {
    if (task === "order") {
      if (digit > images.length) return false;
      put(digit - 1);
    } else {
      const option = questions[asked].options[digit - 1];
      if (!option) return false;
      choose(asked, option[0]);
    }
    return true;
  }
  const doing = {
    Enter: send,
    Backspace: back,
    ArrowUp: () => active.scroll(-1),
    ArrowDown: () => active.scroll(1),
    PageUp: () => active.scroll(-5),
    PageDown: () => active.scroll(5),
    ArrowLeft: () => activate(views[(views.indexOf(active) + views.length - 1) % views.length]),
    ArrowRight: () => activate(views[(views.indexOf(active) + 1) % views.length]),
    "[": () => grey.move(-0.02, 0),
    "]": () => grey.move(0.02, 0),
    ",": () => grey.move(0, -0.04),
    ".": () => grey.move(0, 0.04),
    "+": () => views.forEach((view) => view.enlarge(1.25)),
    "=": () => views.forEach((view) => view.enlarge(1.25)),
    "-": () => views.forEach((view) => view.enlarge(0.8)),
    0: () => chooseWindow("reset"),
    l: () => chooseWindow("lung"),
    t: () => chooseWindow("tissue"),
    v: nextPlane,
    p: () => show("paused"),
  }[pressed];
  if (!doing) return false;
  doing();
  if (page === "reading") drawAll();
  return true;
}

function chooseWindow(name) {
  if (name === "reset") {
    grey.reset();
    views.forEach((view) => view.reset());
  } else if (grey.ct) grey.choose(name);
}

function nextPlane() {
  if (!grey.ct || state.case.images.length < 3) return;
  const plane = PLANES[(PLANES.indexOf(views[0].plane) + 1) % PLANES.length];
  views.forEach((view) => view.choosePlane(plane));
}

async function begin() {
  try {
    await present();
  } catch (error) {
    $("welcome").textContent = `The case could not be fetched (${error.message}). Is the server running? Try again.`;
  }
}

document.addEventListener("keydown", key);
document.addEventListener("visibilitychange", () => {
  if (page !== "reading") return;
  if (document.hidden) clock.stop();
  else clock.run();
  keepTime();
});
addEventListener("pagehide", keepTime);
setInterval(() => page === "reading" && keepTime(), 1000);
new ResizeObserver(drawAll).observe($("views"));
$("begin").onclick = begin;
$("answer").onclick = send;
$("pause").onclick = () => show("paused");
$("resume").onclick = () => show("reading");
for (const button of document.querySelectorAll("[data-window]")) {
  button.onclick = () => { chooseWindow(button.dataset.window); drawAll(); button.blur(); };
}

await readState();
const left = state.total - state.position;
if (left === 0) present();
else {
  $("welcome").textContent = state.position
    ? `Welcome back: ${left} of ${state.total} cases are left.`
    : `There are ${state.total} cases.`;
  show("start");
}
