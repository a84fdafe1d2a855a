// Draws the birds of fgvc_lib/data/bird_drawing.py, pixel by pixel, from the same numbers in the same order.
// Lengths are in bird units: the bird looks to the right, its body is about one unit long, y points up.

export const DRAWS = 128; // uniform numbers that a bird takes
// the first of them, by which the sliders set what they set: [place, lowest, highest value]
export const POSE = { size: [0, 0.74, 0.92], mirrored: [1, 0, 1], tilt: [2, -0.1, 0.12] };

const [WHITE, BLACK, RED, YELLOW, ORANGE, BLUE] = [
  [0.96, 0.95, 0.92], [0.08, 0.08, 0.1], [0.8, 0.12, 0.12], [0.95, 0.8, 0.15], [0.93, 0.5, 0.12], [0.25, 0.45, 0.85],
];
const BERRIES = [WHITE, BLACK, RED, YELLOW, ORANGE, BLUE];
const PLUMAGES = [ // back, belly
  [[0.5, 0.38, 0.27], [0.8, 0.7, 0.56]],
  [[0.45, 0.48, 0.52], [0.78, 0.79, 0.78]],
  [[0.44, 0.47, 0.28], [0.76, 0.75, 0.52]],
  [[0.36, 0.46, 0.58], [0.74, 0.78, 0.8]],
  [[0.58, 0.44, 0.4], [0.84, 0.74, 0.68]],
];
const FOLIAGE = [
  [[0.55, 0.7, 0.8], [0.7, 0.78, 0.72]],
  [[0.3, 0.42, 0.25], [0.58, 0.66, 0.38]],
  [[0.62, 0.56, 0.42], [0.42, 0.4, 0.3]],
  [[0.74, 0.66, 0.6], [0.5, 0.55, 0.62]],
  [[0.22, 0.3, 0.28], [0.45, 0.52, 0.4]],
];
const GREENS = [[0.3, 0.5, 0.18], [0.45, 0.55, 0.2], [0.55, 0.42, 0.16]];

const { abs, floor, max, min, sqrt } = Math;
const clip = (value) => min(max(value, 0), 1);

// coordinates in a frame turned counter-clockwise by an angle, given as the tangent of its half
const turn = (x, y, t) => {
  const cosine = (1 - t * t) / (1 + t * t);
  const sine = (2 * t) / (1 + t * t);
  return [cosine * x + sine * y, cosine * y - sine * x];
};
// signed distances, negative inside
const ellipse = (x, y, a, b) => (sqrt((x / a) ** 2 + (y / b) ** 2) - 1) * min(a, b);
const leaf = (x, y, length, width) => abs(y) - width * (1 - (x / length) ** 2);

// numbers in the order in which the bird takes them
const inOrder = (uniform) => {
  let place = 0;
  const draw = (low = 0, high = 1) => low + (high - low) * uniform[place++];
  draw.choose = (table) => table[floor(Math.fround(draw() * table.length))];
  return draw;
};

// a smooth random field: a grid of cells × cells numbers, interpolated between
const noise = (draw, cells, size) => {
  const grid = Array.from({ length: cells * cells }, () => draw());
  const at = Array.from({ length: size }, (_, i) => {
    const t = ((i + 0.5) * (cells - 1)) / size;
    const low = min(floor(t), cells - 2);
    const f = t - low;
    return [low, f * f * (3 - 2 * f)];
  });
  const along = (row, [low, f]) => grid[row * cells + low] + f * (grid[row * cells + low + 1] - grid[row * cells + low]);
  return (i, j) => {
    const [row, f] = at[i];
    const above = along(row, at[j]);
    return above + f * (along(row + 1, at[j]) - above);
  };
};

