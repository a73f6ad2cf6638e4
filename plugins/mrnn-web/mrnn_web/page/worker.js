/** The model, off the page's thread: takes { id, file }, answers { id, record } or { id, error }. */
import * as ort from "./ort/ort.wasm.min.mjs";
import { read, scale } from "./pixels.js";

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
const loading = load();
loading.catch(() => {}); // each photo that asks for it says why

async function load() {
  const facts = await (await fetch("model.json")).json();
  const response = await fetch("model.onnx");
  if (!response.ok) throw new Error(`model.onnx: ${response.status}`);
  const session = await ort.InferenceSession.create(new Uint8Array(await response.arrayBuffer()), {
    executionProviders: ["wasm"],
  });
  return { facts, session };
}

let turn = Promise.resolve();
self.addEventListener("message", ({ data: { id, file } }) => {
  turn = turn.then(async () => {
    try {
      self.postMessage({ id, record: await caption(file) });
    } catch (error) {
      self.postMessage({ id, error: error.message });
    }
  });
});

async function caption(file) {
  const { facts, session } = await loading;
  const { height, width } = facts.preprocess;
  const pixels = scale(await read(file), facts.preprocess);
  const image = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  const outputs = await session.run({ image });
  const [, count, places] = outputs.caption.dims;
  const candidates = [];
  for (let place = 0; place < count && outputs.length.data[place] > 0; place++) {
    candidates.push({
      caption: outputs.caption.data.slice(place * places, (place + 1) * places).join(""),
      log_prob: outputs.log_prob.data[place],
      score: outputs.score.data[place],
      confidence: outputs.confidence?.data[place] ?? null,
    });
  }
  return {
    ...candidates[0],
    finished: Boolean(outputs.finished.data[0]),
    candidates,
    model: facts.name,
    provider: "wasm",
    decoder: facts.decoder,
    reranker: null,
  };
}
