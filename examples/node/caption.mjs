// Captions JPEGs in Node with one ONNX file and no Python:
//
//     mrnn flatten everyday -o caption.onnx --resize-inside
//     npm install --ignore-scripts onnxruntime-node jpeg-js
//     node caption.mjs caption.onnx dog.jpg
//
// EXIF data is not looked at: a photo that must be turned has to be turned first.
import { readFile } from "node:fs/promises";
import jpeg from "jpeg-js";
import * as ort from "onnxruntime-node";

const [model, ...photos] = process.argv.slice(2);
const session = await ort.InferenceSession.create(model);

for (const photo of photos) {
  const { data, width, height } = jpeg.decode(await readFile(photo), { useTArray: true, formatAsRGBA: false });
  const image = new ort.Tensor("uint8", data, [1, height, width, 3]);
  const { caption } = await session.run({ image });
  const words = caption.data.slice(0, caption.dims[2]); // of the best caption
  console.log(`${photo}\t${words.join("")}`);
}
