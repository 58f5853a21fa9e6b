"use strict";

const $ = (id) => document.getElementById(id);
const token = document.querySelector("meta[name=token]").content;
const opened = Date.now(); // part of the addresses of pictures: an earlier page's are not shown again
const list = { items: [], total: 0, ended: false, request: 0, busy: false };
let picture = null; // what the server says of the one that is open
let selected = 0; // in picture.instances
let drawing = null; // {key, clicks: [{x, y, label}], masks, chosen}: a mask that is being made
let saving = Promise.resolve(); // reviews reach the server in the order in which they were made
let modelsLoaded = false;
let segmenter = "";

async function ask(path, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Grounded-Token": token },
    body: JSON.stringify(body),
  };
  const answer = await fetch(path, options).catch(() => {
    throw new Error("The server does not answer. Is it still running?");
  });
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(data.error || `The server failed (${answer.status}); its terminal says more`);
  return data;
}

const query = (values) => new URLSearchParams(values).toString();
const percent = (share) => `${(share * 100).toFixed(share > 0.995 && share < 1 ? 1 : 0)}%`;
const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// ---- the list

async function summarise() {
  const found = await ask("/api/summary");
  $("name").textContent = found.name;
  document.title = `Review ${found.name}`;
  modelsLoaded = found.models_loaded;
  segmenter = found.segmenter;
  showAgreement(found.agreement);
  const phrase = $("query").phrase.value;
  $("query").phrase.replaceChildren(new Option("all", ""), ...found.phrases.map((name) => new Option(name)));
  $("query").phrase.value = phrase;
  $("phrases").replaceChildren(...found.phrases.map((name) => element("option", { value: name })));
  $("notice").hidden = !found.error;
  $("notice").textContent = found.error ? `Not all records could be read: ${found.error}` : "";
  if (found.read < found.total && !found.error) setTimeout(() => summarise().catch(tell), 2000);
}

function showAgreement(a) {
  const parts = [];
  if (a.pictures || a.outdated) {
    parts.push(`${count(a.reviewed, "instance")} reviewed in ${count(a.pictures, "picture")}`);
    if (a.reviewed) parts.push(`${percent(a.rejected_share)} rejected`, `${percent(a.relabelled_share)} relabelled`);
    parts.push(`${a.added} added`);
    if (a.outdated) parts.push(`${a.outdated} of earlier records, which do not count`);
    if (a.compared) {
      const above = `${percent(a["above_0.9"])} above IoU 0.9`;
      parts.push(`of ${count(a.compared, "mask")} accepted or redrawn ${above}, mean ${a.mean_iou.toFixed(3)}`);
    }
  }
  $("agreement").textContent = parts.length ? `${parts.join(" · ")}.` : "Nothing reviewed yet.";
}

function startList() {
  Object.assign(list, { items: [], total: 0, ended: false, busy: false, request: list.request + 1 });
  $("grid").replaceChildren();
  loadMore();
}

function chosen() {
  const { sort, phrase, state } = $("query");
  return { sort: sort.value, phrase: phrase.value, state: state.value };
}

async function loadMore() {
  if (list.busy || list.ended) return;
  list.busy = true;
  const request = list.request;
  $("more").textContent = "Loading …";
  const values = chosen();
  if (list.items.length) values.after = list.items.at(-1).file;
  try {
    const found = await ask(`/api/pictures?${query(values)}`);
    if (request !== list.request) return; // another list was asked for meanwhile
    list.items.push(...found.pictures);
    list.total = found.total;
    list.ended = !found.pictures.length && found.read === found.of;
    $("grid").append(...found.pictures.map(card));
    const reading = found.read < found.of ? `, ${found.read.toLocaleString("en")} of ${found.of.toLocaleString("en")} read` : "";
    $("count").textContent = `${count(found.total, "picture")}${reading}`;
    $("more").textContent = list.ended && !list.items.length ? "No such picture." : "";
    list.busy = false;
    if (found.read < found.of && !found.pictures.length) setTimeout(loadMore, 1000);
    else if (!list.ended && $("more").getBoundingClientRect().top < innerHeight + 600) loadMore();
  } catch (error) {
    $("more").textContent = error.message;
    list.ended = true;
    list.busy = false;
  }
}

