// The scene from above: pan, zoom, points, map, boxes.

const view = { x: 0, y: 0, zoom: 1 };   // Middle in turned metres; zoom over "whole scene fits".

// A part of the canvas with the transform between metres of ref and its pixels.
function viewportOf(left, top, width, height) {
  // A tall pane may cut the sides off: the road lies along it.
  const scale = Math.min(height, width / 0.66) / (2 * DATA.extent_m) * view.zoom, T = DATA.turn;
  return {
    left, top, width, height, scale,
    pixel(x, y) {
      const tx = T[0] * x + T[1] * y, ty = T[2] * x + T[3] * y;
      return [left + width / 2 + (tx - view.x) * scale, top + height / 2 - (ty - view.y) * scale];
    },
    metres(u, v) {
      const tx = (u - left - width / 2) / scale + view.x, ty = (top + height / 2 - v) / scale + view.y;
      return [T[0] * tx + T[2] * ty, T[1] * tx + T[3] * ty];
    },
  };
}

function viewports(width, height) {
  const truth = state.view !== "prediction", prediction = state.view !== "truth";
  if (state.view !== "side") return [[viewportOf(0, 0, width, height), truth, prediction]];
  if (width < 0.9 * height) {   // Whichever way makes the panes larger.
    const half = Math.floor(height / 2);
    return [[viewportOf(0, 0, width, half), true, false],
            [viewportOf(0, half + 1, width, height - half - 1), false, true]];
  }
  const half = Math.floor(width / 2);
  return [[viewportOf(0, 0, half, height), true, false],
          [viewportOf(half + 1, 0, width - half - 1, height), false, true]];
}

const contains = (port, u, v) => u >= port.left && u <= port.left + port.width &&
                                 v >= port.top && v <= port.top + port.height;

function drawBev() {
  const canvas = document.getElementById("bev");
  const [context, width, height] = prepare(canvas), frame = DATA.frames[state.frame];
  for (const [port, truth, prediction] of viewports(width, height)) {
    context.save();
    context.beginPath();
    context.rect(port.left, port.top, port.width, port.height);
    context.clip();
    if (state.map && frame.map) drawMap(context, port, frame);
    drawRings(context, port);
    if (state.points) drawPoints(context, port, frame);
    drawEgo(context, port);
    const both = truth && prediction && frame.prediction;
    if (truth) for (const box of shown(frame.truth)) drawFootprint(context, port, box, both);
    if (prediction) {
      for (const box of shown(frame.prediction)) drawFootprint(context, port, box, false);
      if (state.labels) drawScores(context, port, shown(frame.prediction));
    }
    drawCaption(context, port, frame, truth, prediction);
    context.restore();
  }
  const [, second] = viewports(width, height);
  if (!second) return;
  context.fillStyle = "#2b333e";
  if (second[0].left) context.fillRect(second[0].left - 1, 0, 1, height);
  else context.fillRect(0, second[0].top - 1, width, 1);
}

function drawMap(context, port, frame) {
  const map = frame.map;
  if (!map.picture) {
    map.picture = new Image();
    map.picture.onload = () => drawBev();
    map.picture.src = map.src;
  }
  if (!map.picture.complete || !map.picture.naturalWidth) return;
  // The picture's first row is the largest y.
  const origin = port.pixel(map.x_m[0], map.y_m[1]);
  const right = port.pixel(map.x_m[1], map.y_m[1]), down = port.pixel(map.x_m[0], map.y_m[0]);
  const w = map.picture.naturalWidth, h = map.picture.naturalHeight;
  context.save();
  context.transform((right[0] - origin[0]) / w, (right[1] - origin[1]) / w,
                    (down[0] - origin[0]) / h, (down[1] - origin[1]) / h, origin[0], origin[1]);
  context.drawImage(map.picture, 0, 0);
  context.restore();
}

