// State, frames, pointer, keys and the address's hash.

const DATA = JSON.parse(document.getElementById("data").textContent);
const state = {
  frame: 0, score: DATA.min_score, view: "truth", camera: -1, points: true, map: true, velocity: true,
  labels: true, intensity: false, playing: null, picked: null, hidden: new Set(),
};

function shown(boxes) {
  return (boxes || []).filter(box => !state.hidden.has(box.label) &&
                                     (box.score === undefined || box.score >= state.score));
}

function redraw() { drawBev(); drawCameras(); }

// The view from above takes a square, or more where it holds two; the cameras take the rest.
function resize() {
  const main = document.querySelector("main"), bev = document.querySelector(".bev");
  const width = main.clientWidth - 16, height = main.clientHeight - 16;
  if (narrow()) Object.assign(bev.style, { width: "", height: `${Math.min(width, 560)}px` });
  else if (!tiles.length) Object.assign(bev.style, { width: `${width}px`, height: "" });
  else {
    const [least, most] = state.view === "side" ? [0.5, 0.72] : [0.33, 0.5];
    const share = Math.min(Math.max(width - camerasWidth(height), least * width), most * width);
    Object.assign(bev.style, { width: `${Math.round(share)}px`, height: "" });
  }
  arrange();
  loadImages();
  redraw();
}

function goTo(index) {
  const count = DATA.frames.length;
  state.frame = ((index % count) + count) % count;
  state.picked = null;
  byId("tip").hidden = true;
  const frame = DATA.frames[state.frame];
  byId("frame").value = state.frame;
  byId("counter").textContent = `${state.frame + 1} / ${count}`;
  const stamp = new Date(frame.time_s * 1000).toISOString().replace("T", " ").slice(0, 23);
  byId("subtitle").textContent = `${frame.log}  ·  ${frame.token}  ·  ${stamp} UTC` +
    (frame.num_points ? `  ·  ${frame.num_points.toLocaleString("en")} points` : "");
  // Some browsers refuse a change of the address of a local file; the page works without it.
  try { history.replaceState(null, "", `#frame=${state.frame}`); } catch (error) { /* see above */ }
  loadImages();
  showCounts();
  redraw();
}

function play() {
  if (state.playing) clearInterval(state.playing);
  state.playing = state.playing ? null
    : setInterval(() => goTo(state.frame + 1), 1000 / Number(byId("speed").value));
  byId("play").classList.toggle("playing", Boolean(state.playing));
}

function portAt(u, v) {
  const canvas = byId("bev");
  const ports = viewports(canvas.clientWidth, canvas.clientHeight).map(entry => entry[0]);
  return ports.find(port => contains(port, u, v)) || ports[0];
}

function zoomAt(factor, u, v) {
  const port = portAt(u, v);
  const du = (u - port.left - port.width / 2) / port.scale;
  const dv = (port.top + port.height / 2 - v) / port.scale;
  const zoom = Math.min(40, Math.max(0.4, view.zoom * factor)), kept = 1 - view.zoom / zoom;
  view.x += du * kept;
  view.y += dv * kept;
  view.zoom = zoom;
  drawBev();
}

function zoomMiddle(factor) {
  const port = portAt(0, 0);
  zoomAt(factor, port.left + port.width / 2, port.top + port.height / 2);
}

function resetView() { Object.assign(view, { x: 0, y: 0, zoom: 1 }); drawBev(); }

function describe(box) {
  const lines = [`${box.size.map(s => s.toFixed(2)).join(" × ")} m (l × w × h)`,
    `${Math.hypot(box.at[0], box.at[1]).toFixed(1)} m away, yaw ${(box.yaw * 180 / Math.PI).toFixed(0)}°`];
  if (box.velocity) lines.push(`${Math.hypot(...box.velocity).toFixed(1)} m/s`);
  if (box.score !== undefined) lines.push(`score ${box.score.toFixed(3)}`);
  else if (box.points >= 0) lines.push(`${box.points} LiDAR points`);
  return [`${className(box.label)} · ${box.score === undefined ? "truth" : "prediction"}`, lines.join("\n")];
}

function hover(u, v) {
  const canvas = byId("bev"), tip = byId("tip"), box = pickBox(u, v);
  if (box !== state.picked) { state.picked = box; redraw(); }
  tip.hidden = !box;
  if (!box) return;
  const [head, body] = describe(box), title = element("b", head);
  title.style.color = textColor(box.label);
  tip.replaceChildren(title, body);
  tip.style.left = `${Math.min(u + 14, canvas.clientWidth - 190)}px`;
  tip.style.top = `${Math.min(v + 14, canvas.clientHeight - 110)}px`;
}

