"use strict";

const $ = (id) => document.getElementById(id);
const token = document.querySelector("meta[name=token]").content;
const pageStart = Date.now(); // part of the addresses of images: an earlier page's are not shown again
const list = { items: [], total: 0, ended: false, request: 0, busy: false };
let image = null; // the open one, as the server describes it
let selected = 0; // in image.instances
let drawing = null; // {key, clicks: [{x, y, label}], masks, chosen}: a mask that is being made
let saving = Promise.resolve(); // reviews reach the server in the order in which they were made
let modelsLoaded = false;
let segmenter = "";
let guide = null; // leads through images that are annotated one after the other, see annotate.js

async function fetchJson(path, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Grounded-Token": token },
    body: JSON.stringify(body),
  };
  const response = await fetch(path, options).catch(() => {
    throw new Error("The server does not answer. Is it still running?");
  });
  const data = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(data.error || `The server failed (${response.status}); its terminal says more`);
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

async function loadSummary() {
  const found = await fetchJson("/api/summary");
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
  if (found.guide && !guide) startGuide(found.guide);
  if (found.read < found.total && !found.error) setTimeout(() => loadSummary().catch(showStatus), 2000);
}

// From the first image that nobody has annotated, unless the address names one.
async function startGuide(settings) {
  guide = createGuide(settings);
  if (image) return guide.opened();
  if (current()) return;
  const found = await fetchJson(`/api/images?${query({ ...listOptions(), state: "unreviewed", limit: 1 })}`).catch(showStatus);
  if (found?.images.length && !current()) location.hash = encodeURIComponent(found.images[0].file);
}

