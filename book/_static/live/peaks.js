// MC-Loss's h by hand: ξ = 3 channels of one class, along one axis in place of the plane.
import { COLORS, element, labelled, slider } from "./dom.js";

const CELLS = 96; // positions
const [WIDTH, HEIGHT] = [720, 260];
const START = [0.25, 0.5, 0.75];
const SVG = "http://www.w3.org/2000/svg";

const drawing = (tag, attributes) => {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};

// softmax over positions of a bump of this height at this place
export const attention = (middle, height) => {
  const powers = Array.from({ length: CELLS }, (_, i) => Math.exp(height * Math.exp(-((((i + 0.5) / CELLS - middle) / 0.07) ** 2) / 2)));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / total);
};

// h: the sum over positions of the largest of the channels' softmaxes, 1 to ξ
export const diversity = (channels) => {
  const largest = channels[0].map((_, i) => Math.max(...channels.map((channel) => channel[i])));
  return [largest, largest.reduce((a, b) => a + b, 0)];
};

export default (part) => {
  const places = START.map((value) => slider(0, 1, 0.01, value));
  const height = slider(0, 12, 0.5, 8);
  const told = element("output");
  const picture = drawing("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "live-peaks" });
  const lines = START.map((_, i) => drawing("polyline", { fill: "none", stroke: COLORS[i], "stroke-width": 3 }));
  const top = drawing("polyline", { fill: "none", stroke: "black", "stroke-width": 5, "stroke-dasharray": "1 9", "stroke-linecap": "round" });
  picture.append(drawing("rect", { width: WIDTH, height: HEIGHT, fill: "white" }), top, ...lines);

  const show = () => {
    const channels = places.map((input) => attention(input.valueAsNumber, height.valueAsNumber));
    const [largest, h] = diversity(channels);
    const peak = Math.max(...largest, 3 / CELLS);
    const points = (values) => values.map((value, i) => `${((i + 0.5) * WIDTH) / CELLS},${HEIGHT - 12 - (value / peak) * (HEIGHT - 30)}`).join(" ");
    lines.forEach((line, i) => line.setAttribute("points", points(channels[i])));
    top.setAttribute("points", points(largest));
    told.value = `h = ${h.toFixed(2)} of at most ${places.length}`;
    picture.setAttribute("aria-label", `Softmaxes of three channels and their maximum, dotted. ${told.value}`);
  };

  // the bump that is nearest to the pointer follows it
  const at = (event) => {
    const box = picture.getBoundingClientRect();
    return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
  };
  let held = null;
  picture.addEventListener("pointerdown", (event) => {
    const x = at(event);
    held = places.reduce((a, b) => (Math.abs(b.valueAsNumber - x) < Math.abs(a.valueAsNumber - x) ? b : a));
    picture.setPointerCapture(event.pointerId);
  });
  picture.addEventListener("pointermove", (event) => {
    if (!held) return;
    held.value = at(event);
    held.dispatchEvent(new Event("input"));
  });
  picture.addEventListener("mousedown", (event) => event.preventDefault()); // selects nothing, drags nothing else
  for (const end of ["pointerup", "pointercancel"]) picture.addEventListener(end, () => { held = null; });

  for (const input of [...places, height]) input.addEventListener("input", show);
  const named = places.map((input, i) => labelled(`Channel ${i + 1}`, input));
  part.replaceChildren(element("div", { className: "live-controls" }, ...named, labelled("Height", height)), element("p", {}, told), picture);
  show();
};
