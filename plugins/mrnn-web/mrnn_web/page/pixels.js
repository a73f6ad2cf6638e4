/**
 * From a file to pixels, and from pixels of any size to those of the encoder, bit by bit as Pillow
 * scales them: a filter that widens with the reduction, one axis after the other, in whole numbers
 * of 22 bits, each result rounded to 8 bits.
 */

// As many as mrnn_runtime.images reads.
const MAX_PIXELS = 128_000_000;
const BITS = 22;
const filters = {
  bilinear: { reach: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { reach: 2, weight: cubic },
};

function cubic(x) {
  const a = -0.5;
  const at = Math.abs(x);
  if (at < 1) return ((a + 2) * at - (a + 3)) * at * at + 1;
  return at < 2 ? (((at - 5) * at + 8) * at - 4) * a : 0;
}

/** Turned as its EXIF data says, transparency over white, colours as the file has them. */
export async function read(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error("this browser cannot read the file as a photo");
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) throw new Error("the photo is too large");
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

/**
 * @param {ImageData | {data: Uint8ClampedArray, width: number, height: number}} image RGBA
 * @param {{width: number, height: number, resize: string, interpolation: string}} recipe
 * @returns {Uint8Array} RGB, [height, width, 3]
 */
export function scale(image, recipe) {
  const [left, top, right, bottom] = box(image, recipe);
  const filter = filters[recipe.interpolation];
  const across = weights(left, right, image.width, recipe.width, filter);
  const down = weights(top, bottom, image.height, recipe.height, filter);
  const rgba = { data: image.data, width: image.width, height: image.height, depth: 4 };
  // Pillow's rule since version 13: the height first where that shrinks the more.
  const isHeightFirst = image.height - recipe.height > 2 * Math.max(0, image.width - recipe.width);
  const scaled = isHeightFirst
    ? scaleWidth(scaleHeight(rgba, down), across)
    : scaleHeight(scaleWidth(rgba, across), down);
  return scaled.data;
}

function scaleWidth({ data, width, height, depth }, { starts, weights }) {
  const places = starts.length;
  const scaled = new Uint8Array(height * places * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < places; x++) {
      put(scaled, 3 * (y * places + x), weights[x], data, depth * (y * width + starts[x]), depth);
    }
  }
  return { data: scaled, width: places, height, depth: 3 };
}

function scaleHeight({ data, width, depth }, { starts, weights }) {
  const places = starts.length;
  const scaled = new Uint8Array(places * width * 3);
  for (let y = 0; y < places; y++) {
    for (let x = 0; x < width; x++) {
      const from = depth * (starts[y] * width + x);
      put(scaled, 3 * (y * width + x), weights[y], data, from, depth * width);
    }
  }
  return { data: scaled, width, height: places, depth: 3 };
}

/** The part of the image that is taken: all of it, or the largest in its middle of the right shape. */
function box({ width, height }, recipe) {
  if (recipe.resize !== "crop") return [0, 0, width, height];
  const wanted = recipe.width / recipe.height;
  const across = width / height >= wanted ? wanted * height : width;
  const down = width / height >= wanted ? height : width / wanted;
  const left = (width - across) * 0.5;
  const top = (height - down) * 0.5;
  return [left, top, left + across, top + down].map(Math.fround); // Pillow keeps 32 bits of them
}

/** For each place of the result the first place that counts, and the weights from there on. */
function weights(low, high, size, places, { reach, weight }) {
  const step = Math.fround(high - low) / places;
  const widening = Math.max(step, 1);
  const taps = { starts: [], weights: [] };
  for (let place = 0; place < places; place++) {
    const centre = low + (place + 0.5) * step;
    const first = Math.max(0, Math.trunc(centre - reach * widening + 0.5));
    const end = Math.min(size, Math.trunc(centre + reach * widening + 0.5));
    const raw = [];
    for (let x = first; x < end; x++) raw.push(weight((x - centre + 0.5) * (1 / widening)));
    const sum = raw.reduce((total, one) => total + one, 0);
    taps.starts.push(first);
    taps.weights.push(raw.map((one) => Math.trunc((one / sum) * 2 ** BITS + (one < 0 ? -0.5 : 0.5))));
  }
  return taps;
}

function put(target, at, weights, source, from, step) {
  let [red, green, blue] = [1 << (BITS - 1), 1 << (BITS - 1), 1 << (BITS - 1)];
  for (const weight of weights) {
    red += source[from] * weight;
    green += source[from + 1] * weight;
    blue += source[from + 2] * weight;
    from += step;
  }
  target[at] = clip(red >> BITS);
  target[at + 1] = clip(green >> BITS);
  target[at + 2] = clip(blue >> BITS);
}

function clip(value) {
  return Math.min(255, Math.max(0, value));
}
