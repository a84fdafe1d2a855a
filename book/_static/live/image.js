// Pixels as training prepares them. Images are {data: RGBA bytes, width, height}.

const clip = (value) => Math.min(Math.max(value, 0), 255);

// where each of `to` pixels along an axis comes from: bilinear, over all that falls into it (as Pillow resizes)
const weightsOf = (from, to) => {
  const scale = from / to;
  const support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), from);
    const weights = Array.from({ length: end - first }, (_, k) => Math.max(0, 1 - Math.abs((k + first - center + 0.5) / support)));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return [first, weights.map((weight) => weight / total)];
  });
};

// Both axes resized to `size`, each on its own, bytes after each: fgvc_lib.data.images.square.
export const square = ({ data, width, height }, size) => {
  const wide = new Uint8ClampedArray(4 * size * height).fill(255);
  weightsOf(width, size).forEach(([first, weights], j) => {
    for (let i = 0; i < height; i++) {
      for (let c = 0; c < 3; c++) {
        const sum = weights.reduce((total, weight, k) => total + weight * data[4 * (i * width + first + k) + c], 0);
        wide[4 * (i * size + j) + c] = Math.floor(clip(sum) + 0.5);
      }
    }
  });
  const out = new Uint8ClampedArray(4 * size * size).fill(255);
  weightsOf(height, size).forEach(([first, weights], i) => {
    for (let j = 0; j < size; j++) {
      for (let c = 0; c < 3; c++) {
        const sum = weights.reduce((total, weight, k) => total + weight * wide[4 * ((first + k) * size + j) + c], 0);
        out[4 * (i * size + j) + c] = Math.floor(clip(sum) + 0.5);
      }
    }
  });
  return out;
};

// RGBA bytes → one plane after the other, in [0, 1]: what a network takes.
export const planes = (pixels) => {
  const count = pixels.length / 4;
  return Float32Array.from({ length: 3 * count }, (_, i) => pixels[4 * (i % count) + Math.floor(i / count)] / 255);
};

// The other way, from a network's image.
export const bytes = (values) => {
  const count = values.length / 3;
  return Uint8ClampedArray.from({ length: 4 * count }, (_, i) => (i % 4 === 3 ? 255 : 255 * values[(i % 4) * count + Math.floor(i / 4)]));
};

// A file of the reader as RGBA bytes, upright, transparent pixels over white; it goes nowhere.
export const decode = async (file) => {
  const picture = await createImageBitmap(file, { imageOrientation: "from-image" });
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
};

// dark blue over green to yellow
const STOPS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

// A map {data, width, height} as colors, from its lowest value to its highest; bytes and canvas alike smooth it larger.
export const heat = (values) => {
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const pixels = new Uint8ClampedArray(4 * values.length).fill(255);
  values.forEach((value, p) => {
    const t = (STOPS.length - 1) * (high > low ? (value - low) / (high - low) : 0);
    const k = Math.min(Math.floor(t), STOPS.length - 2);
    for (let c = 0; c < 3; c++) pixels[4 * p + c] = STOPS[k][c] + (t - k) * (STOPS[k + 1][c] - STOPS[k][c]);
  });
  return pixels;
};