function card(item) {
  const made = element("a", { className: "card", href: `#${encodeURIComponent(item.file)}` });
  made.dataset.file = item.file;
  fillCard(made, item);
  return made;
}

function fillCard(made, item) {
  const source = `/api/thumbnail?${query({ file: item.file, v: `${opened}-${item.version}` })}`;
  const facts = [element("span", { textContent: count(item.instances, "instance") })];
  if (item.score !== null) facts.push(element("span", { textContent: `lowest ${item.score.toFixed(2)}` }));
  const names = { partly: "partly", done: "reviewed", reject: "rejected", relabel: "relabelled", redraw: "redrawn", add: "added" };
  for (const state of ["done", "partly", "reject", "relabel", "redraw", "add"])
    if (item.states.includes(state)) facts.push(element("span", { className: `badge ${state}`, textContent: names[state] }));
  made.replaceChildren(
    element("img", { src: source, alt: "", loading: "lazy" }),
    element("div", {}, element("strong", { title: item.file }, element("bdi", { textContent: item.file })), element("p", {}, ...facts)),
  );
}

// ---- one picture

async function open(file) {
  stopDrawing();
  $("list").hidden = true;
  $("picture").hidden = false;
  $("file").textContent = file;
  picture = null;
  selected = 0;
  zoom(false);
  $("masks").replaceChildren();
  $("instances").replaceChildren();
  $("photo").removeAttribute("src");
  tell("Loading …");
  showPlace(file);
  try {
    const found = await ask(`/api/picture?${query({ file })}`);
    if (file !== current()) return;
    picture = found;
    selected = Math.max(0, firstOpen(0));
    showPhoto();
    show();
    tell(guide());
  } catch (error) {
    tell(error);
  }
}

const current = () => decodeURIComponent(location.hash.slice(1));

function showPhoto() {
  $("missing").hidden = !picture.missing;
  $("missing").textContent = picture.missing ? `${picture.missing}. The masks can be reviewed, but not redrawn.` : "";
  $("photo").classList.toggle("absent", Boolean(picture.missing));
  $("photo").alt = `The picture ${picture.file}`;
  if (!picture.missing) $("photo").src = `/api/image?${query({ file: picture.file, v: opened })}`;
  $("masks").setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
  fit();
  const next = list.items[place() + 1];
  if (next) new Image().src = `/api/image?${query({ file: next.file, v: opened })}`;
}

function fit() {
  if (!picture) return;
  const frame = $("frame");
  const scale = Math.min(frame.clientWidth / picture.width, frame.clientHeight / picture.height);
  $("stage").style.width = `${picture.width * scale}px`;
  $("stage").style.height = `${picture.height * scale}px`;
}

const place = () => list.items.findIndex((item) => item.file === current());

function showPlace() {
  const at = place();
  $("previous").disabled = at < 1;
  $("next").disabled = at >= 0 && list.ended && at === list.items.length - 1;
}

async function step(by) {
  const at = place();
  if (at < 0 && by > 0) return stepBeyond();
  if (at + by < 0) return;
  if (at + by >= list.items.length) {
    tell("Loading …");
    await loadMore();
  }
  const item = list.items[at + by];
  if (item) location.hash = encodeURIComponent(item.file);
  else tell("This is the last picture.");
}

// From a picture that was opened by its address, and is not in the list yet.
async function stepBeyond() {
  const found = await ask(`/api/pictures?${query({ ...chosen(), after: current(), limit: 1 })}`).catch(tell);
  if (found?.pictures.length) location.hash = encodeURIComponent(found.pictures[0].file);
  else if (found) tell("This is the last picture.");
}

const states = { accept: "accepted", reject: "rejected", relabel: "relabelled", redraw: "redrawn", add: "added" };

