// Captions photos in Node with one ONNX file and no Python:
//
//     mrnn flatten flickr8k -o caption.onnx
//     npm install --ignore-scripts onnxruntime-node jpeg-js
//     node caption.mjs caption.onnx dog.jpg
//
// It is run from a checkout; elsewhere, copy pixels.js beside it.
import { readFile } from "node:fs/promises";
import jpeg from "jpeg-js";
import * as ort from "onnxruntime-node";
import { scale } from "../../plugins/mrnn-web/mrnn_web/page/pixels.js";

const [model, ...photos] = process.argv.slice(2);
const session = await ort.InferenceSession.create(model);
// bundle.json says the same under `preprocess`.
const [, height, width] = session.inputMetadata[0].shape;
const recipe = { height, width, resize: "squash", interpolation: "bilinear" };

for (const photo of photos) {
  const pixels = scale(jpeg.decode(await readFile(photo), { useTArray: true }), recipe);
  const image = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  const { caption } = await session.run({ image });
  const words = caption.data.slice(0, caption.dims[2]); // of the best caption of the first image
  console.log(`${photo}\t${words.join("")}`);
}
