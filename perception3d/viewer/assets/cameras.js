// The camera images with the same boxes: all of them, or one large above a strip of the others.

let tiles = [];   // One a camera, then two large ones.

function buildCameras() {
  const place = document.getElementById("cameras");
  const cameras = DATA.frames.map(f => f.cameras).reduce((a, b) => (b.length > a.length ? b : a));
  place.hidden = !cameras.length;
  tiles = cameras.map((camera, index) => ({ ...makeTile(place), camera, index }));
  tiles.forEach(({ tile, name, image, camera }, index) => {
    image.alt = name.textContent = camera.name;
    tile.addEventListener("click", () => chooseCamera(index));
  });
  for (let i = 0; cameras.length && i < 2; i++) {
    const large = { ...makeTile(place), camera: null, index: -1 };
    large.tile.classList.add("large");
    large.tile.addEventListener("click", () => chooseCamera(-1));
    tiles.push(large);
  }
}

function makeTile(place) {
  const tile = document.createElement("div"), image = document.createElement("img");
  const canvas = document.createElement("canvas"), name = document.createElement("span");
  const note = document.createElement("em");
  tile.className = "camera";
  tile.append(note, image, canvas, name);
  place.append(tile);
  return { tile, image, canvas, note, name, truth: true, prediction: true };
}

const smallTiles = () => tiles.slice(0, -2);

function frontCamera() {
  const azimuth = smallTiles().map(t => Math.abs(t.camera.azimuth));
  return azimuth.indexOf(Math.min(...azimuth));
}

function chooseCamera(index) {
  if (!tiles.length) return;
  state.camera = index;
  resize();
}

// Give every tile its place; called when the size, the view or the chosen camera changes.
function arrange() {
  if (!tiles.length) return;
  const place = document.getElementById("cameras"), gap = 4;
  const width = place.clientWidth, height = place.clientHeight || 1e9;
  const small = smallTiles(), large = tiles.slice(-2);
  tiles.forEach(t => Object.assign(t, { truth: state.view !== "prediction",
                                        prediction: state.view !== "truth" }));
  large.forEach(t => { t.tile.hidden = state.camera < 0; t.index = state.camera; });
  small.forEach(({ tile, index }) => {
    tile.classList.toggle("thumb", state.camera >= 0);
    tile.classList.toggle("chosen", index === state.camera);
  });
  const end = state.camera < 0 ? arrangeAll(small, width, height, gap)
    : arrangeOne(small, large, width, height, gap);
  if (height === 1e9 || narrow()) place.style.height = `${end}px`; else place.style.height = "";
}

const narrow = () => window.matchMedia("(max-width: 860px)").matches;

function put({ tile }, left, top, width, height) {
  Object.assign(tile.style, { left: `${left}px`, top: `${top}px`,
                              width: `${width}px`, height: `${height}px` });
}

// As many columns as make the images largest.
function arrangeAll(small, width, height, gap) {
  const aspect = Math.min(...small.map(t => t.camera.width / t.camera.height));
  const limit = narrow() ? 1e9 : height, across = Math.max(...small.map(t => t.camera.column + 1));
  let best = { w: 0, columns: 1 };
  for (let columns = narrow() ? 2 : 1; columns <= small.length; columns++) {
    const rows = Math.ceil(small.length / columns);
    const w = Math.min((width - gap * (columns - 1)) / columns,
                       (limit - gap * (rows - 1)) / rows * aspect);
    if (w > best.w) best = { w, columns };
  }
  const { w, columns } = best, h = w / aspect;
  // In two columns left views stand on the left, and what looks ahead or back comes first.
  const off = t => (Math.abs(Math.sin(t.camera.azimuth)) < 0.3 ? 0 : Math.abs(t.camera.azimuth));
  const paired = [...small].sort((a, b) => off(a) - off(b) || (off(a) ? b.camera.azimuth - a.camera.azimuth
    : Math.abs(a.camera.azimuth) - Math.abs(b.camera.azimuth)));
  const ordered = columns === 2 ? paired : small;
  ordered.forEach((tile, i) => {
    const around = columns === across;
    const column = around ? tile.camera.column : i % columns;
    const row = around ? tile.camera.row : Math.floor(i / columns);
    put(tile, column * (w + gap), row * (h + gap), w, h);
  });
  return Math.ceil(small.length / columns) * (h + gap);
}

// One camera, truth beside prediction where both are to be seen apart, and a strip of all.
function arrangeOne(small, large, width, height, gap) {
  const { camera } = small[state.camera], aspect = camera.width / camera.height;
  const two = state.view === "side", strip = (width - gap * (small.length - 1)) / small.length;
  const stripHeight = strip / aspect, room = (narrow() ? 1e9 : height) - stripHeight - 2 * gap;
  const below = Math.min(width, (two ? (room - gap) / 2 : room) * aspect);
  const beside = two ? Math.min((width - gap) / 2, room * aspect) : 0;
  const w = Math.max(below, beside), h = w / aspect, stacked = below >= beside;
  large.forEach((tile, i) => {
    const kinds = two ? (i ? "prediction" : "truth") : "";
    tile.tile.hidden = i > 0 && !two;
    if (two) Object.assign(tile, { truth: i === 0, prediction: i === 1 });
    tile.name.textContent = camera.name + (kinds && ` · ${kinds}`);
    put(tile, i && !stacked ? w + gap : 0, i && stacked ? h + gap : 0, w, h);
  });
  const top = (two && stacked ? 2 : 1) * (h + gap) + gap;
  small.forEach((tile, i) => put(tile, i * (strip + gap), top, strip, stripHeight));
  return top + stripHeight;
}