function show() {
  const byArea = picture.instances.map((_, i) => i).sort((a, b) => picture.instances[b].area - picture.instances[a].area);
  const order = [...byArea.filter((i) => i !== selected), ...byArea.filter((i) => i === selected)];
  const outlines = order.map((i) => {
    const made = outline(picture.instances[i].path, picture.instances[i].colour);
    made.classList.toggle("reject", picture.instances[i].state === "reject");
    made.classList.toggle("selected", i === selected && !drawing);
    made.addEventListener("click", () => drawing || select(i));
    return made;
  });
  if (drawing?.masks.length) {
    const candidate = outline(drawing.masks[drawing.chosen].path, "");
    candidate.classList.add("candidate");
    outlines.push(candidate);
  }
  $("masks").replaceChildren(...outlines, ...(drawing?.clicks ?? []).map(dot));
  $("masks").classList.toggle("drawing", Boolean(drawing));
  $("instances").replaceChildren(...picture.instances.map(row));
  $("instances").children[selected]?.scrollIntoView({ block: "nearest" });
  const one = picture.instances[selected];
  if (document.activeElement !== $("phrase")) $("phrase").value = one?.phrase ?? "";
  $("accept").disabled = !one && !isOpenAndEmpty();
  $("reject").disabled = !one;
  $("relabel").querySelector("button").disabled = !one;
  $("redraw").disabled = !one || Boolean(picture.missing);
  $("add").disabled = Boolean(picture.missing);
  $("undo").disabled = !picture.version;
  $("accept-all").disabled = firstOpen(0) < 0;
  showDrawing();
}

function outline(path, colour) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "path");
  made.setAttribute("d", path);
  if (colour) made.style.setProperty("--colour", colour);
  return made;
}

function dot({ x, y, label }) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  const scale = picture.width / $("masks").getBoundingClientRect().width;
  for (const [name, value] of Object.entries({ cx: x, cy: y, r: 6 * scale, fill: label ? "#16a34a" : "#dc2626" }))
    made.setAttribute(name, value);
  return made;
}

function row(one, i) {
  const colour = element("i");
  colour.style.setProperty("--colour", one.colour);
  const score = one.score === null ? "" : one.score.toFixed(2);
  const made = element("button", { className: one.state ?? "" }, colour, element("span", { textContent: one.phrase }));
  if (one.state) made.append(element("span", { className: `badge ${one.state}`, textContent: states[one.state] }));
  made.append(element("span", { textContent: score, title: "score" }));
  made.setAttribute("aria-current", String(i === selected));
  made.addEventListener("click", () => select(i));
  return element("li", {}, made);
}

function select(i) {
  selected = Math.min(Math.max(i, 0), Math.max(0, picture.instances.length - 1));
  $("phrase").blur();
  show();
  if ($("stage").classList.contains("zoomed")) zoom(true);
}

// The first instance, from one on and around, of which nothing has been said; -1 where there is none.
function firstOpen(from) {
  const n = picture.instances.length;
  for (let i = 0; i < n; i++) if (!picture.instances[(from + i) % n].state) return (from + i) % n;
  return -1;
}

const isOpenAndEmpty = () => !picture.instances.length && picture.states.includes("unreviewed");

function guide() {
  if (isOpenAndEmpty()) return `Nothing was found here: accept that${picture.missing ? "." : ", or add what is missing."}`;
  if (!picture.instances.length) return "Reviewed: nothing is there.";
  const open = picture.instances.filter((one) => !one.state).length;
  return open ? `${open} of ${count(picture.instances.length, "instance")} to review.` : "All instances are reviewed.";
}

function tell(what) {
  $("status").textContent = what instanceof Error ? what.message : what;
  $("status").classList.toggle("error", what instanceof Error);
}

// ---- reviews

function say(said) {
  const file = picture.file;
  saving = saving.then(async () => {
    try {
      const answer = await ask("/api/reviews", { file, said });
      showAgreement(answer.agreement);
      refreshCard(answer.picture);
      if (picture?.file !== file) return;
      const key = picture.instances[selected]?.key;
      picture = answer.picture;
      const added = said[0].action === "add" ? picture.instances.length - 1 : -1;
      const same = picture.instances.findIndex((one) => one.key === key);
      selected = added >= 0 ? added : Math.max(same, 0);
      show();
      tell(guide());
      const known = [...$("phrases").children].map((option) => option.value);
      const news = picture.instances.map((one) => one.phrase).filter((phrase) => !known.includes(phrase));
      $("phrases").append(...[...new Set(news)].map((phrase) => element("option", { value: phrase })));
    } catch (error) {
      if (picture?.file === file) await open(file);
      tell(error);
    }
  });
}

