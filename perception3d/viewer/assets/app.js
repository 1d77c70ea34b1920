// State, controls, keys and the address's hash.

const DATA = JSON.parse(document.getElementById("data").textContent);
const state = {
  frame: 0, score: DATA.min_score, truth: true, prediction: true, points: true, map: true,
  velocity: true, scores: false, intensity: false, split: false, playing: null, picked: null,
  hidden: new Set(),
};
const byId = id => document.getElementById(id);
const has = part => DATA.frames.some(frame => frame[part]);
const TOGGLES = [
  ["truth", "truth", has("truth")], ["prediction", "prediction", has("prediction")],
  ["split", "side by side", has("truth") && has("prediction")], ["points", "points", has("points")],
  ["intensity", "intensity colours", has("points")], ["map", "map", has("map")],
  ["velocity", "velocity", true], ["scores", "score labels", has("prediction")],
];

function shown(boxes) {
  return (boxes || []).filter(box => !state.hidden.has(box.label) &&
                                     (box.score === undefined || box.score >= state.score));
}

function redraw() { drawBev(); drawCameras(); }

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

function showCounts() {
  const frame = DATA.frames[state.frame];
  byId("class-head").textContent = frame.prediction ? "truth / predicted" : "truth";
  const count = (boxes, label) => (boxes || []).filter(
    b => b.label === label && (b.score === undefined || b.score >= state.score)).length;
  document.querySelectorAll("#classes button").forEach(button => {
    const label = Number(button.dataset.label), parts = [];
    if (frame.truth) parts.push(count(frame.truth, label));
    if (frame.prediction) parts.push(count(frame.prediction, label));
    button.lastChild.textContent = parts.join(" / ");
  });
}

function setToggle(key, value) {
  state[key] = value;
  const button = document.querySelector(`#toggles [data-key="${key}"]`);
  if (button) button.setAttribute("aria-pressed", String(value));
  redraw();
}

function buildControls() {
  byId("title").textContent = DATA.title;
  byId("metrics").textContent = DATA.metrics;
  if (!DATA.metrics) byId("metrics-card").style.display = "none";  // Its display rule beats hidden.
  for (const [key, text, available] of TOGGLES) {
    const button = document.createElement("button");
    button.textContent = text;
    button.dataset.key = key;
    button.disabled = !available;
    button.setAttribute("aria-pressed", String(state[key] && available));
    button.addEventListener("click", () => setToggle(key, !state[key]));
    byId("toggles").append(button);
  }
  [...DATA.classes.keys(), -1].forEach(label => {
    const used = frame => [...(frame.truth || []), ...(frame.prediction || [])].some(b => b.label === -1);
    if (label < 0 && !DATA.frames.some(used)) return;
    const button = document.createElement("button"), swatch = document.createElement("i");
    swatch.style.background = rgb(DATA.colors[label] || [150, 150, 150], 1);
    button.dataset.label = label;
    button.setAttribute("aria-pressed", "true");
    const name = (DATA.classes[label] || "ignored").replaceAll("_", " ");
    button.append(swatch, name, document.createElement("b"));
    button.addEventListener("click", () => {
      if (!state.hidden.delete(label)) state.hidden.add(label);
      button.setAttribute("aria-pressed", String(!state.hidden.has(label)));
      redraw();
    });
    byId("classes").append(button);
  });
  const slider = byId("score");
  slider.disabled = !has("prediction");
  const follow = () => {
    state.score = Number(slider.value);
    byId("score-value").textContent = state.score.toFixed(2);
    showCounts();
    redraw();
  };
  slider.value = state.score;
  byId("score-value").textContent = state.score.toFixed(2);
  slider.addEventListener("input", follow);
  byId("frame").max = DATA.frames.length - 1;
  byId("frame").addEventListener("input", event => goTo(Number(event.target.value)));
  byId("previous").addEventListener("click", () => goTo(state.frame - 1));
  byId("next").addEventListener("click", () => goTo(state.frame + 1));
  byId("play").addEventListener("click", play);
  byId("speed").addEventListener("change", () => { if (state.playing) { play(); play(); } });
}

function play() {
  if (state.playing) clearInterval(state.playing);
  state.playing = state.playing ? null
    : setInterval(() => goTo(state.frame + 1), 1000 / Number(byId("speed").value));
  byId("play").textContent = state.playing ? "❚❚" : "▶";
}

function zoomAt(factor, u, v) {
  const canvas = byId("bev");
  const ports = viewports(canvas.clientWidth, canvas.clientHeight).map(entry => entry[0]);
  const port = ports.find(p => u >= p.left && u <= p.left + p.width) || ports[0];
  const du = (u - port.left - port.width / 2) / port.scale;
  const dv = (port.top + port.height / 2 - v) / port.scale;
  const zoom = Math.min(40, Math.max(0.4, view.zoom * factor)), kept = 1 - view.zoom / zoom;
  view.x += du * kept;
  view.y += dv * kept;
  view.zoom = zoom;
  drawBev();
}

