// What a site of `mrnn web` costs outside of a browser: CPU time of its model in WebAssembly, on one thread.
//
//     node benchmarks/wasm.mjs site/
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const site = pathToFileURL(`${resolve(process.argv[2])}/`);
const ort = await import(new URL("ort/ort.wasm.min.mjs", site));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("ort/", site).href;

let before = process.cpuUsage();
function spent() {
  const { user, system } = process.cpuUsage(before);
  before = process.cpuUsage();
  return Math.round((user + system) / 1000);
}

const { name, preprocess } = JSON.parse(await readFile(new URL("model.json", site)));
const shape = [1, preprocess.height, preprocess.width, 3];
const pixels = new Uint8Array(preprocess.height * preprocess.width * 3).map((_, place) => (7 * place) % 256);
const model = await readFile(new URL("model.onnx", site));
const session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
console.log(`${name}: ${spent()} ms to load`);
const times = [];
for (let turn = 0; turn < 6; turn++) {
  await session.run({ image: new ort.Tensor("uint8", pixels, shape) });
  times.push(spent());
}
console.log(`${name}: ${times[0]} ms for the first photo, ${Math.min(...times)} at best`);