function refreshCard(found) {
  const item = list.items.find((one) => one.file === found.file);
  if (!item) return;
  Object.assign(item, { version: found.version, states: found.states });
  const made = [...$("grid").children].find((one) => one.dataset.file === found.file);
  if (made) fillCard(made, item);
}

function judge(action) {
  const one = picture?.instances[selected];
  if (!one) {
    if (picture && action === "accept" && isOpenAndEmpty()) say([{ action }]);
    return;
  }
  one.state = action; // shown before the server has answered
  const next = firstOpen(selected + 1);
  if (next >= 0) selected = next;
  show();
  if ($("stage").classList.contains("zoomed")) zoom(true);
  say([{ action, key: one.key }]);
}

function acceptRest() {
  const rest = picture.instances.filter((one) => !one.state);
  if (!rest.length) return;
  for (const one of rest) one.state = "accept";
  show();
  say(rest.map((one) => ({ action: "accept", key: one.key })));
}

function undo() {
  if (picture?.version) say([{ action: "undo" }]);
}

$("relabel").addEventListener("submit", (event) => {
  event.preventDefault();
  const one = picture?.instances[selected];
  const phrase = $("phrase").value.trim();
  $("phrase").blur();
  if (one && phrase && phrase !== one.phrase) say([{ action: "relabel", key: one.key, phrase }]);
});

// ---- drawing by clicks

function startDrawing(key) {
  if (!picture || picture.missing || (key !== null && !picture.instances.length)) return;
  drawing = { key, clicks: [], masks: [], chosen: 0, busy: false, waiting: false };
  $("drawing").reset();
  $("new-phrase").value = picture.instances[selected]?.phrase ?? $("phrases").firstChild?.value ?? "";
  $("masks").classList.remove("hidden");
  show();
  tell(key === null ? "Add an instance: click it." : `Redraw “${picture.instances[selected].phrase}”: click it.`);
}

function stopDrawing() {
  drawing = null;
  if (picture) show();
}

function showDrawing() {
  $("reviewing").hidden = Boolean(drawing);
  $("drawing").hidden = !drawing;
  if (!drawing) return;
  $("afresh-line").hidden = drawing.key === null;
  $("new-line").hidden = drawing.key !== null;
  $("keep").disabled = !drawing.masks.length || drawing.busy;
  $("other").disabled = drawing.masks.length < 2;
  $("unclick").disabled = !drawing.clicks.length;
}

function click(event, label) {
  if (!drawing) return;
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform($("masks").getScreenCTM().inverse());
  const x = Math.min(Math.max(at.x, 0), picture.width);
  const y = Math.min(Math.max(at.y, 0), picture.height);
  drawing.clicks.push({ x, y, label });
  show();
  predict();
}

async function predict() {
  const own = drawing;
  if (own.busy) {
    own.waiting = true; // asked again with all clicks when the answer is there
    return;
  }
  own.masks = [];
  own.chosen = 0;
  const key = $("afresh").checked ? null : own.key;
  if (!own.clicks.length || (key === null && !own.clicks.some((one) => one.label))) {
    show();
    tell(own.clicks.length ? "Click something that belongs to it." : "Click it.");
    return;
  }
  own.busy = true;
  tell(modelsLoaded ? "Drawing …" : `Loading the segmenter ${segmenter}. This takes a while, once …`);
  show();
  try {
    const answer = await ask("/api/masks", {
      file: picture.file,
      key,
      phrase: own.key === null ? $("new-phrase").value || "object" : picture.instances[selected].phrase,
      points: own.clicks.map(({ x, y }) => [x, y]),
      labels: own.clicks.map(({ label }) => label),
    });
    modelsLoaded = answer.models_loaded;
    own.masks = answer.masks;
    if (drawing === own) tell(own.masks.length ? describe() : "Nothing can be seen there: click elsewhere.");
  } catch (error) {
    if (drawing === own) tell(error);
  }
  own.busy = false;
  if (drawing !== own) return;
  show();
  if (own.waiting) {
    own.waiting = false;
    predict();
  }
}

