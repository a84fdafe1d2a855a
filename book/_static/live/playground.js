// A bird, or the reader's own picture, and what four networks make of it.
import { POSE, drawBird, uniformNumbers } from "./bird.js";
import { canvas, choice, element, labelled, percent, slider, soon } from "./dom.js";
import { bytes, decode, heat, planes, square } from "./image.js";
import { open, run, softmax } from "./networks.js";

const NONE = "no second mark";
const TOP = 3; // classes that are named
const SHARP = 256; // pixels in which pictures are shown

const paint = (target, pixels) => {
  const side = Math.sqrt(pixels.length / 4);
  const small = new OffscreenCanvas(side, side);
  small.getContext("2d").putImageData(new ImageData(pixels, side, side), 0, 0);
  const context = target.getContext("2d");
  context.drawImage(small, 0, 0, target.width, target.height);
  return context;
};
const overlay = (target, values) => {
  const context = target.getContext("2d");
  context.globalAlpha = 0.5;
  paint(target, heat(values));
  context.globalAlpha = 1;
};
// the lines along which TASN samples, every fourth
const drawGrid = (context, grid) => {
  const side = grid.length / 2;
  context.strokeStyle = "rgb(255 255 255 / 80%)";
  context.lineWidth = 1;
  for (let k = 0; k < side; k += 4) {
    context.beginPath();
    context.moveTo(grid[k] * SHARP, 0);
    context.lineTo(grid[k] * SHARP, SHARP);
    context.moveTo(0, grid[side + k] * SHARP);
    context.lineTo(SHARP, grid[side + k] * SHARP);
    context.stroke();
  }
};

const bars = (probabilities, names) => {
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]).slice(0, TOP);
  return order.map((label) => {
    const bar = element("meter", { min: 0, max: 1, value: probabilities[label], ariaLabel: names[label] });
    return element("li", {}, element("span", { textContent: `${names[label]} ${percent(probabilities[label], 0)}` }), bar);
  });
};

// What is shown of each network beside its prediction: a figure for each map.
const pictures = {
  plain: (images, out, shown) => {
    const side = out.maps.dims[2] * out.maps.dims[3];
    paint(shown[0], images.small);
    overlay(shown[0], out.maps.data.slice(shown.label * side, (shown.label + 1) * side));
  },
  mutual_channel: (images, out, shown, facts) => {
    const side = out.maps.dims[2] * out.maps.dims[3];
    shown.forEach((target, k) => {
      paint(target, images.small);
      const channel = shown.label * facts.channels + k;
      overlay(target, out.maps.data.slice(channel * side, (channel + 1) * side));
    });
  },
  tasn: (images, out, shown) => {
    paint(shown[0], images.large);
    overlay(shown[0], out.maps.data);
    drawGrid(shown[0].getContext("2d"), out.grid.data);
    paint(shown[1], bytes(out.sampled.data));
  },
  ap_cnn: (images, out, shown) => {
    ["level3", "level4", "level5"].forEach((level, k) => {
      paint(shown[k], images.small);
      overlay(shown[k], out[level].data);
    });
  },
};
const CAPTIONS = {
  plain: () => ["class activation map"],
  mutual_channel: (facts) => Array.from({ length: facts.channels }, (_, k) => `channel ${k + 1}`),
  tasn: () => ["attention and grid", "what the classifier sees"],
  ap_cnn: () => ["level 3", "level 4", "level 5"],
};

