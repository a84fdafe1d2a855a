// The few elements that the page's parts are made of.

export const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

let count = 0;
// A control under its label; `shown` puts its value into words.
export const labelled = (text, control, shown) => {
  control.id = `live-${++count}`;
  const label = element("label", { htmlFor: control.id, textContent: text });
  const box = element("div", { className: "live-control" }, label, control);
  if (shown) {
    const value = element("output", { htmlFor: control.id });
    const tell = () => { value.value = shown(control.valueAsNumber); };
    control.addEventListener("input", tell);
    control.addEventListener("set", tell);
    tell();
    label.append(" ", value);
  }
  return box;
};

export const slider = (min, max, step, value) =>
  element("input", { type: "range", className: "form-range", min, max, step, value });

export const choice = (names, chosen = 0) => {
  const select = element("select", { className: "form-select" });
  select.append(...names.map((name, i) => new Option(name, i, i === chosen, i === chosen)));
  return select;
};

export const canvas = (size, label) => {
  const made = element("canvas", { width: size, height: size });
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", label);
  return made;
};

// Runs `work` at the next frame, once, however often it is asked to before, and never two at a time.
export const soon = (work) => {
  let asked = false;
  let running = false;
  const run = async () => {
    asked = false;
    running = true;
    try {
      await work();
    } finally {
      running = false;
      if (asked) requestAnimationFrame(run);
    }
  };
  return () => {
    if (!asked && !running) requestAnimationFrame(run);
    asked = true;
  };
};

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// The book's colors, those of fgvc_study.figures.COLORS
export const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#5D3A9B", "#1B1B1B", "#A6761D"];

export const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;