// Width in which the cameras fill the height: two columns, or one or two large ones and the strip.
function camerasWidth(height) {
  const count = smallTiles().length, { camera } = smallTiles()[Math.max(state.camera, 0)];
  const aspect = camera.width / camera.height, rows = Math.ceil(count / 2);
  if (state.camera < 0) return 2 * (height - 4 * (rows - 1)) / rows * aspect + 4;
  return (height - 16) * aspect / ((state.view === "side" ? 2 : 1) + 1 / count) + 8;
}

function loadImages() {
  tiles.forEach(({ image, note, index }) => {
    const camera = DATA.frames[state.frame].cameras[index], src = camera && camera.src;
    image.hidden = !src;
    note.textContent = src ? "" : "no image";
    if (src) image.src = src; else image.removeAttribute("src");
  });
}

function drawCameras() {
  const frame = DATA.frames[state.frame];
  for (const { tile, canvas, index, truth, prediction } of tiles) {
    if (tile.hidden) continue;
    const [context, width, height] = prepare(canvas), camera = frame.cameras[index];
    if (!camera || !width) continue;
    const thin = tile.classList.contains("thumb") ? 0.6 : 1, scale = width / camera.width;
    const both = truth && prediction && frame.prediction;
    const sets = [[truth && frame.truth, both], [prediction && frame.prediction, false]];
    const named = [];
    for (const [boxes, dashed] of sets) {
      if (!boxes) continue;
      const seen = project(shown(boxes), camera, scale, [width, height]);
      seen.forEach(one => drawSolid(context, one, dashed, thin, [width, height]));
      if (!dashed) named.push(...seen);
    }
    if (state.labels && thin === 1) drawLabels(context, named, [width, height]);
  }
}

// Cut edges and outline of every box that shows, the farthest first, in pixels of the tile.
function project(boxes, camera, scale, [width, height]) {
  const limits = limitsOf(camera.width, camera.height), result = [];
  for (const box of boxes) {
    const points = corners(box).map(p => toHomogeneous(p, camera.matrix));
    const pixels = h => toPixel(h).map(x => x * scale);
    const edges = EDGES.map(([a, b]) => cutSegment(points[a], points[b], limits)).filter(Boolean)
      .map(cut => cut.map(pixels));
    if (!edges.length) continue;
    const us = edges.flat().map(p => p[0]), vs = edges.flat().map(p => p[1]);
    const [left, top, right, bottom] = [Math.min(...us), Math.min(...vs), Math.max(...us), Math.max(...vs)];
    const share = (right - left) * (bottom - top) / (width * height);
    const behind = points.some(p => p[2] < NEAR_M);
    const face = behind || share > 0.1 ? []
      : cutPolygon([0, 3, 7, 4].map(i => points[i]), limits).map(pixels);
    result.push({ box, edges, face, left, top, right, bottom, depth: toHomogeneous(box.at, camera.matrix)[2] });
  }
  return result.sort((a, b) => b.depth - a.depth);
}

function drawSolid(context, { box, edges, face, top, bottom }, dashed, thin, [, height]) {
  const color = DATA.colors[box.label] || [150, 150, 150], picked = box === state.picked;
  // Annotations without a LiDAR point are mostly hidden.
  const faint = box.points === 0, small = bottom - top < 0.08 * height;
  if (!dashed && !faint && face.length > 2) {
    trace(context, face);
    context.fillStyle = rgb(color, picked ? 0.4 : 0.13);
    context.fill();
  }
  context.setLineDash(dashed ? [4, 3] : []);
  const width = thin * (picked ? 2.4 : faint || small ? 1 : dashed ? 1.2 : 1.7);
  const strokes = [[picked ? "#fff" : rgb(color, faint ? 0.5 : 1), width]];
  if (!faint && !small) strokes.unshift(["rgba(0, 0, 0, .35)", width + 1.8]);
  context.beginPath();
  for (const [a, b] of edges) { context.moveTo(...a); context.lineTo(...b); }
  for (const [style, lineWidth] of strokes) {
    Object.assign(context, { strokeStyle: style, lineWidth });
    context.stroke();
  }
  context.setLineDash([]);
}

// Names of large boxes, the surest (else the largest) first, none over another.
function drawLabels(context, seen, [width, height]) {
  const taken = [[0, 0, 150, 24]], tall = 14;
  const area = one => (one.right - one.left) * (one.bottom - one.top);
  const rank = one => (one.box.score === undefined ? area(one) / (width * height) : 1 + one.box.score);
  context.font = "600 10.5px system-ui, sans-serif";
  context.textAlign = "left";
  for (const one of [...seen].sort((a, b) => rank(b) - rank(a))) {
    if (one.bottom - one.top < Math.max(0.1 * height, 20) || one.box.points === 0) continue;
    const score = one.box.score === undefined ? "" : ` ${one.box.score.toFixed(2)}`;
    const text = className(one.box.label) + score, wide = context.measureText(text).width + 6;
    if (wide > 3 * (one.right - one.left)) continue;
    const places = [[one.left, one.top - tall - 1], [one.left, one.top + 2],
                    [one.right - wide, one.top + 2], [one.left, one.bottom + 1]];
    const free = places.map(([u, v]) => [Math.min(Math.max(u, 0), width - wide), v])
      .find(([u, v]) => u >= 0 && v >= 0 && v + tall <= height && !taken.some(
        t => u < t[2] && t[0] < u + wide && v < t[3] && t[1] < v + tall));
    if (!free) continue;
    taken.push([free[0], free[1], free[0] + wide, free[1] + tall]);
    context.fillStyle = "rgba(13, 17, 23, .72)";
    context.fillRect(free[0], free[1], wide, tall);
    context.fillStyle = textColor(one.box.label);
    context.fillText(text, free[0] + 3, free[1] + 10.5);
  }
}