function describe() {
  const { masks, chosen } = drawing;
  const which = masks.length > 1 ? `Mask ${chosen + 1} of ${masks.length}. ` : "";
  return `${which}Keep it, or click again to correct it.`;
}

function another() {
  if (!drawing || drawing.masks.length < 2) return;
  drawing.chosen = (drawing.chosen + 1) % drawing.masks.length;
  show();
  tell(describe());
}

function unclick() {
  if (!drawing?.clicks.length) return;
  drawing.clicks.pop();
  show();
  predict();
}

function keep() {
  if (!drawing?.masks.length || drawing.busy) return;
  const { mask } = drawing.masks[drawing.chosen];
  const phrase = $("new-phrase").value.trim();
  if (drawing.key === null && !phrase) {
    tell("Say what it is called.");
    $("new-phrase").focus();
    return;
  }
  const { key } = drawing;
  stopDrawing();
  say([key === null ? { action: "add", phrase, mask } : { action: "redraw", key, mask }]);
}

// ---- zoom

function zoom(on) {
  const stage = $("stage");
  stage.classList.toggle("zoomed", on);
  stage.style.transform = "";
  const path = on && $("masks").querySelector("path.selected");
  if (!path) return;
  const { x, y, width, height } = path.getBBox();
  const unit = stage.clientWidth / picture.width; // screen pixels of one pixel of the picture
  const scale = Math.min(8, 0.7 * Math.min($("frame").clientWidth / (width * unit), $("frame").clientHeight / (height * unit)));
  const dx = (picture.width / 2 - x - width / 2) * unit;
  const dy = (picture.height / 2 - y - height / 2) * unit;
  stage.style.transform = `scale(${Math.max(1, scale)}) translate(${dx}px, ${dy}px)`;
}

// ---- what happens

const press = {
  a: () => judge("accept"),
  r: () => judge("reject"),
  A: acceptRest,
  u: undo,
  d: () => startDrawing(picture.instances[selected]?.key),
  n: () => startDrawing(null),
  l: () => ($("phrase").focus(), $("phrase").select()),
  z: () => zoom(!$("stage").classList.contains("zoomed")),
  h: () => $("masks").classList.toggle("hidden"),
  ArrowUp: () => select(selected - 1),
  ArrowDown: () => select(selected + 1),
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  Escape: () => (location.hash = ""),
};
const pressDrawing = { Enter: keep, o: another, Backspace: unclick, Escape: stopDrawing };

document.addEventListener("keydown", (event) => {
  if (!picture || $("picture").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input:not([type=radio], [type=checkbox]), select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  // Enter on a button is for that button.
  const action = event.key === "Enter" && event.target.matches("button, a") ? null : (drawing ? pressDrawing : press)[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

for (const [id, action] of Object.entries({
  accept: press.a,
  reject: press.r,
  "accept-all": press.A,
  undo,
  redraw: press.d,
  add: press.n,
  previous: press.ArrowLeft,
  next: press.ArrowRight,
  other: another,
  unclick,
  cancel: stopDrawing,
}))
  $(id).addEventListener("click", action);
$("drawing").addEventListener("submit", (event) => (event.preventDefault(), keep()));
$("afresh").addEventListener("change", () => predict());
$("masks").addEventListener("click", (event) => click(event, Number($("drawing").label.value)));
$("masks").addEventListener("contextmenu", (event) => drawing && (event.preventDefault(), click(event, 0)));
$("photo").addEventListener("error", () => $("photo").classList.add("absent"));
$("query").addEventListener("change", startList);
$("query").addEventListener("submit", (event) => event.preventDefault());
addEventListener("resize", () => (fit(), picture && show()));

function turn() {
  if (current()) return open(current());
  stopDrawing();
  picture = null;
  $("picture").hidden = true;
  $("list").hidden = false;
}

addEventListener("hashchange", turn);
new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && loadMore(), { rootMargin: "600px" }).observe($("more"));
summarise().catch((error) => {
  $("notice").hidden = false;
  $("notice").textContent = error.message;
});
startList();
turn();