// A bird of size × size pixels as RGBA bytes. `look` are the parameters of a plain bird with those of its mark;
// `part` is the place of the mark, which no leaf hides.
export const drawBird = (uniform, look, part, size) => {
  const draw = inOrder(uniform);
  const image = new Float64Array(3 * size * size);
  const keep = new Uint8Array(size * size); // where the part with the mark is
  const paint = (at, cover, color, shade = 1) => {
    for (let c = 0; cover > 0 && c < 3; c++) image[at + c] += cover * (color[c] * shade - image[at + c]);
  };

  // ---- everything that is drawn at random, in order
  const scale = draw(0.74, 0.92);
  const mirror = draw() < 0.5 ? 1 : -1;
  const tilt = draw(-0.1, 0.12);
  const [cx, cy] = [draw(-0.06, 0.06), draw(-0.12, 0.12)];
  const foliage = draw.choose(FOLIAGE);
  const [coarse, fine] = [noise(draw, 4, size), noise(draw, 6, size)];
  const gradient = draw(-0.4, 0.4);
  const berries = Array.from({ length: 4 }, () => [draw(-1, 1), draw(-1, 1), draw(0.03, 0.07), draw.choose(BERRIES)]);
  const slope = draw(-0.06, 0.06);
  const plumage = draw.choose(PLUMAGES);
  const brightness = draw(0.88, 1.12);
  const [back, belly] = plumage.map((color) => color.map((value) => value * brightness));
  const tailTurn = draw(-0.16, 0.02);
  const [headX, headY, headTurn] = [draw(-0.03, 0.03), draw(-0.04, 0.03), draw(-0.1, 0.1)];

  const each = (body) => {
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < size; j++) body(((j + 0.5) * 2) / size - 1, 1 - ((i + 0.5) * 2) / size, i, j);
    }
  };
  each((x0, y0, i, j) => {
    const at = 3 * (i * size + j);

    // ---- blurred foliage and berries
    const far = (distance) => clip(0.5 - (distance * size) / 2);
    const mix = clip(coarse(i, j) + 0.5 * (fine(i, j) - 0.5) + gradient * y0);
    for (let c = 0; c < 3; c++) image[at + c] = foliage[0][c] + mix * (foliage[1][c] - foliage[0][c]);
    for (const [bx, by, radius, color] of berries) paint(at, far(ellipse(x0 - bx, y0 - by, radius, radius)), color);

    // ---- pose, perch and legs
    const cover = (distance) => clip(0.5 - (distance * scale * size) / 2);
    const [px, py] = [((x0 - cx) / scale) * mirror, (y0 - cy) / scale];
    const [x, y] = turn(px, py, tilt);
    paint(at, cover(ellipse(px, py + 0.6 + slope * px, 3, 0.055)), [0.36, 0.26, 0.18], 1 + 3 * (py + 0.6));
    for (const foot of [-0.1, 0.06]) {
      const leg = max(abs(px - foot - 0.1 * (py + 0.55)) - 0.018, abs(py + 0.47) - 0.13);
      paint(at, cover(leg), [0.55, 0.38, 0.25]);
    }
    const light = 1 + 0.22 * y;

    // ---- tail: s runs along it, n across
    const [backwards, n] = turn(x + 0.42, y + 0.04, tailTurn);
    const s = -backwards;
    const tail = cover(max(abs(n) - max(0.075 + 0.06 * s, 0.05), s - 0.58, -s));
    paint(at, tail, back.map((value) => value * 0.82), light);
    paint(at, tail * cover(max(look.tail_from - s, s - look.tail_to)), look.tail_color);

    // ---- beak, before the head that covers its root
    const [hx, hy] = turn(x - 0.4 - headX, y - 0.34 - headY, headTurn);
    const t = (hx - 0.17) / look.beak_length;
    const edge = abs(hy + 0.01 + 0.02 * t * t) - look.beak_width * (1 - t);
    const beak = cover(max(edge, max(-t, t - 1) * look.beak_length));
    paint(at, beak, [0.25, 0.22, 0.2], 1 + 2.2 * hy);

    // ---- body and head in one outline, the belly with a soft edge
    const [bx, by] = turn(x + 0.04, y + 0.08, 0.17);
    const [body, head] = [ellipse(bx, by, 0.52, 0.335), ellipse(hx, hy, 0.235, 0.215)];
    const blend = max(0.2 - abs(body - head), 0);
    const outline = cover(min(body, head) - (blend * blend) / 0.8);
    paint(at, outline, back, light);
    paint(at, outline * clip(0.5 - (by + 0.05 - 0.45 * bx) * 5), belly, light);

    // ---- breast
    const [ux, uy] = [x - 0.31, y - 0.01];
    const breast = outline * cover(ellipse(ux, uy, 0.17, 0.17));
    const spot = cover(ellipse(ux - 0.02, uy, 0.11, 0.11)) * (look.spot > 0);
    const streaks = cover(abs(ux * 12 - floor(ux * 12) - 0.5) / 12 - 0.018) * (look.streaks > 0);
    paint(at, breast * max(spot, streaks), BLACK);

    // ---- wing: feathers, then bars across it
    const [wx, wy] = turn(x + 0.22, y, 0.1);
    const wing = outline * cover(leaf(wx - 0.04, wy + 0.3 * wx * wx, 0.46, 0.19));
    const feathers = wx * 9 + wy * 6;
    paint(at, wing, back.map((value) => value * 0.74), light - abs(feathers - floor(feathers) - 0.5) * 0.22);
    const across = wx - 0.55 * wy;
    paint(at, wing * cover(min(abs(across - 0.13) - look.bar, abs(across + 0.04) - look.bar2)), look.bar_color);

    // ---- crown and eye
    const crown = outline * cover(max(head, 0.055 - hy - 0.25 * hx));
    paint(at, crown * look.cap, look.cap_color);
    const [ex, ey] = [hx - 0.085, hy - 0.02];
    const eye = cover(ellipse(ex, ey, 0.105, 0.105));
    paint(at, eye * look.ring, WHITE);
    const line = cover(max(abs(ey) - 0.05, abs(ex) - 0.2)) * outline * look.eyeline;
    paint(at, line, BLACK);
    paint(at, cover(ellipse(ex, ey, 0.05, 0.05)), [0.05, 0.04, 0.04]);
    paint(at, cover(ellipse(ex - 0.015, ey - 0.018, 0.014, 0.014)), WHITE);

    const regions = {
      crown, eye: max(eye, line), beak, breast: breast * (1 - wing),
      wing: wing * cover(abs(across - 0.05) - 0.17), tail: tail * cover(0.22 - s),
    };
    keep[i * size + j] = regions[part] > 0.5;
  });

  // ---- two leaves; one that would touch the part with the mark is not there
  for (let count = 0; count < 2; count++) {
    const [lx, ly, angle, length, width] = [draw(-0.8, 0.8), draw(-0.8, 0.8), draw(-1, 1), draw(0.22, 0.36), draw(0.08, 0.14)];
    const green = draw.choose(GREENS);
    const covers = new Float64Array(size * size);
    let free = true;
    each((x0, y0, i, j) => {
      covers[i * size + j] = clip(0.5 - (leaf(...turn(x0 - lx, y0 - ly, angle), length, width) * size) / 2);
      free &&= !(keep[i * size + j] && covers[i * size + j] > 0);
    });
    each((x0, y0, i, j) => {
      const vein = abs(turn(x0 - lx, y0 - ly, angle)[1]) < 0.012;
      if (free) paint(3 * (i * size + j), covers[i * size + j], green, 1 - 0.25 * vein);
    });
  }

  // ---- color cast, then 8 bits
  const cast = [0, 0, 0].map(() => 1 + 0.24 * (draw() - 0.5));
  const pixels = new Uint8ClampedArray(4 * size * size).fill(255);
  for (let p = 0; p < size * size; p++) {
    for (let c = 0; c < 3; c++) pixels[4 * p + c] = floor(clip(image[3 * p + c] * cast[c]) * 255 + 0.5);
  }
  return pixels;
};

// Numbers that look random, the same for the same seed (mulberry32).
export const uniformNumbers = (seed) => {
  let state = seed >>> 0;
  return Float32Array.from({ length: DRAWS }, () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 8) / 2 ** 24;
  });
};
