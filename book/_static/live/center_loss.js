// Chapter 2's Figure 3 as a slider: the same test digits for every λ, or every α, moving from frame to frame.
import { COLORS, calm, canvas, choice, element, labelled, percent, slider } from "./dom.js";

const SIDE = 640; // of the drawing, in its own pixels
const MOVE = 500; // milliseconds from frame to frame
const SWEEPS = { lambda: "λ, the weight of the center loss", alpha: "α, the rate of the centers" };
const SIGN = { lambda: "λ", alpha: "α" };

const place = (value) => SIDE / 2 + (value * SIDE) / 2200; // thousandths of the panel → pixels

const draw = (context, digits, points, centers) => {
  context.fillStyle = "white";
  context.fillRect(0, 0, SIDE, SIDE);
  points.forEach(([x, y], i) => {
    context.fillStyle = COLORS[digits[i]];
    context.beginPath();
    context.arc(place(x), place(-y), 4, 0, 2 * Math.PI);
    context.fill();
  });
  context.strokeStyle = "black";
  context.lineWidth = 2;
  centers.forEach(([x, y]) => {
    context.beginPath();
    context.arc(place(x), place(-y), 11, 0, 2 * Math.PI);
    context.stroke();
  });
};

const between = (from, to, t) => from.map((point, i) => point.map((value, axis) => value + t * (to[i][axis] - value)));

export default async (part) => {
  const sweeps = await (await fetch(new URL("./center_loss.json", import.meta.url))).json();
  const picture = canvas(SIDE, "");
  const context = picture.getContext("2d");
  const sweep = choice(Object.values(SWEEPS));
  const position = slider(0, 1, 1, 0);
  const told = element("output");
  const name = () => Object.keys(SWEEPS)[sweep.value];
  const frame = () => sweeps[name()][position.value];
  const legend = element("p", { className: "live-legend" });
  COLORS.forEach((color, digit) => {
    const dot = element("span", { textContent: "●", ariaHidden: "true" });
    dot.style.color = color;
    legend.append(element("span", {}, dot, ` ${digit}`));
  });

  let now = frame();
  let moving = 0;
  const show = () => {
    const [from, to, start] = [now, frame(), performance.now()];
    const words = `${SIGN[name()]} = ${to.value}: test accuracy ${percent(to.accuracy)}, ratio ${to.ratio.toFixed(2)}, `
      + `half the panel is ${to.scale.toPrecision(2)} long`;
    told.value = words;
    picture.setAttribute("aria-label", `Features of test digits in the plane. ${words}`);
    position.setAttribute("aria-valuetext", `${SIGN[name()]} = ${to.value}`);
    cancelAnimationFrame(moving);
    const step = (time) => {
      const t = calm() ? 1 : Math.min(Math.max((time - start) / MOVE, 0), 1);
      const eased = t * t * (3 - 2 * t);
      now = { points: between(from.points, to.points, eased), centers: between(from.centers, to.centers, eased) };
      draw(context, to.digits, now.points, now.centers);
      if (t < 1) moving = requestAnimationFrame(step);
    };
    step(start);
  };
  const choose = () => {
    position.max = sweeps[name()].length - 1;
    position.value = 0;
    show();
  };
  sweep.addEventListener("input", choose);
  position.addEventListener("input", show);
  part.replaceChildren(
    element("div", { className: "live-controls" }, labelled("Sweep", sweep), labelled("Its value", position)),
    element("p", {}, told),
    picture,
    legend,
  );
  choose();
};