function drawRings(context, port) {
  const reach = Math.max(port.width, port.height) / 2 / port.scale;
  const step = [1, 2, 5, 10, 20, 50, 100, 1000].find(s => reach / s <= 6) || 1000;
  const [u, v] = port.pixel(0, 0);
  const far = DATA.extent_m * 1.5 + Math.hypot(view.x, view.y);
  context.lineWidth = 1;
  context.font = "10.5px system-ui, sans-serif";
  context.textAlign = "center";
  for (let radius = step; radius <= far; radius += step) {
    context.strokeStyle = "rgba(120, 134, 152, .26)";
    context.beginPath();
    context.arc(u, v, radius * port.scale, 0, 2 * Math.PI);
    context.stroke();
    context.fillStyle = "#7d8896";
    const at = radius * port.scale * Math.SQRT1_2;
    context.lineWidth = 3;
    context.strokeStyle = "rgba(13, 17, 23, .7)";
    context.strokeText(`${radius} m`, u + at, v + at + 4);
    context.lineWidth = 1;
    context.fillText(`${radius} m`, u + at, v + at + 4);
  }
}

function drawPoints(context, port, frame) {
  const points = frame.points;
  if (!points) return;
  if (!points.decoded) {
    const xy = decode(points.xy, Int16Array);
    points.decoded = { xy, height: decode(points.height, Uint8Array),
                       intensity: decode(points.intensity, Uint8Array) };
  }
  const { xy } = points.decoded, values = points.decoded[state.intensity ? "intensity" : "height"];
  const ramp = state.intensity ? DATA.ramps.intensity : DATA.ramps.height;
  const size = Math.min(3, Math.max(1.15, port.scale * 0.09)), half = size / 2;
  const bins = ramp.map(() => []);
  for (let i = 0; i < values.length; i++) bins[values[i] * ramp.length >> 8].push(i);
  bins.forEach((members, bin) => {
    context.fillStyle = rgb(ramp[bin], 1);
    for (const i of members) {
      const [u, v] = port.pixel(xy[2 * i] * points.unit_m, xy[2 * i + 1] * points.unit_m);
      context.fillRect(u - half, v - half, size, size);
    }
  });
}

function trace(context, vertices) {
  context.beginPath();
  vertices.forEach(([u, v], i) => (i ? context.lineTo(u, v) : context.moveTo(u, v)));
  context.closePath();
}

function drawEgo(context, port) {
  trace(context, DATA.ego.map(([x, y]) => port.pixel(x, y)));
  context.fillStyle = "rgba(235, 240, 246, .92)";
  context.fill();
}

function drawFootprint(context, port, box, dashed) {
  const foot = corners(box).slice(0, 4).map(p => port.pixel(p[0], p[1]));
  const color = DATA.colors[box.label] || [150, 150, 150];
  const picked = box === state.picked;
  trace(context, foot);
  if (!dashed) { context.fillStyle = rgb(color, picked ? 0.5 : 0.22); context.fill(); }
  context.strokeStyle = picked ? "#fff" : rgb(color, 1);
  context.lineWidth = picked ? 2.2 : dashed ? 1.2 : 1.6;
  context.setLineDash(dashed ? [4, 3] : []);
  context.stroke();
  const [u, v] = port.pixel(box.at[0], box.at[1]);
  const nose = [(foot[0][0] + foot[3][0]) / 2, (foot[0][1] + foot[3][1]) / 2];
  context.beginPath();
  context.moveTo(u, v);
  context.lineTo(nose[0], nose[1]);
  context.stroke();
  context.setLineDash([]);
  if (!dashed) {
    context.lineWidth = 3;
    context.beginPath();
    context.moveTo(...foot[0]);
    context.lineTo(...foot[3]);
    context.stroke();
  }
  if (state.velocity && box.velocity && Math.hypot(...box.velocity) > 0.3) {
    const tip = port.pixel(box.at[0] + box.velocity[0], box.at[1] + box.velocity[1]);
    drawArrow(context, [u, v], tip);
  }
}