function showAgreement(a) {
  const parts = [];
  if (a.images || a.outdated) {
    parts.push(`${count(a.reviewed, "instance")} reviewed in ${count(a.images, "image")}`);
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

function listOptions() {
  const { sort, phrase, state } = $("query");
  return { sort: sort.value, phrase: phrase.value, state: state.value };
}

async function loadMore() {
  if (list.busy || list.ended) return;
  list.busy = true;
  const request = list.request;
  $("more").textContent = "Loading …";
  const values = listOptions();
  if (list.items.length) values.after = list.items.at(-1).file;
  try {
    const found = await fetchJson(`/api/images?${query(values)}`);
    if (request !== list.request) return; // another list was requested meanwhile
    list.items.push(...found.images);
    list.total = found.total;
    list.ended = !found.images.length && found.read === found.records;
    $("grid").append(...found.images.map(card));
    const reading = found.read < found.records ? `, ${found.read.toLocaleString("en")} of ${found.records.toLocaleString("en")} read` : "";
    $("count").textContent = `${count(found.total, "image")}${reading}`;
    $("more").textContent = list.ended && !list.items.length ? "No such image." : "";
    list.busy = false;
    if (found.read < found.records && !found.images.length) setTimeout(loadMore, 1000);
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
  const source = `/api/thumbnail?${query({ file: item.file, v: `${pageStart}-${item.version}` })}`;
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

// ---- one image

async function open(file) {
  stopDrawing();
  $("list").hidden = true;
  $("image").hidden = false;
  $("file").textContent = file;
  image = null;
  selected = 0;
  zoom(false);
  $("masks").replaceChildren();
  $("instances").replaceChildren();
  $("photo").removeAttribute("src");
  showStatus("Loading …");
  updateNavigation();
  try {
    const found = await fetchJson(`/api/image?${query({ file })}`);
    if (file !== current()) return;
    image = found;
    selected = Math.max(0, firstUnreviewed(0));
    showPixels();
    show();
    showStatus(progressText());
    guide?.opened();
  } catch (error) {
    showStatus(error);
  }
}

const current = () => decodeURIComponent(location.hash.slice(1));

function showPixels() {
  $("missing").hidden = !image.missing;
  $("missing").textContent = image.missing ? `${image.missing}. The masks can be reviewed, but not redrawn.` : "";
  $("photo").classList.toggle("absent", Boolean(image.missing));
  $("photo").alt = `The image ${image.file}`;
  if (!image.missing) $("photo").src = `/api/pixels?${query({ file: image.file, v: pageStart })}`;
  $("masks").setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
  fit();
  const next = list.items[listIndex() + 1];
  if (next) new Image().src = `/api/pixels?${query({ file: next.file, v: pageStart })}`;
}

function fit() {
  if (!image) return;
  const frame = $("frame");
  const scale = Math.min(frame.clientWidth / image.width, frame.clientHeight / image.height);
  $("stage").style.width = `${image.width * scale}px`;
  $("stage").style.height = `${image.height * scale}px`;
}

const listIndex = () => list.items.findIndex((item) => item.file === current());

function updateNavigation() {
  const at = listIndex();
  $("previous").disabled = at < 1;
  $("next").disabled = at >= 0 && list.ended && at === list.items.length - 1;
}

async function step(by) {
  const at = listIndex();
  if (at < 0 && by > 0) return stepFromUnlisted();
  if (at + by < 0) return;
  if (at + by >= list.items.length) {
    showStatus("Loading …");
    await loadMore();
  }
  const item = list.items[at + by];
  if (item) location.hash = encodeURIComponent(item.file);
  else showStatus(lastText());
}

const lastText = () => `This is the last image.${guide ? " End the round with: grounded engine next" : ""}`;

// From an image that was opened by its address, and is not in the list yet.
async function stepFromUnlisted() {
  const found = await fetchJson(`/api/images?${query({ ...listOptions(), after: current(), limit: 1 })}`).catch(showStatus);
  if (found?.images.length) location.hash = encodeURIComponent(found.images[0].file);
  else if (found) showStatus(lastText());
}

const states = { accept: "accepted", reject: "rejected", relabel: "relabelled", redraw: "redrawn", add: "added" };

function show() {
  const byArea = image.instances.map((_, i) => i).sort((a, b) => image.instances[b].area - image.instances[a].area);
  const order = [...byArea.filter((i) => i !== selected), ...byArea.filter((i) => i === selected)];
  const outlines = order.map((i) => {
    const made = outline(image.instances[i].path, image.instances[i].colour);
    made.classList.toggle("reject", image.instances[i].state === "reject");
    made.classList.toggle("selected", i === selected && !drawing);
    made.addEventListener("click", () => drawing || select(i));
    return made;
  });
  if (drawing?.masks.length) {
    const candidate = outline(drawing.masks[drawing.chosen].path, "");
    candidate.classList.add("candidate");
    outlines.push(candidate);
  }
  $("masks").replaceChildren(...outlines, ...(drawing?.clicks ?? []).map(dot), ...(guide?.marks() ?? []));
  $("masks").classList.toggle("drawing", Boolean(drawing));
  $("instances").replaceChildren(...image.instances.map(row));
  $("instances").children[selected]?.scrollIntoView({ block: "nearest" });
  const one = image.instances[selected];
  if (document.activeElement !== $("phrase")) $("phrase").value = one?.phrase ?? "";
  $("accept").disabled = !one && !isUnreviewedAndEmpty();
  $("reject").disabled = !one;
  $("relabel").querySelector("button").disabled = !one;
  $("redraw").disabled = !one || Boolean(image.missing);
  $("add").disabled = Boolean(image.missing);
  $("undo").disabled = !image.version;
  $("accept-all").disabled = firstUnreviewed(0) < 0;
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
  const scale = image.width / $("masks").getBoundingClientRect().width;
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
  const seconds = image.times[one.key];
  if (seconds) made.append(element("span", { textContent: `${seconds.toFixed(0)} s`, title: "time that a person took" }));
  made.setAttribute("aria-current", String(i === selected));
  made.addEventListener("click", () => select(i));
  return element("li", {}, made);
}

function select(i) {
  selected = Math.min(Math.max(i, 0), Math.max(0, image.instances.length - 1));
  $("phrase").blur();
  show();
  if ($("stage").classList.contains("zoomed")) zoom(true);
}

// The first instance, from one on and around, that is not reviewed; -1 where there is none.
function firstUnreviewed(from) {
  const n = image.instances.length;
  for (let i = 0; i < n; i++) if (!image.instances[(from + i) % n].state) return (from + i) % n;
  return -1;
}

const isUnreviewedAndEmpty = () => !image.instances.length && image.states.includes("unreviewed");

function progressText() {
  if (isUnreviewedAndEmpty()) return `Nothing was found here: accept that${image.missing ? "." : ", or add what is missing."}`;
  if (!image.instances.length) return "Reviewed: nothing is there.";
  const open = image.instances.filter((one) => !one.state).length;
  return open ? `${open} of ${count(image.instances.length, "instance")} to review.` : "All instances are reviewed.";
}

function showStatus(message) {
  $("status").textContent = message instanceof Error ? message.message : message;
  $("status").classList.toggle("error", message instanceof Error);
}

// ---- reviews

function sendReviews(reviews) {
  const file = image.file;
  saving = saving.then(async () => {
    try {
      const result = await fetchJson("/api/reviews", { file, reviews });
      showAgreement(result.agreement);
      refreshCard(result.image);
      if (image?.file !== file) return;
      const key = image.instances[selected]?.key;
      image = result.image;
      const added = reviews[0].action === "add" ? image.instances.length - 1 : -1;
      const same = image.instances.findIndex((one) => one.key === key);
      selected = added >= 0 ? added : Math.max(same, 0);
      show();
      if (!drawing || !guide) showStatus(progressText());
      guide?.saved();
      const knownPhrases = [...$("phrases").children].map((option) => option.value);
      const newPhrases = image.instances.map((one) => one.phrase).filter((phrase) => !knownPhrases.includes(phrase));
      $("phrases").append(...[...new Set(newPhrases)].map((phrase) => element("option", { value: phrase })));
    } catch (error) {
      if (image?.file === file) await open(file);
      showStatus(error);
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

function reviewSelected(action) {
  const one = image?.instances[selected];
  if (!one) {
    if (image && action === "accept" && isUnreviewedAndEmpty()) sendReviews([{ action, ...guide?.measure() }]);
    return;
  }
  one.state = action; // shown before the server has the review
  const next = firstUnreviewed(selected + 1);
  if (next >= 0) selected = next;
  show();
  if ($("stage").classList.contains("zoomed")) zoom(true);
  sendReviews([{ action, key: one.key, ...guide?.measure() }]);
  guide?.begin();
}

function acceptRemaining() {
  const rest = image.instances.filter((one) => !one.state);
  if (!rest.length) return;
  for (const one of rest) one.state = "accept";
  show();
  sendReviews(rest.map((one, i) => ({ action: "accept", key: one.key, ...(i ? {} : guide?.measure()) })));
  guide?.begin();
}

function undo() {
  if (image?.version) sendReviews([{ action: "undo" }]);
}

$("relabel").addEventListener("submit", (event) => {
  event.preventDefault();
  const one = image?.instances[selected];
  const phrase = $("phrase").value.trim();
  $("phrase").blur();
  if (one && phrase && phrase !== one.phrase) sendReviews([{ action: "relabel", key: one.key, phrase }]);
});

// ---- drawing by clicks

function startDrawing(key) {
  if (!image || image.missing || (key !== null && !image.instances.length)) return;
  drawing = { key, clicks: [], masks: [], chosen: 0, busy: false, waiting: false };
  $("drawing").reset();
  $("new-phrase").value = image.instances[selected]?.phrase ?? $("phrases").firstChild?.value ?? "";
  $("masks").classList.remove("hidden");
  show();
  showStatus(key === null ? "Add an instance: click it." : `Redraw “${image.instances[selected].phrase}”: click it.`);
}

function stopDrawing() {
  drawing = null;
  if (image) show();
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
  addClick(Math.min(Math.max(at.x, 0), image.width), Math.min(Math.max(at.y, 0), image.height), label);
}

function addClick(x, y, label) {
  drawing.clicks.push({ x, y, label });
  show();
  predict();
}

async function predict() {
  const own = drawing;
  if (own.busy) {
    own.waiting = true; // predicted again with all clicks after this prediction
    return;
  }
  own.masks = [];
  own.chosen = 0;
  const key = $("afresh").checked ? null : own.key;
  if (!own.clicks.length || (key === null && !own.clicks.some((one) => one.label))) {
    show();
    showStatus(own.clicks.length ? "Click something that belongs to it." : "Click it.");
    return;
  }
  own.busy = true;
  showStatus(modelsLoaded ? "Drawing …" : `Loading the segmenter ${segmenter}. This takes a while, once …`);
  show();
  try {
    const result = await fetchJson("/api/masks", {
      file: image.file,
      key,
      phrase: own.key === null ? $("new-phrase").value || "object" : image.instances[selected].phrase,
      points: own.clicks.map(({ x, y }) => [x, y]),
      labels: own.clicks.map(({ label }) => label),
    });
    modelsLoaded = result.models_loaded;
    own.masks = result.masks;
    if (drawing === own) showStatus(own.masks.length ? maskText() : "Nothing can be seen there: click elsewhere.");
  } catch (error) {
    if (drawing === own) showStatus(error);
  }
  own.busy = false;
  if (drawing !== own) return;
  show();
  if (own.waiting) {
    own.waiting = false;
    predict();
  }
}

function maskText() {
  const { masks, chosen } = drawing;
  const which = masks.length > 1 ? `Mask ${chosen + 1} of ${masks.length}. ` : "";
  return `${which}Keep it, or click again to correct it.`;
}

function nextMask() {
  if (!drawing || drawing.masks.length < 2) return;
  drawing.chosen = (drawing.chosen + 1) % drawing.masks.length;
  show();
  showStatus(maskText());
}

function removeClick() {
  if (!drawing?.clicks.length) return;
  drawing.clicks.pop();
  show();
  predict();
}

function keepMask() {
  if (!drawing?.masks.length || drawing.busy) return;
  const { mask } = drawing.masks[drawing.chosen];
  const phrase = $("new-phrase").value.trim();
  if (drawing.key === null && !phrase) {
    showStatus("Say what it is called.");
    $("new-phrase").focus();
    return;
  }
  const { key } = drawing;
  const measured = guide?.measure(drawing.clicks.length);
  stopDrawing();
  sendReviews([{ ...(key === null ? { action: "add", phrase, mask } : { action: "redraw", key, mask }), ...measured }]);
  guide?.begin();
}

// ---- zoom

function zoom(on) {
  const stage = $("stage");
  stage.classList.toggle("zoomed", on);
  stage.style.transform = "";
  const path = on && $("masks").querySelector("path.selected");
  if (!path) return;
  const { x, y, width, height } = path.getBBox();
  const unit = stage.clientWidth / image.width; // screen pixels of one pixel of the image
  const scale = Math.min(8, 0.7 * Math.min($("frame").clientWidth / (width * unit), $("frame").clientHeight / (height * unit)));
  const dx = (image.width / 2 - x - width / 2) * unit;
  const dy = (image.height / 2 - y - height / 2) * unit;
  stage.style.transform = `scale(${Math.max(1, scale)}) translate(${dx}px, ${dy}px)`;
}

// ---- keyboard, buttons and addresses

const shortcuts = {
  a: () => reviewSelected("accept"),
  r: () => reviewSelected("reject"),
  A: acceptRemaining,
  u: undo,
  d: () => startDrawing(image.instances[selected]?.key),
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
const drawingShortcuts = { Enter: keepMask, o: nextMask, Backspace: removeClick, Escape: stopDrawing };

document.addEventListener("keydown", (event) => {
  if (!image || $("image").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input:not([type=radio], [type=checkbox]), select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  // Enter on a button is for that button.
  const isPressed = event.target.matches("button, a") && (event.key === "Enter" || (guide && event.key === " "));
  const action = isPressed ? null : (guide?.shortcut(event) ?? (drawing ? drawingShortcuts : shortcuts)[event.key]);
  if (!action) return;
  event.preventDefault();
  action();
});

for (const [id, action] of Object.entries({
  accept: shortcuts.a,
  reject: shortcuts.r,
  "accept-all": shortcuts.A,
  undo,
  redraw: shortcuts.d,
  add: shortcuts.n,
  previous: shortcuts.ArrowLeft,
  next: shortcuts.ArrowRight,
  other: nextMask,
  unclick: removeClick,
  cancel: stopDrawing,
}))
  $(id).addEventListener("click", action);
$("drawing").addEventListener("submit", (event) => (event.preventDefault(), keepMask()));
$("afresh").addEventListener("change", () => predict());
$("masks").addEventListener("click", (event) => click(event, Number($("drawing").label.value)));
$("masks").addEventListener("contextmenu", (event) => drawing && (event.preventDefault(), click(event, 0)));
$("photo").addEventListener("error", () => $("photo").classList.add("absent"));
$("query").addEventListener("change", startList);
$("query").addEventListener("submit", (event) => event.preventDefault());
addEventListener("resize", () => (fit(), image && show()));

function route() {
  if (current()) return open(current());
  stopDrawing();
  image = null;
  $("image").hidden = true;
  $("list").hidden = false;
}

addEventListener("hashchange", route);
new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && loadMore(), { rootMargin: "600px" }).observe($("more"));
loadSummary().catch((error) => {
  $("notice").hidden = false;
  $("notice").textContent = error.message;
});
startList();
route();
