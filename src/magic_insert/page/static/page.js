// The drag-and-drop page. The server tells all it knows as Server-Sent Events (`state`); what is chosen here is the
// subject, the scene and the frame, a box in pixels of the scene. Asked for is what the frame shows, in whole pixels.

const $ = (id) => document.getElementById(id);
const session = (localStorage.session ||= [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join(""));
const STAGES = { load: "loading the model", cut: "cutting out", personalise: "learning the subject (once)", stylise: "redrawing",
  segment: "cutting out", paste: "light", insert: "light", composite: "light" };
const AUTO = { "inserter.sun": -190, "style.handover": 1.05 };
const GONE = "magic-insert page does not answer; start it again and open its new address";
const SLOW = "no answer for ten seconds; see whether magic-insert page still runs, and close other windows of it";
const clamp = (value, low, high) => Math.min(Math.max(value, low), Math.max(low, high));

const HINT = $("hint").textContent;
const UNFIT = { toys: "The small model knows toys; magic-insert page model=sdxl redraws pictures like these well.",
  nothing: "Redrawing with this model takes a GPU; tick it to wait for it all the same." };
let state = { ready: false, items: [], tasks: [], results: [] };
let subject = null, scene = null, frame = null; // frame: x, y, w, h
let factor = 1; // how much larger than the prior and its depth say the user wants the subject
let asked = {}; // kind -> id of the last task
let shown = null; // the result on the stage
let truth = null; // the true picture that was asked for, over the result or on its way there
let seed; // that of the redrawn picture on the stage, where it is not the first one
const wanted = new Set(); // subjects of which the user said that they are to be redrawn
let unwanted = false; // whether the user said last that nothing is
const seen = new Set();

const itemOf = (id) => state.items.find((item) => item.id === id);
const picture = (item) => `${session}/items/${item.id}${item.coarse ? "?coarse" : ""}`;
const owned = (item) => ["own", "result"].includes(item.origin); // the user has put it on the shelf
const living = () => state.tasks.filter((task) => ["waiting", "running"].includes(task.state));
const resultOf = (id) => state.results.find((result) => result.id === id);

async function send(path, method = "POST", body) {
  const headers = typeof body === "string" ? { "Content-Type": "application/json" } : {};
  const answered = warnWhenLate();
  const reply = await fetch(`${session}/${path}`, { method, body, headers }).finally(answered).catch(() => refused(GONE));
  const said = await reply.json().catch(() => ({ trouble: reply.status === 413 ? "that picture is too large (32 MB at most)" : "the page was refused; open the printed address again" }));
  return reply.ok ? said : refused(said.trouble);
}

// What was refused is shown; whoever asked for it goes no further.
const refusals = new WeakSet();
function refusal(text) {
  const error = new Error(text);
  refusals.add(error);
  complain(text);
  return error;
}
function refused(text) { throw refusal(text); }
addEventListener("unhandledrejection", (event) => { if (refusals.has(event.reason)) event.preventDefault(); });

function complain(text) {
  $("status").classList.add("bad");
  $("doing").textContent = $("said").textContent = text;
}

function clearTrouble() {
  $("status").classList.remove("bad");
  renderStatus();
}

// Says so where no answer comes, until the function that it returns is called.
function warnWhenLate() {
  const timer = setTimeout(() => complain(SLOW), 10_000);
  return () => { clearTimeout(timer); if ($("doing").textContent === SLOW) clearTrouble(); };
}

// Where the subject stands

function prior(item) {
  const [x, y, w, h] = scene.box, scale = Math.min(w / item.size[0], h / item.size[1]);
  const size = [item.size[0] * scale, item.size[1] * scale];
  return { x: x + (w - size[0]) / 2, y: y + h - size[1], w: size[0], h: size[1] };
}

// How large a subject is whose feet are in this row, beside one that stands where the prior puts it.
function depth(foot) {
  const far = scene.horizon * scene.size[1], near = scene.box[1] + scene.box[3];
  return clamp((foot - far) / Math.max(1, near - far), 0.4, 1.3);
}

function put(centre, foot, item = subject) {
  const [width, height] = scene.size, aspect = item.size[0] / item.size[1];
  foot = clamp(foot, 1, height);
  const h = clamp(prior(item).h * factor * depth(foot), 4, Math.min(height, width / aspect)), w = h * aspect;
  frame = { x: clamp(centre - w / 2, 0, width - w), y: clamp(foot - h, 0, height - h), w, h };
  showFrame();
}

function resize(h, corner) {
  const [width, height] = scene.size, aspect = subject.size[0] / subject.size[1]; // by now of the exact cut
  const right = frame.x + frame.w, foot = frame.y + frame.h, fromLeft = corner.includes("e"), fromTop = corner.includes("s");
  const room = [(fromLeft ? width - frame.x : right) / aspect, fromTop ? height - frame.y : foot];
  h = clamp(h, 8, Math.min(...room));
  const w = h * aspect;
  frame = { x: fromLeft ? frame.x : right - w, y: fromTop ? frame.y : foot - h, w, h };
  factor = h / (prior(subject).h * depth(frame.y + h));
  showFrame();
}

function wholeBox() {
  const [width, height] = scene.size;
  const w = clamp(Math.round(frame.w), 1, width), h = clamp(Math.round(frame.h), 1, height);
  return [clamp(Math.round(frame.x), 0, width - w), clamp(Math.round(frame.y), 0, height - h), w, h];
}

// Whether the frame is in this box, in whole pixels.
const here = (box) => !!frame && wholeBox().join() === box.join();

function frameAt(box) {
  const [x, y, w, h] = box, [, top, , high] = exactly(box);
  if (!here(box)) frame = { x, y, w, h };
  factor = high / (prior(subject).h * depth(top + high));
  showFrame();
}

function showFrame() {
  const [width, height] = scene.size, style = $("frame").style;
  $("frame").hidden = false;
  style.left = `${(100 * frame.x) / width}%`; style.top = `${(100 * frame.y) / height}%`;
  style.width = `${(100 * frame.w) / width}%`; style.height = `${(100 * frame.h) / height}%`;
}

function onStage(event) {
  const at = $("stage").getBoundingClientRect(), scale = scene.size[0] / at.width;
  const inside = event.clientX >= at.left && event.clientX <= at.right && event.clientY >= at.top && event.clientY <= at.bottom;
  return { x: (event.clientX - at.left) * scale, y: (event.clientY - at.top) * scale, inside, scale };
}

// Choosing

function chooseScene(item, { place = true } = {}) {
  if (!item?.size || scene?.id === item.id) return;
  scene = item; $("sheet").hidden = true;
  $("empty").hidden = true;
  $("board").style.setProperty("--aspect", item.size[0] / item.size[1]);
  $("scene").src = picture(item); $("scene").alt = item.title;
  $("frame").hidden = true; frame = null; factor = 1; seed = undefined;
  clearPictures();
  if (subject && place) suggest(subject); else if (place) did();
  render();
}

function chooseSubject(item) {
  subject = item; factor = 1; seed = undefined; $("sheet").hidden = true;
  $("ghost").src = picture(item);
  const own = [item, scene].some((one) => one?.origin === "own"), unfit = state.redraws === "nothing" || (state.redraws === "toys" && own);
  $("redraw").checked = wanted.has(item.id) || !(unfit || unwanted);
  $("hint").textContent = unfit ? UNFIT[state.redraws] : HINT;
  render();
}

function suggest(item) {
  chooseSubject(item);
  const at = prior(item);
  put(at.x + at.w / 2, at.y + at.h);
  drop();
}

// A box that was drawn around a coarse cut, as it is around the exact one: on the same spot, as large beside the prior.
function exactly([x, y, w, h]) {
  if (!subject?.rough || subject.coarse) return [x, y, w, h];
  const [was, is] = [subject.rough, subject.size].map(([columns, rows]) => columns / rows);
  const shaped = (aspect) => Math.abs(w - h * aspect) <= 1 + 0.03 * w;
  if (shaped(is) || !shaped(was)) return [x, y, w, h];
  const [width, height] = scene.size, tall = (aspect) => Math.min(scene.box[3], scene.box[2] / aspect);
  const high = Math.round(clamp((h * tall(is)) / tall(was), 4, Math.min(height, width / is))), wide = clamp(Math.round(high * is), 1, width);
  return [clamp(Math.round(x + (w - wide) / 2), 0, width - wide), clamp(y + h - high, 0, height - high), wide, high];
}

// The frame as the exact cut has it, once that is known; whether it was another.
function fit() {
  if (!frame || $("stage").classList.contains("moving")) return false;
  const box = wholeBox(), now = exactly(box);
  if (now.join() === box.join()) return false;
  $("ghost").src = picture(subject);
  frameAt(now);
  return true;
}

function clearPictures() {
  shown = null;
  hideTruth();
  $("pictures").replaceChildren();
  showLayers();
}

// What the user did, as it was after each step: Undo goes back to the one before. What comes from the server is no step.

let trail = [];
const sliders = () => [...document.querySelectorAll("[data-knob]")];
function did(result) { // `result`: the picture that the user chose, if it was one
  const values = sliders().map((input) => input.value), redraw = $("redraw").checked;
  const step = { subject: subject?.id, scene: scene.id, box: frame && wholeBox(), values, redraw, unwanted, seed, result };
  const same = (one) => JSON.stringify({ ...one, result: "" }) === JSON.stringify({ ...step, result: "" });
  if (trail.length && same(trail.at(-1)) && !result) return;
  if (trail.length && same(trail.at(-1))) trail.pop();
  trail.push(step);
}

function undo() {
  if (!$("sheet").hidden) return closeSheet();
  if (waiting) did(); // a move that nothing was asked for yet
  if (trail.length < 2) return;
  trail.pop();
  const step = trail.at(-1), chosen = resultOf(step.result);
  takeBack();
  if (chosen) {
    trail.pop(); // `show` notes it again
    return show(chosen, { back: true });
  }
  chooseScene(itemOf(step.scene), { place: false });
  if (!step.box) return clearStage();
  if (!step.redraw) wanted.delete(step.subject);
  if (subject?.id !== step.subject) chooseSubject(itemOf(step.subject));
  unwanted = step.unwanted; seed = step.seed;
  $("redraw").checked = step.redraw;
  for (const [n, input] of sliders().entries()) input.value = step.values[n];
  knobs();
  frameAt((step.box = exactly(step.box)));
  drop();
}

function clearStage() {
  takeBack();
  subject = frame = null; $("frame").hidden = true;
  clearPictures();
  render();
}

// Of what was asked for nothing is drawn, and of what would be asked for soon. False where something new was asked for meanwhile.
async function takeBack(which = (task) => Object.values(asked).includes(task.id)) {
  const late = asking, asks = drops;
  waiting = clearTimeout(waiting);
  for (const task of living()) if (which(task)) cancel(task.id);
  if (!late) return true;
  again = false; // what is being asked for has no name before the answer
  await late.catch(() => {});
  if (drops !== asks) return false; // what came after stays, and takes the place of what was cancelled
  for (const id of Object.values(asked)) cancel(id);
  return true;
}

// Asking

function knobs(kind) {
  const found = kind === "full" && seed !== undefined ? { "sampling.seed": seed } : {};
  for (const input of sliders()) {
    const key = input.dataset.knob, value = Number(input.value), auto = AUTO[key] === value;
    input.nextElementSibling.textContent = auto ? "auto" : key === "inserter.sun" ? `${value}°` : String(value);
    if (input.dataset.kind && input.dataset.kind !== kind) continue;
    if (!auto && input.value !== input.defaultValue) found[key] = key === "inserter.sun" ? String(value) : value;
  }
  return found;
}

// The sliders as they were for this picture; those that say nothing about its kind stay.
function setKnobs({ kind, knobs: found }) {
  for (const input of sliders()) {
    if (!input.dataset.kind || input.dataset.kind === kind) input.value = found[input.dataset.knob] ?? input.defaultValue;
  }
  knobs();
}

const wishOf = (kind, more = {}) => ({ kind, subject: subject.id, scene: scene.id, box: wholeBox(), knobs: { ...knobs(kind), ...more } });
const ask = async (wish) => (await send("drops", "POST", JSON.stringify(wish))).id;

const LIGHT = ["inserter.sun", "inserter.strength", "inserter.softness", "inserter.relight"];
const drawing = (some) => sorted(Object.fromEntries(Object.entries(some).filter(([key]) => !LIGHT.includes(key))));

// One question after the other, so that each takes the place of the one before; of those that come meanwhile, the last.
let asking, again = false, drops = 0;
async function drop() {
  waiting = clearTimeout(waiting);
  if (!subject || !scene || !frame) return;
  drops++;
  $("stage").classList.remove("moving");
  fit();
  did();
  const stays = shown?.subject === subject.id && shown.scene === scene.id && here(shown.box);
  $("frame").classList.toggle("ghost", !stays);
  $("status").classList.remove("bad");
  again = true;
  if (asking) return;
  asking = askAll();
  try { await asking; } finally { asking = undefined; }
}

async function askAll() {
  while (again) {
    again = false;
    await askForFrame().catch((error) => { if (!again) throw error; });
  }
}

async function askForFrame() {
  if (!frame) return;
  const full = $("redraw").checked, found = { preview: made("preview"), full: full && made("full") };
  const placed = full && pictures("full").some((result) => drawing(result.knobs) === drawing(knobs("full"))); // again takes a second
  const wishes = [["preview", !placed && !found.full], ["full", full]].map(([kind, wanted]) => [kind, wanted && !found[kind] && wishOf(kind)]);
  const there = found.full || (!placed && found.preview);
  if (there) show(there);
  for (const [kind, wish] of wishes) {
    if (wish) asked[kind] = await ask({ ...wish, instead: asked[kind] });
    else if (asked[kind]) cancel(asked[kind]);
  }
}

// The results with this subject in this scene, and the one that is just what would be asked for.
const pictures = (kind) => state.results.filter((one) => one.kind === kind && one.subject === subject.id && one.scene === scene.id);
const sameParts = (one, other) => one.subject === other.subject && one.scene === other.scene && one.box.join() === other.box.join();
const fulfils = (result, wish) => result.kind === wish.kind && sameParts(result, wish) && sorted(result.knobs) === sorted(wish.knobs);
const resultFor = (wish) => state.results.findLast((one) => fulfils(one, wish));
const made = (kind) => resultFor(wishOf(kind));
const sorted = (some) => JSON.stringify(Object.entries(some).sort());

let waiting; // a drop that comes when the keys rest
function soon() {
  clearTimeout(waiting);
  waiting = setTimeout(drop, 350);
}

const cancel = (id) => send(`tasks/${id}`, "DELETE");

async function upload(file, kind) {
  taking++;
  clearTrouble();
  try { return await examined(await send(`items?kind=${kind}&name=${encodeURIComponent(file.name)}`, "POST", file)); }
  finally { taking--; renderStatus(); }
}
let taking = 0; // own pictures that are on their way to the shelf
const arriving = new Set(); // those of them that the worker has not looked at yet
const examined = ({ id }) => new Promise((resolve, reject) => { arriving.add({ id, resolve, reject }); settle(); });
function settle() {
  for (const one of arriving) {
    const item = itemOf(one.id);
    if (!item?.trouble && !item?.size) continue;
    arriving.delete(one);
    if (item.trouble) one.reject(refusal(item.trouble)); else one.resolve(item);
  }
}

async function take(file, kind, event) {
  const point = event && scene ? onStage(event) : null;
  if (!(await file.slice(0, 1).arrayBuffer().catch(() => null))) return complain(`expected a picture file, got a folder or a file that cannot be read: ${file.name}`);
  const item = await upload(file, kind);
  if (kind === "scene") return chooseScene(item);
  if (!scene) return;
  if (!point?.inside) return suggest(item);
  chooseSubject(item);
  put(point.x, point.y + (prior(item).h * depth(point.y)) / 2);
  drop();
}

// What is shown

// A result on the stage. Where the user goes back to it, the frame and the sliders are what it was drawn with.
function show(result, { back = false } = {}) {
  const item = itemOf(result.subject), place = itemOf(result.scene);
  const other = scene !== place || subject !== item;
  if (scene !== place) chooseScene(place, { place: false });
  if (other) chooseSubject(item);
  if (shown?.id !== result.id) hideTruth();
  shown = result;
  if (result.kind === "full") seed = result.knobs["sampling.seed"];
  if (back) {
    waiting = clearTimeout(waiting);
    $("stage").classList.remove("moving");
    frameAt(result.box);
    setKnobs(result);
    if (result.kind === "full") $("redraw").checked = true;
    did(result.id);
  }
  const image = new Image();
  image.alt = `${item.title}, ${place.title}`; image.draggable = false;
  image.src = `${session}/results/${result.id}/view`;
  image.decode().then(() => {
    if (shown?.id !== result.id) return; // the server's news makes all results anew
    $("pictures").append(image);
    requestAnimationFrame(() => requestAnimationFrame(() => image.classList.add("on")));
    hideTruth();
    const hidden = $("frame").classList.contains("ghost"); // what stood elsewhere is not to be seen again
    for (const old of [...$("pictures").children].slice(0, -1)) setTimeout(() => old.remove(), hidden ? 0 : 400);
    if ($("stage").classList.contains("moving") || !here(result.box)) return;
    $("frame").classList.remove("ghost");
    setTimeout(() => { if (shown?.id === result.id) $("ghost").src = result.kind === "full" ? `${session}/results/${result.id}/subject` : picture(item); }, 400);
  });
  showLayers();
  render();
}

// A smaller picture of what is on its way, until it is there.
function draft(task) {
  const name = `draft ${task.id} ${task.drafted}`;
  if (seen.has(name) || task.subject !== subject?.id || task.scene !== scene?.id || !here(task.drafted)) return;
  seen.add(name);
  const image = new Image();
  image.alt = ""; image.draggable = false; image.src = `${session}/tasks/${task.id}?${task.views}`;
  image.decode().then(() => {
    if (!living().some((one) => one.id === task.id) || $("stage").classList.contains("moving")) return;
    hideTruth();
    if ($("frame").classList.contains("ghost")) $("pictures").replaceChildren();
    $("pictures").append(image);
    requestAnimationFrame(() => requestAnimationFrame(() => image.classList.add("on")));
    $("frame").classList.remove("ghost");
  }, () => {});
}

// The layers one above the other, blended by the browser, while not all of them are on.
function showLayers() {
  const wanted = [...document.querySelectorAll("#parts input:checked")].map((input) => input.value), box = $("layers");
  box.hidden = !shown || wanted.length === 4;
  if (box.hidden) return;
  box.replaceChildren();
  for (const part of wanted) {
    const image = new Image();
    image.className = part; image.alt = part; image.draggable = false;
    if (part === "background") { image.src = picture(scene); image.style.width = image.style.height = "100%"; }
    else {
      image.src = `${session}/results/${shown.id}/${part}`;
      const [x, y, w, h] = shown.places[part] ?? [0, 0, 0, 0], [width, height] = scene.size;
      Object.assign(image.style, { left: `${(100 * x) / width}%`, top: `${(100 * y) / height}%`, width: `${(100 * w) / width}%`, height: `${(100 * h) / height}%` });
    }
    box.append(image);
  }
}

function tile(item) {
  const button = document.createElement("button");
  button.className = "tile"; button.dataset.id = item.id; button.type = "button";
  if (item.kind === "subject") button.addEventListener("pointerdown", (event) => { if (!event.target.matches(".remove")) carry(event, item.id); });
  if (owned(item)) {
    button.setAttribute("aria-keyshortcuts", "Delete");
    button.addEventListener("keydown", (event) => { if (event.key === "Delete") hide(button); });
  }
  button.addEventListener("click", (event) => {
    const now = itemOf(item.id);
    if (event.target.matches(".remove")) return hide(button);
    if (!now.size || button.dataset.carried) return;
    if (now.kind === "scene") chooseScene(now);
    else if (scene) { suggest(now); $("frame").focus({ preventScroll: true }); }
  });
  return button;
}

// Off the shelf; what is made of it, and what stands on the stage, stays.
function hide(button) {
  const next = button.nextElementSibling ?? button.previousElementSibling ?? button.closest(".shelf").querySelector("input");
  if (document.activeElement === button) next.focus();
  return send(`items/${button.dataset.id}`, "DELETE");
}

function renderShelf(kind) {
  const box = document.querySelector(`[data-kind=${kind}] .tiles`), chosen = kind === "subject" ? subject : scene;
  for (const old of [...box.querySelectorAll("[data-id]")]) if (itemOf(old.dataset.id)?.hidden ?? true) old.remove();
  for (const item of state.items.filter((one) => one.kind === kind && !one.hidden)) {
    let button = box.querySelector(`[data-id="${item.id}"]`);
    if (item.trouble && item.origin === "own") { button?.remove(); continue; } // said once, by `settle`
    if (!button) box[owned(item) ? "prepend" : "append"]((button = tile(item)));
    const look = `${!!item.size}${item.coarse}${item.learned}${item.trouble}`;
    button.classList.toggle("on", chosen?.id === item.id);
    if (button.dataset.look === look) continue;
    button.dataset.look = look;
    button.classList.toggle("empty", !item.size && !item.trouble);
    button.title = item.title + (item.learned ? " (learned)" : "");
    button.setAttribute("aria-label", button.title);
    button.disabled = !item.size;
    const parts = [];
    if (item.size) { const image = new Image(); image.src = picture(item); image.alt = ""; image.draggable = false; parts.push(image); }
    const note = (name, text) => { const span = document.createElement("span"); span.className = name; span.textContent = text; parts.push(span); };
    if (item.learned) note("mark", "✓");
    if (owned(item)) { note("remove", "×"); parts.at(-1).title = "Remove from the shelf (Delete)"; }
    if (item.trouble) note("trouble", item.trouble);
    button.replaceChildren(...parts);
  }
}

let lastStage = "";
function renderStatus() {
  const live = living(), failed = state.tasks.findLast((task) => task.state === "failed");
  const task = live.find((one) => one.state === "running" && one.kind === "full") ?? live[0];
  $("cancel").hidden = !task; $("progress").hidden = !task; $("step").hidden = !task?.views;
  if (failed && !task && !seen.has(failed.id)) { seen.add(failed.id); complain(failed.trouble); }
  if (!task) {
    if (lastStage) $("said").textContent = "done";
    lastStage = "";
    if (!$("status").classList.contains("bad")) {
      $("doing").textContent = taking ? "looking at the picture" : shown ? `${shown.kind === "full" ? "redrawn" : "preview"}, ${shown.seconds.toFixed(1)} s` : state.items.some((item) => item.kind === "subject" && item.size) ? "" : "getting ready";
    }
    return;
  }
  if (task.views) $("step").src = `${session}/tasks/${task.id}?${task.views}`;
  const name = task.state === "waiting" ? (state.others ? "waiting for another browser's picture" : "waiting") : task.kind === "preview" && task.stage === "stylise" ? "matching colours" : (STAGES[task.stage] ?? (task.stage || "drawing")), counted = task.total > 2 && task.state === "running";
  const left = task.seconds_left === null ? "" : `, ${Math.ceil(task.seconds_left)} s left`;
  $("status").classList.remove("bad");
  $("doing").textContent = counted ? `${name} ${task.step}/${task.total}${left}` : name;
  if (counted) $("progress").value = task.step / task.total; else $("progress").removeAttribute("value");
  if (name !== lastStage) $("said").textContent = lastStage = name;
}

// The part of a result around the subject, of this aspect, and so many times as large.
function thumbnail(result, aspect, times) {
  const image = new Image(), part = document.createElement("div");
  image.src = `${session}/results/${result.id}/view`; image.alt = ""; image.draggable = false;
  part.className = "close";
  part.append(image);
  const [x, y, w, h] = result.box, [width, height] = itemOf(result.scene).size;
  const wide = Math.min(times * Math.max(w, h * aspect), Math.max(width, height * aspect)), tall = wide / aspect;
  const from = (middle, part, whole) => (part > whole ? (whole - part) / 2 : clamp(middle - part / 2, 0, whole - part));
  Object.assign(image.style, { width: `${(100 * width) / wide}%`, height: `${(100 * height) / tall}%`,
    left: `${(-100 * from(x + w / 2, wide, width)) / wide}%`, top: `${(-100 * from(y + h / 2, tall, height)) / tall}%` });
  return part;
}

// Where in its scene the box is.
function map({ box: [x, y, w, h], scene: id }) {
  const node = document.createElement("i"), place = document.createElement("b"), [width, height] = itemOf(id).size;
  node.className = "map"; node.style.aspectRatio = width / height;
  Object.assign(place.style, { left: `${(100 * x) / width}%`, top: `${(100 * y) / height}%`, width: `${(100 * w) / width}%`, height: `${(100 * h) / height}%` });
  node.append(place);
  return node;
}

let draws = []; // four seeds side by side: what was asked for; none takes the stage before it is chosen
function renderSheet() {
  for (const [n, button] of [...$("sheet").querySelectorAll(".draw")].entries()) {
    const result = draws[n] && resultFor(draws[n]), key = result?.id ?? "";
    if (button.dataset.id === key) continue;
    button.dataset.id = key;
    button.disabled = !result;
    button.querySelector("div")?.remove();
    if (result) button.prepend(thumbnail(result, scene.size[0] / scene.size[1], 1.5));
  }
}

function renderHistory() {
  const box = $("history");
  for (const old of [...box.children]) if (!resultOf(old.dataset.id)) old.remove();
  for (const result of state.results) {
    let button = box.querySelector(`[data-id="${result.id}"]`);
    if (!button) {
      button = document.createElement("button");
      button.dataset.id = result.id; button.type = "button";
      const label = document.createElement("span"), seed = result.knobs["sampling.seed"];
      label.textContent = result.kind === "full" ? (seed === undefined ? "redrawn" : `seed ${seed}`) : "preview";
      button.title = `${label.textContent}: ${itemOf(result.subject)?.title}, ${itemOf(result.scene)?.title}`;
      button.setAttribute("aria-label", button.title);
      button.classList.toggle("full", result.kind === "full");
      button.append(thumbnail(result, 1, 1.2), map(result), label);
      button.addEventListener("click", () => show(resultOf(result.id), { back: true }));
      box.prepend(button);
    }
    button.classList.toggle("on", shown?.id === result.id);
  }
}

function render() {
  renderShelf("subject"); renderShelf("scene"); renderStatus(); renderHistory(); renderSheet();
  const have = { result: !!shown, seeds: !!shown && !subject?.coarse, subject: !!(subject && frame), redraw: $("redraw").checked, preview: !$("redraw").checked, undo: trail.length > 1, results: state.results.length > 0 };
  for (const node of document.querySelectorAll("[data-needs]")) {
    const off = !have[node.dataset.needs];
    node.classList.toggle("off", off);
    for (const input of node.matches("button") ? [node] : node.querySelectorAll("input")) input.disabled = off;
  }
  const toys = shown && [shown.subject, shown.scene].every((id) => itemOf(id)?.origin === "toybox");
  $("verdict").hidden = !toys; $("verdict").lastChild.textContent = shown?.verdict ?? "";
  $("truth").setAttribute("aria-pressed", !!truth);
  if ($("downloads").dataset.id !== (shown?.id ?? "")) {
    $("downloads").dataset.id = shown?.id ?? "";
    const files = ["png", "json", "ora", "psd"].map((part) => [part.toUpperCase(), `results/${shown?.id}/${part}`, "the result"]);
    for (const part of ["subject", "scene"]) files.push([`${part} file`, `items/${shown?.[part]}?file`, "as it came, for the copied command and code"]);
    $("downloads").replaceChildren(...files.map(([name, path, title]) => {
      const link = document.createElement("a");
      Object.assign(link, { className: "plain", textContent: name, title }, shown && { href: `${session}/${path}`, download: "" });
      return link;
    }));
  }
}

// Dragging: from the shelf, in the scene, at a corner

function carry(event, id) {
  const item = itemOf(id), button = event.currentTarget, start = [event.clientX, event.clientY];
  delete button.dataset.carried;
  if (!item?.size || event.button !== 0) return;
  button.setPointerCapture(event.pointerId);
  const move = (now) => {
    if (!button.dataset.carried) {
      if (Math.hypot(now.clientX - start[0], now.clientY - start[1]) < 6 || !scene) return;
      button.dataset.carried = "yes";
      factor = 1;
      $("carry").src = picture(item); $("carry").hidden = false;
    }
    const at = onStage(now), tall = prior(item).h * (at.inside ? depth(at.y) : 1) / at.scale, wide = (tall * item.size[0]) / item.size[1];
    Object.assign($("carry").style, { height: `${tall}px`, width: `${wide}px`, transform: `translate(${now.clientX - wide / 2}px, ${now.clientY - tall / 2}px)` });
    $("stage").classList.toggle("over", at.inside);
  };
  const end = (now) => {
    for (const name of ["pointermove", "pointerup", "pointercancel"]) button.removeEventListener(name, name === "pointermove" ? move : end);
    $("carry").hidden = true; $("stage").classList.remove("over");
    if (!button.dataset.carried || now.type === "pointercancel") return;
    const at = onStage(now);
    if (!at.inside) return;
    chooseSubject(item);
    put(at.x, at.y + (prior(item).h * depth(at.y)) / 2);
    $("stage").classList.add("moving");
    $("frame").focus({ preventScroll: true });
    drop();
  };
  button.addEventListener("pointermove", move); button.addEventListener("pointerup", end); button.addEventListener("pointercancel", end);
}

// The mouse or one finger moves the frame or its corner, two fingers on it make it larger or smaller about its foot.
const held = new Map(); // pointer -> where it is
let grip = null; // the frame as they took hold of it
const apart = () => { const [a, b] = held.values(); return b ? Math.hypot(a.x - b.x, a.y - b.y) : 0; };
function grasp(corner, moved = false) {
  grip = { corner, moved, begun: { ...frame }, factor, from: held.values().next().value, apart: apart() };
}
$("frame").addEventListener("pointerdown", (event) => {
  if (event.isPrimary) held.clear(); // no other is down
  if (event.button !== 0 || held.size > 1) return;
  $("frame").setPointerCapture(event.pointerId);
  held.set(event.pointerId, onStage(event));
  grasp(held.size === 1 && event.target.dataset?.corner, held.size > 1 && grip.moved);
});
$("frame").addEventListener("pointermove", (event) => {
  if (!held.has(event.pointerId) || !frame) return;
  const at = onStage(event), { corner, begun, from } = grip;
  held.set(event.pointerId, at);
  grip.moved ||= (grip.apart ? Math.abs(apart() - grip.apart) : Math.hypot(at.x - from.x, at.y - from.y)) > 3 * at.scale;
  if (!grip.moved) return;
  $("stage").classList.add("moving"); $("frame").classList.add("ghost");
  if (grip.apart) { factor = (grip.factor * apart()) / grip.apart; put(begun.x + begun.w / 2, begun.y + begun.h); }
  else if (corner) resize(begun.h + (corner.includes("s") ? 1 : -1) * (at.y - from.y), corner);
  else put(begun.x + begun.w / 2 + at.x - from.x, begun.y + begun.h + at.y - from.y);
});
for (const name of ["pointerup", "pointercancel"]) {
  $("frame").addEventListener(name, (event) => {
    if (!held.delete(event.pointerId)) return;
    if (held.size) return grasp("", grip.moved);
    $("stage").classList.remove("moving");
    if (grip.moved) drop();
  });
}

$("frame").addEventListener("keydown", (event) => {
  const step = (event.shiftKey ? 0.05 : 0.01) * Math.max(...scene.size);
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }, by = moves[event.key];
  if (by) put(frame.x + frame.w / 2 + by[0], frame.y + frame.h + by[1]);
  else if (event.key === "+" || event.key === "=") { factor *= 1.05; put(frame.x + frame.w / 2, frame.y + frame.h); }
  else if (event.key === "-") { factor /= 1.05; put(frame.x + frame.w / 2, frame.y + frame.h); }
  else if (event.key === "Enter") return drop();
  else return;
  event.preventDefault();
  $("frame").classList.add("ghost"); $("stage").classList.add("moving");
  soon();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { if ($("sheet").hidden) $("cancel").click(); else closeSheet(); }
  if (event.key === "z" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); $("undo").click(); }
});