export default async (part) => {
  const { networks, birds } = await (await fetch(new URL("./playground.json", import.meta.url))).json();
  const names = birds.marks.map((mark) => mark.name);
  const still = part.querySelector("figure");

  // ---- the bird
  let seed = 1;
  let own = null; // the reader's picture, in place of a bird
  const mark = choice(names);
  const second = choice([NONE, ...names]);
  const strength = slider(0, 1, 0.05, 1);
  const size = slider(0, 1, 0.01, 0.5);
  const tilt = slider(0, 1, 0.01, 0.5);
  const mirrored = element("input", { type: "checkbox", className: "form-check-input" });
  const another = element("button", { type: "button", className: "btn btn-secondary", textContent: "Another bird" });
  const file = element("input", { type: "file", accept: "image/*", className: "form-control" });
  const picture = canvas(SHARP, "");

  const bird = (side) => {
    const uniform = uniformNumbers(seed);
    uniform[POSE.size[0]] = size.valueAsNumber;
    uniform[POSE.tilt[0]] = tilt.valueAsNumber;
    uniform[POSE.mirrored[0]] = mirrored.checked ? 0.75 : 0.25;
    const { look, part: place } = birds.marks[mark.value];
    const more = second.value > 0 ? birds.marks[second.value - 1].look : {};
    const marked = drawBird(uniform, { ...birds.plain, ...more, ...look }, place, side);
    const amount = strength.valueAsNumber;
    if (amount === 1) return marked;
    const plain = drawBird(uniform, { ...birds.plain, ...more }, place, side);
    return marked.map((value, i) => Math.round(amount * value + (1 - amount) * plain[i]));
  };
  const images = () => (own ? { small: square(own, 64), large: square(own, 128) } : { small: bird(64), large: bird(128) });

  // ---- the networks
  let sessions = null;
  let begun = 0;
  const start = element("button", { type: "button", className: "btn btn-primary", textContent: "Ask the networks" });
  const told = element("output", { className: "live-told" });
  const limit = slider(networks.tasn.limit.low, networks.tasn.limit.high, 0.5, networks.tasn.limit.value);
  const shownClass = choice(["the predicted class", ...names]);
  const controls = {
    tasn: [labelled("Largest magnification", limit, (value) => `${value} ×`)],
    mutual_channel: [labelled("Channels of", shownClass)],
  };
  const cards = Object.fromEntries(
    Object.entries(networks).map(([name, facts]) => {
      const captions = CAPTIONS[name](facts);
      const shown = captions.map((caption) => canvas(SHARP, `${facts.title}: ${caption}`));
      const list = element("ul", { className: "live-bars" });
      const figures = shown.map((target, k) => element("figure", {}, target, element("figcaption", { textContent: captions[k] })));
      const card = element("section", { className: "live-card", hidden: true },
        element("h3", { textContent: facts.title }),
        element("p", { textContent: `${percent(facts.accuracy)} of the test birds right` }),
        list, element("div", { className: "live-maps" }, ...figures), ...(controls[name] ?? []));
      card.dataset.network = name;
      return [name, { card, list, shown }];
    }),
  );

  const ask = async (given) => {
    const said = [];
    for (const [name, facts] of Object.entries(networks)) {
      const input = planes(facts.size === 64 ? given.small : given.large);
      const out = await run(sessions[name], input, name === "tasn" ? limit.valueAsNumber : undefined);
      const probabilities = softmax(out.logits.data);
      const predicted = probabilities.indexOf(Math.max(...probabilities));
      const { card, list, shown } = cards[name];
      shown.label = name === "mutual_channel" && shownClass.value > 0 ? shownClass.value - 1 : predicted;
      list.replaceChildren(...bars(probabilities, names));
      pictures[name](given, out, shown, facts);
      card.hidden = false;
      card.dataset.logits = JSON.stringify(Array.from(out.logits.data));
      said.push(`${facts.title}: ${names[predicted]}`);
    }
    if (begun) {
      told.value = `First prediction ${((performance.now() - begun) / 1000).toFixed(1)} seconds after the click. ${said.join("; ")}.`;
      begun = 0;
    } else {
      told.value = `${said.join("; ")}.`;
    }
  };
  const show = async () => {
    const given = images();
    paint(picture, given.large);
    const marks = second.value > 0 ? `${names[mark.value]} and ${names[second.value - 1]}` : names[mark.value];
    picture.setAttribute("aria-label", own ? "your picture, as the networks see it" : `a drawn bird with ${marks}`);
    if (sessions) await ask(given);
  };
  const renew = soon(show);

  start.addEventListener("click", async () => {
    start.disabled = true;
    begun = performance.now();
    try {
      sessions = await open(networks, (doing) => { told.value = `${doing} …`; });
      start.hidden = true;
      still?.remove();
      await show();
    } catch (error) {
      start.disabled = false;
      told.value = `The networks cannot run here (${error.message}): they need WebAssembly. The picture below stays still.`;
    }
  });
  file.addEventListener("change", async () => {
    try {
      own = file.files.length ? await decode(file.files[0]) : null;
    } catch {
      own = null;
      told.value = `${file.files[0].name} cannot be read as a picture: choose a JPEG, PNG or WebP file.`;
    }
    renew();
  });
  another.addEventListener("click", () => {
    seed += 1;
    own = null;
    file.value = "";
    renew();
  });
  for (const control of [mark, second, strength, size, tilt, mirrored, limit, shownClass]) {
    control.addEventListener("input", () => {
      if (control !== limit && control !== shownClass) own = null;
      renew();
    });
  }

  part.querySelector(".live-why")?.remove();
  part.prepend(
    element("div", { className: "live-bird" }, picture,
      element("div", { className: "live-controls" },
        labelled("Mark", mark), labelled("Second mark", second),
        labelled("Strength of the mark", strength, (value) => percent(value, 0)),
        labelled("Size", size), labelled("Tilt", tilt), labelled("Looks to the left", mirrored),
        labelled("Or your own picture", file), another, start)),
    element("p", {}, told),
    element("div", { className: "live-cards" }, ...Object.values(cards).map(({ card }) => card)),
  );
  await show();
};
