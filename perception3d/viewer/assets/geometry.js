// Boxes to corners, corners to pixels. Corner order: front left, rear left, rear right, front right
// of the bottom face, then of the top face.

const EDGES = [[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4],
               [0, 4], [1, 5], [2, 6], [3, 7]];
const SIGNS = [[1, 1], [-1, 1], [-1, -1], [1, -1]];
const NEAR_M = 0.2;

function corners(box) {
  const c = Math.cos(box.yaw), s = Math.sin(box.yaw), result = [];
  for (const up of [-0.5, 0.5]) {
    for (const [forward, left] of SIGNS) {
      const x = forward * box.size[0] / 2, y = left * box.size[1] / 2;
      result.push([box.at[0] + c * x - s * y, box.at[1] + s * x + c * y, box.at[2] + up * box.size[2]]);
    }
  }
  return result;
}

// matrix: 12 numbers, row by row; (x, y, z, 1) -> (u d, v d, d), linear, so that edges can be cut
// there at the near plane and the image borders before the division by the depth.
function toHomogeneous(point, matrix) {
  const out = [0, 0, 0];
  for (let row = 0; row < 3; row++) {
    out[row] = matrix[4 * row] * point[0] + matrix[4 * row + 1] * point[1] +
      matrix[4 * row + 2] * point[2] + matrix[4 * row + 3];
  }
  return out;
}

function limitsOf(width, height) {
  return [h => h[2] - NEAR_M, h => h[0], h => width * h[2] - h[0], h => h[1], h => height * h[2] - h[1]];
}

function between(a, b, t) {
  return [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t];
}

function cutSegment(a, b, limits) {
  let first = 0, last = 1;
  for (const limit of limits) {
    const fa = limit(a), fb = limit(b);
    if (fa < 0 && fb < 0) return null;
    if (fa < 0) first = Math.max(first, fa / (fa - fb));
    else if (fb < 0) last = Math.min(last, fa / (fa - fb));
  }
  return first < last ? [between(a, b, first), between(a, b, last)] : null;
}

function cutPolygon(vertices, limits) {
  for (const limit of limits) {
    const kept = [];
    vertices.forEach((here, i) => {
      const after = vertices[(i + 1) % vertices.length], fh = limit(here), fa = limit(after);
      if (fh >= 0) kept.push(here);
      if ((fh >= 0) !== (fa >= 0)) kept.push(between(here, after, fh / (fh - fa)));
    });
    vertices = kept;
  }
  return vertices;
}

const toPixel = h => [h[0] / h[2], h[1] / h[2]];
const rgb = (color, alpha) => `rgba(${color[0]}, ${color[1]}, ${color[2]}, ${alpha})`;

function textColor(label) {   // Lighter, so that small letters can be read on the dark ground.
  return rgb((DATA.colors[label] || [150, 150, 150]).map(c => Math.round(0.7 * c + 76)), 1);
}

const className = label => (DATA.classes[label] || "ignored").replaceAll("_", " ");

function decode(base64, Type) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Type(bytes.buffer);
}

// Size a canvas to its place on the page in device pixels; drawing stays in CSS pixels.
function prepare(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  const w = Math.round(width * ratio), h = Math.round(height * ratio);
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return [context, width, height];
}