const zoneOf = (event) => event.target.closest?.(".shelf, #stage");
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    for (const old of document.querySelectorAll(".over")) old.classList.remove("over");
    const zone = zoneOf(event);
    if (name === "dragover") zone?.classList.add("over");
    if (name !== "drop" || !zone) return;
    if (!event.dataTransfer.files.length) complain("expected a picture file, got something else; save the picture and drop its file");
    for (const file of event.dataTransfer.files) take(file, zone.dataset.kind ?? (scene ? "subject" : "scene"), event);
  });
}

for (const input of document.querySelectorAll(".add input")) {
  input.addEventListener("change", () => { for (const file of input.files) take(file, input.closest(".shelf").dataset.kind); input.value = ""; });
}

// Tools

$("cancel").addEventListener("click", async () => {
  if (waiting) did();
  const redrawing = living().some((task) => task.kind === "full") || (asking && $("redraw").checked);
  if (!(await takeBack(() => true))) return;
  if (redrawing && shown?.kind !== "full") { // the next small move does not begin it again
    $("redraw").checked = false; wanted.delete(subject?.id); render();
  }
  if (!shown) return;
  trail.pop(); // what was cancelled
  show(shown, { back: true });
});
$("redraw").addEventListener("change", () => {
  unwanted = !$("redraw").checked;
  if (unwanted) wanted.delete(subject?.id); else if (subject) wanted.add(subject.id);
  render(); drop();
});
$("wipe").addEventListener("input", () => { $("stage").style.setProperty("--wipe", `${$("wipe").value}%`); $("wipe-line").hidden = $("wipe").value === "0"; });
$("parts").addEventListener("change", showLayers);
for (const input of sliders()) { input.addEventListener("input", () => knobs()); input.addEventListener("change", drop); }
$("undo").addEventListener("click", undo);
$("seeds").addEventListener("click", async () => {
  draws = [1, 2, 3, 4].map((seed) => wishOf("full", { "sampling.seed": seed }));
  renderSheet();
  $("sheet").hidden = false;
  for (const wish of draws.filter((draw) => !resultFor(draw))) {
    const id = await ask(wish);
    if ($("sheet").hidden) return cancel(id);
  }
});
$("sheet").addEventListener("click", ({ target }) => {
  const chosen = resultOf(target.closest(".draw")?.dataset.id);
  if (!chosen && !target.closest("#back")) return;
  closeSheet();
  if (chosen) show(chosen, { back: true });
});
function closeSheet() {
  $("sheet").hidden = true;
  for (const task of living()) if (draws.some((wish) => fulfils(task, wish))) cancel(task.id);
}
$("next").addEventListener("click", async () => {
  const ready = await examined(await send(`results/${shown.id}/scene`));
  subject = null;
  chooseScene(ready);
  $("hint").textContent = "The result is the scene now: drag another subject in.";
});
$("truth").addEventListener("click", async () => { // the Toybox knows it: over the result, until it is pressed again
  const on = !truth;
  hideTruth();
  if (on) {
    const image = truth = new Image();
    image.className = "on truth"; image.alt = "the true picture"; image.src = `${session}/results/${shown.id}/truth`;
    $("doing").textContent = $("said").textContent = "drawing the truth";
    await image.decode().then(() => { if (truth === image) $("pictures").append(image); }, () => {
      if (truth !== image) return;
      hideTruth();
      complain("the Toybox knows no true picture: there, nothing can stand at that place");
    });
  }
  renderStatus();
});
function hideTruth() {
  truth?.remove();
  truth = null;
  $("truth").setAttribute("aria-pressed", "false");
}
const copy = async (button, text) => { await navigator.clipboard.writeText(text); const was = button.textContent; button.textContent = "Copied"; setTimeout(() => { button.textContent = was; }, 1200); };
$("command").addEventListener("click", () => copy($("command"), shown.command));
$("code").addEventListener("click", () => copy($("code"), shown.code));

