// Header, buttons, sliders and the legend.

const byId = id => document.getElementById(id);
const has = part => DATA.frames.some(frame => frame[part]);
const apart = () => has("truth") && has("prediction");
const VIEWS = [
  ["side", "truth | prediction", apart], ["both", "both", apart], ["truth", "truth", () => has("truth")],
  ["prediction", "prediction", () => has("prediction")],
];
const TOGGLES = [
  ["points", "points", () => has("points")], ["map", "map", () => has("map")],
  ["velocity", "velocity", () => true], ["labels", "labels", () => true],
  ["intensity", "intensity colours", () => has("points")],
];

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function button(text, key, available, act) {
  const made = element("button", text);
  made.dataset.key = key;
  made.disabled = !available;
  made.addEventListener("click", act);
  return made;
}

function setToggle(key, value) {
  state[key] = value;
  const made = document.querySelector(`#toggles [data-key="${key}"]`);
  if (made) made.setAttribute("aria-pressed", String(value && !made.disabled));
  buildLegend();
  redraw();
}

function setView(view) {
  state.view = view;
  for (const made of document.querySelectorAll("#views button")) {
    made.setAttribute("aria-pressed", String(made.dataset.key === view));
  }
  // Beside each other one camera is large enough; in one picture there is room for all.
  state.camera = view === "side" && tiles.length ? frontCamera() : -1;
  buildLegend();
  resize();
}

function setScore(score) {
  state.score = score;
  byId("score").value = score;
  byId("score-value").textContent = score.toFixed(2);
  showCounts();
  redraw();
}

function buildHeader() {
  byId("title").textContent = DATA.title;
  byId("metrics").textContent = DATA.metrics;
  byId("metrics-card").hidden = !DATA.metrics;
  for (const [name, value] of DATA.headline) {
    const entry = element("div", undefined, /^m\w+E$/.test(name) ? "error" : "score");
    entry.append(element("dt", name), element("dd", value));
    byId("headline").append(entry);
  }
}

function buildControls() {
  buildHeader();
  for (const [key, text, available] of VIEWS) {
    byId("views").append(button(text, key, available(), () => setView(key)));
  }
  byId("views").hidden = !apart();
  for (const [key, text, available] of TOGGLES) {
    const made = button(text, key, available(), () => setToggle(key, !state[key]));
    made.setAttribute("aria-pressed", String(state[key] && available()));
    byId("toggles").append(made);
  }
  buildClasses();
  const slider = byId("score");
  slider.min = DATA.least_score;
  slider.closest("label").hidden = !has("prediction");
  slider.addEventListener("input", () => setScore(Number(slider.value)));
  byId("frame").max = DATA.frames.length - 1;
  byId("frame").addEventListener("input", event => goTo(Number(event.target.value)));
  byId("previous").addEventListener("click", () => goTo(state.frame - 1));
  byId("next").addEventListener("click", () => goTo(state.frame + 1));
  byId("play").addEventListener("click", play);
  byId("speed").addEventListener("change", () => { if (state.playing) { play(); play(); } });
}

function buildClasses() {
  const ignored = frame => [...(frame.truth || []), ...(frame.prediction || [])].some(b => b.label === -1);
  for (const label of [...DATA.classes.keys(), -1]) {
    if (label < 0 && !DATA.frames.some(ignored)) continue;
    const made = element("button"), swatch = element("i", undefined, "swatch");
    swatch.style.background = rgb(DATA.colors[label] || [150, 150, 150], 1);
    made.dataset.label = label;
    made.title = "show or hide";
    made.setAttribute("aria-pressed", "true");
    made.append(swatch, className(label), element("b"));
    made.addEventListener("click", () => {
      if (!state.hidden.delete(label)) state.hidden.add(label);
      made.setAttribute("aria-pressed", String(!state.hidden.has(label)));
      redraw();
    });
    byId("classes").append(made);
  }
}

function showCounts() {
  const frame = DATA.frames[state.frame];
  byId("class-head").textContent = frame.prediction && frame.truth ? "boxes: truth / prediction" : "";
  const count = (boxes, label) => boxes.filter(
    b => b.label === label && (b.score === undefined || b.score >= state.score)).length;
  document.querySelectorAll("#classes button").forEach(made => {
    const label = Number(made.dataset.label), parts = [];
    if (frame.truth) parts.push(count(frame.truth, label));
    if (frame.prediction) parts.push(count(frame.prediction, label));
    made.lastChild.textContent = parts.join(" / ");
  });
}

// What lies below the boxes, and how truth and prediction are told apart.
function buildLegend() {
  const entries = [], mark = (name, style) => Object.assign(element("i", undefined, name), { style });
  if (state.view === "both" && apart()) {
    entries.push([mark("line dashed", ""), "truth"], [mark("line", ""), "prediction"]);
  }
  if (state.velocity) entries.push([element("b", "→"), "way in 1 s"]);
  if (state.map) {
    for (const [name, shown, edge] of DATA.map_classes) {
      const style = `background: ${rgb(shown, 1)}; box-shadow: inset 0 0 0 1px ${rgb(edge, 0.7)}`;
      entries.push([mark("swatch", style), name]);
    }
    if (DATA.map_classes.length) entries.push([element("b"), `map to ${DATA.map_reach_m} m`]);
  }
  if (state.points && has("points")) {
    const ramp = (state.intensity ? DATA.ramps.intensity : DATA.ramps.height).map(c => rgb(c, 1));
    const [low, high] = DATA.height_range_m.map(z => String(z).replace("-", "\u2212"));
    entries.push([mark("ramp", `background: linear-gradient(90deg, ${ramp})`),
                  state.intensity ? "intensity" : `height ${low} to ${high} m`]);
  }
  byId("legend").replaceChildren(...entries.map(([sign, text]) => {
    const entry = element("span");
    entry.append(sign, text);
    return entry;
  }));
}
