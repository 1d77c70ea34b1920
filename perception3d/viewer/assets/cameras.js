// The six images with the same boxes, cut at the near plane and at the borders.

let tiles = [];

function buildCameras() {
  const place = document.getElementById("cameras");
  place.replaceChildren();
  const cameras = DATA.frames.map(f => f.cameras).reduce((a, b) => (b.length > a.length ? b : a));
  const columns = Math.max(1, ...cameras.map(c => c.column + 1));
  tiles = cameras.map((camera, index) => {
    const tile = document.createElement("div");
    tile.className = "camera";
    tile.title = "click to enlarge";
    tile.style.aspectRatio = `${camera.width} / ${camera.height}`;
    const image = document.createElement("img"), canvas = document.createElement("canvas");
    const name = document.createElement("span"), note = document.createElement("em");
    image.alt = name.textContent = camera.name;
    tile.append(note, image, canvas, name);
    tile.addEventListener("click", () => { enlarge(index); });
    place.append(tile);
    return { tile, image, canvas, note, row: camera.row, column: camera.column };
  });
  place.hidden = !cameras.length;
  place.style.display = cameras.length ? "" : "none";
  arrange(-1);
}

let large = -1;

function enlarge(index) { arrange(index === large ? -1 : index); drawCameras(); }

// As one looks around, or one camera above a row of the others.
function arrange(index) {
  large = index;
  const columns = large < 0 ? Math.max(1, ...tiles.map(t => t.column + 1)) : Math.max(1, tiles.length - 1);
  document.getElementById("cameras").style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  tiles.forEach(({ tile, row, column }, i) => {
    tile.classList.toggle("large", i === large);
    tile.style.gridRow = large < 0 ? row + 1 : i === large ? 1 : 2;
    tile.style.gridColumn = large < 0 ? column + 1 : i === large ? "1 / -1" : "auto";
  });
}

function loadImages() {
  tiles.forEach(({ image, note }, i) => {
    const camera = DATA.frames[state.frame].cameras[i], src = camera && camera.src;
    image.hidden = !src;
    note.textContent = src ? "" : "no image";
    if (src) image.src = src; else image.removeAttribute("src");
  });
}

function drawCameras() {
  const frame = DATA.frames[state.frame];
  const both = state.truth && state.prediction && frame.prediction;
  tiles.forEach(({ canvas }, i) => {
    const [context, width, height] = prepare(canvas), camera = frame.cameras[i];
    if (!camera) return;
    context.scale(width / camera.width, height / camera.height);
    const thickness = camera.width / width;
    if (state.truth) drawSolids(context, camera, shown(frame.truth), both, thickness);
    if (state.prediction) drawSolids(context, camera, shown(frame.prediction), false, thickness);
  });
}

function drawSolids(context, camera, boxes, dashed, thickness) {
  const limits = limitsOf(camera.width, camera.height);
  const far = boxes.map(box => [toHomogeneous(box.at, camera.matrix)[2], box]).sort((a, b) => b[0] - a[0]);
  for (const [, box] of far) {
    const points = corners(box).map(p => toHomogeneous(p, camera.matrix));
    const color = DATA.colors[box.label] || [150, 150, 150], picked = box === state.picked;
    if (!dashed) {
      const face = cutPolygon([0, 3, 7, 4].map(i => points[i]), limits);
      if (face.length > 2) {
        trace(context, face.map(toPixel));
        context.fillStyle = rgb(color, picked ? 0.5 : 0.22);
        context.fill();
      }
    }
    context.strokeStyle = picked ? "#fff" : rgb(color, 1);
    context.lineWidth = thickness * (picked ? 2.2 : dashed ? 1 : 1.4);
    context.setLineDash(dashed ? [4 * thickness, 3 * thickness] : []);
    context.beginPath();
    for (const [a, b] of EDGES) {
      const cut = cutSegment(points[a], points[b], limits);
      if (!cut) continue;
      context.moveTo(...toPixel(cut[0]));
      context.lineTo(...toPixel(cut[1]));
    }
    context.stroke();
    context.setLineDash([]);
  }
}
