// The networks, run by ONNX Runtime in this tab, in one thread of WebAssembly.

let runtime;

// Loads the runtime and opens the networks; `told` hears what is being done.
export const open = async (networks, told) => {
  told("loading the runtime");
  runtime ??= await import("./runtime/ort.wasm.min.mjs");
  runtime.env.wasm.numThreads = 1;
  runtime.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
  const sessions = {};
  for (const name of Object.keys(networks)) {
    told(`opening ${networks[name].title}`);
    sessions[name] = await runtime.InferenceSession.create(new URL(`./${name}.onnx`, import.meta.url).href);
  }
  return sessions;
};

// One image, as planes in [0, 1], through one network: its outputs by name, as {data, dims}.
export const run = async (session, planes, limit) => {
  const side = Math.sqrt(planes.length / 3);
  const inputs = { images: new runtime.Tensor("float32", planes, [1, 3, side, side]) };
  if (limit !== undefined) inputs.limit = new runtime.Tensor("float32", [limit], [1, 1]);
  return session.run(inputs);
};

export const softmax = (logits) => {
  const top = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - top));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / total);
};