function buildPointer() {
  const canvas = byId("bev"), active = new Map();
  const where = event => [event.offsetX, event.offsetY];
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    zoomAt(Math.exp(-event.deltaY * 0.0015), ...where(event));
  }, { passive: false });
  canvas.addEventListener("pointerdown", event => {
    active.set(event.pointerId, where(event));
    canvas.setPointerCapture(event.pointerId);
    canvas.classList.add("dragging");
  });
  const release = event => { active.delete(event.pointerId); canvas.classList.remove("dragging"); };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointermove", event => {
    const now = where(event);
    if (!active.has(event.pointerId)) return hover(...now);
    const before = active.get(event.pointerId);
    const others = [...active].filter(([id]) => id !== event.pointerId);
    active.set(event.pointerId, now);
    if (others.length) {   // Two fingers: the distance zooms.
      const [, other] = others[0];
      const gap = p => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      return zoomAt(gap(now) / gap(before), ...other);
    }
    const { scale } = portAt(...now);
    view.x -= (now[0] - before[0]) / scale;
    view.y += (now[1] - before[1]) / scale;
    return drawBev();
  });
  canvas.addEventListener("dblclick", resetView);
  canvas.addEventListener("pointerleave", () => hover(-1e6, -1e6));
  byId("zoom-in").addEventListener("click", () => zoomMiddle(1.4));
  byId("zoom-out").addEventListener("click", () => zoomMiddle(1 / 1.4));
  byId("zoom-reset").addEventListener("click", resetView);
}

function buildKeys() {
  const flip = { o: "points", m: "map", v: "velocity", l: "labels", i: "intensity" };
  const oneOrAll = () => chooseCamera(state.camera < 0 ? frontCamera() : -1);
  const actions = {
    ArrowRight: () => goTo(state.frame + 1), ArrowLeft: () => goTo(state.frame - 1),
    Home: () => goTo(0), End: () => goTo(DATA.frames.length - 1), " ": play, c: oneOrAll,
    "+": () => zoomMiddle(1.4), "-": () => zoomMiddle(1 / 1.4), 0: resetView,
  };
  VIEWS.forEach(([key, , available], i) => { if (available()) actions[i + 1] = () => setView(key); });
  for (const [key, , available] of TOGGLES) {
    const letter = Object.keys(flip).find(k => flip[k] === key);
    if (available()) actions[letter] = () => setToggle(key, !state[key]);
  }
  document.addEventListener("keydown", event => {
    const { tagName, id } = event.target;
    // What has the focus keeps its own keys: lists, the score, and space on a button.
    if (event.ctrlKey || event.metaKey || event.altKey || tagName === "SELECT" || id === "score") return;
    if (event.key === " " && (tagName === "BUTTON" || tagName === "SUMMARY")) return;
    if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
  });
  document.addEventListener("click", event => {
    for (const open of document.querySelectorAll("details[open]")) {
      if (!open.contains(event.target)) open.open = false;
    }
  });
}

// #frame=3&score=0.4&view=both&zoom=2&camera=1&map=0: any state of the page has an address.
function readHash() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const number = key => (wanted.has(key) ? Number(wanted.get(key)) : NaN);
  for (const [key, , available] of TOGGLES) {
    if (wanted.has(key) && available()) setToggle(key, wanted.get(key) !== "0");
  }
  const found = VIEWS.find(([key, , available]) => key === wanted.get("view") && available());
  if (found) setView(found[0]);
  if (number("score") >= 0) setScore(number("score"));
  if (number("zoom") > 0) view.zoom = number("zoom");
  if (wanted.has("camera") && number("camera") < tiles.length - 2) chooseCamera(number("camera"));
  const frame = Number.isInteger(number("frame")) ? number("frame") : state.frame;
  goTo(Math.min(Math.max(frame, 0), DATA.frames.length - 1));
}

buildControls();
buildCameras();
buildPointer();
buildKeys();
setView((VIEWS.find(([, , available]) => available()) || ["truth"])[0]);
setScore(state.score);
readHash();
window.addEventListener("hashchange", readHash);
new ResizeObserver(resize).observe(document.querySelector("main"));