// The server's news. A browser opens six connections to a server for all its tabs together, so a tab that is not seen
// keeps none; when it is seen again, it is told everything.

let news = null, begun = false;
function listen() {
  if (document.hidden) { news?.end(); news = null; return; }
  if (news && news.readyState !== EventSource.CLOSED) return;
  const answered = warnWhenLate();
  news = new EventSource(`${session}/events`);
  news.end = () => { answered(); news.close(); };
  news.addEventListener("error", () => { answered(); complain(GONE); });
  news.addEventListener("open", () => { answered(); clearTrouble(); });
  news.addEventListener("message", update);
}
document.addEventListener("visibilitychange", listen);
listen();

function update(event) {
  state = JSON.parse(event.data);
  if (subject) subject = itemOf(subject.id) ?? subject;
  if (scene) scene = itemOf(scene.id) ?? scene;
  settle();
  if (subject?.trouble) clearStage(); // the exact cut finds nothing
  if (!begun) { // a reload: what was on the stage is there again, and what is being drawn
    begun = true;
    const last = state.results.at(-1), live = living().find((task) => task.kind === "full") ?? living()[0];
    for (const result of state.results) seen.add(result.id);
    const draft = (one) => state.results.some((full) => full.kind === "full" && one.kind === "preview" && sameParts(one, full));
    trail = state.results.slice(0, -1).filter((one) => !draft(one)).map((one) => ({ result: one.id }));
    if (last) show(last, { back: true });
    if (live) {
      chooseScene(itemOf(live.scene), { place: false }); chooseSubject(itemOf(live.subject));
      frameAt(live.box); setKnobs(live);
      if (live.kind === "full") { $("redraw").checked = true; wanted.add(live.subject); }
      did();
      $("frame").classList.toggle("ghost", !(last && here(last.box)));
      for (const task of living()) if (here(task.box)) asked[task.kind] ??= task.id;
    }
  }
  if (!scene) chooseScene(state.items.find((item) => item.kind === "scene" && item.size));
  for (const result of state.results) {
    if (seen.has(result.id)) continue;
    seen.add(result.id);
    const better = !(shown?.kind === "full" && result.kind === "preview" && shown.box.join() === result.box.join());
    // One that was asked for before the user moved on, or by another tab, is in the history alone.
    if (better && !draws.some((wish) => fulfils(result, wish)) && result.subject === subject?.id && result.scene === scene?.id && here(result.box)) show(result);
  }
  if (shown) shown = resultOf(shown.id) ?? shown;
  for (const task of living()) if (task.drafted) draft(task);
  if (fit()) {
    trail.pop(); // `drop` notes it again
    drop();
  }
  render();
}