function describe(box) {
  const lines = [`${box.size.map(s => s.toFixed(2)).join(" × ")} m (l × w × h)`,
    `${Math.hypot(box.at[0], box.at[1]).toFixed(1)} m away, yaw ${(box.yaw * 180 / Math.PI).toFixed(0)}°`];
  if (box.velocity) lines.push(`${Math.hypot(...box.velocity).toFixed(1)} m/s`);
  if (box.score !== undefined) lines.push(`score ${box.score.toFixed(3)}`);
  else if (box.points >= 0) lines.push(`${box.points} LiDAR points`);
  const kind = box.score === undefined ? "truth" : "prediction";
  return [`${(DATA.classes[box.label] || "ignored").replaceAll("_", " ")} · ${kind}`, lines.join("\n")];
}

function buildPointer() {
  const canvas = byId("bev"), tip = byId("tip"), active = new Map();
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
    if (!active.has(event.pointerId)) return hover(now);
    const before = active.get(event.pointerId);
    const others = [...active].filter(([id]) => id !== event.pointerId);
    active.set(event.pointerId, now);
    if (others.length) {   // Two fingers: the distance zooms.
      const [, other] = others[0];
      const gap = p => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      return zoomAt(gap(now) / gap(before), ...other);
    }
    const scale = viewports(canvas.clientWidth, canvas.clientHeight)[0][0].scale;
    view.x -= (now[0] - before[0]) / scale;
    view.y += (now[1] - before[1]) / scale;
    return drawBev();
  });
  canvas.addEventListener("dblclick", resetView);
  canvas.addEventListener("pointerleave", () => hover([-1e6, -1e6]));
  function hover([u, v]) {
    const box = pickBox(u, v);
    if (box !== state.picked) { state.picked = box; redraw(); }
    tip.hidden = !box;
    if (!box) return;
    const [head, body] = describe(box), title = document.createElement("b");
    title.textContent = head;
    title.style.color = rgb(DATA.colors[box.label] || [150, 150, 150], 1);
    tip.replaceChildren(title, body);
    tip.style.left = `${Math.min(u + 14, canvas.clientWidth - 190)}px`;
    tip.style.top = `${Math.min(v + 14, canvas.clientHeight - 110)}px`;
  }
  byId("zoom-in").addEventListener("click", () => zoomMiddle(1.4));
  byId("zoom-out").addEventListener("click", () => zoomMiddle(1 / 1.4));
  byId("zoom-reset").addEventListener("click", resetView);
}

function zoomMiddle(factor) {
  const port = viewports(byId("bev").clientWidth, byId("bev").clientHeight)[0][0];
  zoomAt(factor, port.left + port.width / 2, port.top + port.height / 2);
}

function resetView() { Object.assign(view, { x: 0, y: 0, zoom: 1 }); drawBev(); }

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  const flip = { t: "truth", p: "prediction", s: "split", v: "velocity", m: "map", o: "points" };
  const actions = {
    ArrowRight: () => goTo(state.frame + 1), ArrowLeft: () => goTo(state.frame - 1),
    Home: () => goTo(0), End: () => goTo(DATA.frames.length - 1), " ": play,
    "+": () => zoomMiddle(1.4), "-": () => zoomMiddle(1 / 1.4), 0: resetView,
  };
  if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
  else if (flip[event.key] && TOGGLES.find(t => t[0] === flip[event.key])[2]) {
    setToggle(flip[event.key], !state[flip[event.key]]);
  }
});

// #frame=3&score=0.4&split=1&zoom=2&camera=1: any state of the page has an address.
function readHash() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const [key, , available] of TOGGLES) {
    if (wanted.has(key) && available) setToggle(key, wanted.get(key) !== "0");
  }
  const number = key => (wanted.has(key) ? Number(wanted.get(key)) : NaN);
  if (number("score") >= 0) {
    byId("score").value = wanted.get("score");
    byId("score").dispatchEvent(new Event("input"));
  }
  if (number("zoom") > 0) view.zoom = number("zoom");
  if (tiles[number("camera")]) enlarge(number("camera"));
  const frame = Number.isInteger(number("frame")) ? number("frame") : state.frame;
  goTo(Math.min(Math.max(frame, 0), DATA.frames.length - 1));
}

buildControls();
buildCameras();
buildPointer();
readHash();
window.addEventListener("hashchange", readHash);
new ResizeObserver(redraw).observe(byId("bev"));