// Scores beside their boxes, the best first, none over another; too many when seen from afar.
function drawScores(context, port, boxes) {
  if (port.scale < 5) return;
  const taken = [];
  context.font = "10px system-ui, sans-serif";
  context.textAlign = "left";
  for (const box of [...boxes].sort((a, b) => b.score - a.score)) {
    const foot = corners(box).slice(0, 4).map(p => port.pixel(p[0], p[1]));
    const us = foot.map(p => p[0]), vs = foot.map(p => p[1]), text = box.score.toFixed(2);
    const wide = context.measureText(text).width, v = (Math.min(...vs) + Math.max(...vs)) / 2;
    const u = [Math.max(...us) + 3, Math.min(...us) - 3 - wide].find(left => !taken.some(
      t => left < t[0] + wide && t[0] < left + wide && Math.abs(v - t[1]) < 11));
    if (u === undefined) continue;
    taken.push([u, v]);
    context.fillStyle = textColor(box.label);
    context.fillText(text, u, v + 3.5);
  }
}

function drawArrow(context, tail, tip) {
  const length = Math.hypot(tip[0] - tail[0], tip[1] - tail[1]);
  if (length < 2) return;
  const along = [(tip[0] - tail[0]) / length, (tip[1] - tail[1]) / length], head = Math.min(6, length);
  const neck = [tip[0] - along[0] * head, tip[1] - along[1] * head];
  context.strokeStyle = context.fillStyle = "rgba(255, 255, 255, .85)";
  context.lineWidth = 1.2;
  context.beginPath();
  context.moveTo(...tail);
  context.lineTo(...neck);
  context.stroke();
  trace(context, [tip, [neck[0] - along[1] * head * 0.42, neck[1] + along[0] * head * 0.42],
                  [neck[0] + along[1] * head * 0.42, neck[1] - along[0] * head * 0.42]]);
  context.fill();
}

function drawCaption(context, port, frame, truth, prediction) {
  const parts = [], both = truth && prediction && frame.truth && frame.prediction;
  const count = boxes => `${shown(boxes).length} box${shown(boxes).length === 1 ? "" : "es"}`;
  if (truth) parts.push(frame.truth ? `truth${both ? " dashed" : ""}: ${count(frame.truth)}` : "no annotation");
  if (prediction && has("prediction")) {
    parts.push(frame.prediction ? `prediction${both ? " solid" : ""}: ${count(frame.prediction)}` : "no prediction");
  }
  if (!frame.points) parts.push("no points");
  context.font = "600 12.5px system-ui, sans-serif";
  context.textAlign = "left";
  const text = parts.join("  ·  "), width = context.measureText(text).width;
  context.fillStyle = "rgba(13, 17, 23, .8)";
  context.fillRect(port.left + 8, port.top + 8, width + 16, 24);
  context.fillStyle = "#dee4ec";
  context.fillText(text, port.left + 16, port.top + 24.5);
}

function pickBox(u, v) {
  const canvas = document.getElementById("bev"), frame = DATA.frames[state.frame];
  for (const [port, truth, prediction] of viewports(canvas.clientWidth, canvas.clientHeight)) {
    if (!contains(port, u, v)) continue;
    const [x, y] = port.metres(u, v), slack = 5 / port.scale;
    const candidates = [...(prediction ? shown(frame.prediction) : []).slice().reverse(),
                        ...(truth ? shown(frame.truth) : [])];
    for (const box of candidates) {
      const dx = x - box.at[0], dy = y - box.at[1], c = Math.cos(box.yaw), s = Math.sin(box.yaw);
      if (Math.abs(c * dx + s * dy) <= box.size[0] / 2 + slack &&
          Math.abs(c * dy - s * dx) <= box.size[1] / 2 + slack) return box;
    }
  }
  return null;
}
