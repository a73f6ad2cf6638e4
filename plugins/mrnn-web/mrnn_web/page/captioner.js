/**
 * Who makes the captions. Both have the same two parts:
 *   about: { where, model }, texts for the page
 *   caption(file): a promise of { caption, log_prob, candidates, neighbours, ... }, a line of
 *     `mrnn caption --format jsonl`
 * and the server has search(sentence, files): a promise of the places of the files, best first.
 */

/** Captions by the server that the page came from. */
export function serverCaptioner() {
  const ask = async (path, body, headers = {}) => {
    let response;
    try {
      response = await fetch(path, { method: "POST", body, headers });
    } catch {
      throw new Error("the server cannot be reached");
    }
    const answer = await response.json().catch(() => ({}));
    if (answer.results) return answer.results;
    throw new Error(answer.error ?? `the server answered ${response.status}`);
  };
  return {
    about: { where: "Photos are sent to this server, and nowhere else.", model: "" },
    async caption(file) {
      const [record] = await ask("v1/caption?n_best=5", file, { "Content-Type": "application/octet-stream" });
      if (record.error) throw new Error(record.error);
      return record;
    },
    async search(sentence, files) {
      const form = new FormData();
      form.append("sentence", sentence);
      for (const [place, file] of files.entries()) form.append("image", file, String(place));
      const matches = await ask("v1/search", form);
      return matches.filter((match) => !match.error).map((match) => match.index);
    },
  };
}

/** Captions by the model in this folder, in a worker, so that the page stays live. */
export async function browserCaptioner() {
  const model = await (await fetch("model.json")).json();
  const worker = new Worker("worker.js", { type: "module" });
  const waiting = new Map();
  let sent = 0;
  worker.addEventListener("message", ({ data: { id, record, error } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(new Error(error));
    else resolve(record);
  });
  worker.addEventListener("error", (event) => {
    const error = new Error(event.message || "the model does not load");
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  });
  return {
    about: {
      where: "Captions are made in this page. Photos never leave your device.",
      model: `Model: ${model.name} ${model.version}. Licence: ${model.licence}.`,
    },
    caption(file) {
      const id = sent++;
      return new Promise((resolve, reject) => {
        waiting.set(id, { resolve, reject });
        worker.postMessage({ id, file });
      });
    },
  };
}
