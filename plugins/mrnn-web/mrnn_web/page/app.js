import { browserCaptioner, serverCaptioner } from "./captioner.js";
import { csv, formats, json, save } from "./output.js";

const byId = (id) => document.getElementById(id);
const photos = []; // { file, path, item, record or error }
let captioner;
let done = 0;
let queue = Promise.resolve();

start();

async function start() {
  const inBrowser = document.querySelector('meta[name="mrnn-captions-by"]').content === "browser";
  try {
    captioner = inBrowser ? await browserCaptioner() : serverCaptioner();
  } catch (error) {
    say(`The model does not load: ${error.message}`);
    return;
  }
  byId("where").textContent = captioner.about.where;
  byId("model").textContent = captioner.about.model;
  byId("licences").hidden = !inBrowser;
  byId("search").hidden = !captioner.search;
  if (inBrowser && "serviceWorker" in navigator) navigator.serviceWorker.register("sw.js");
  listen();
  document.body.dataset.ready = "yes";
}

function listen() {
  for (const [button, input] of [["pick", "files"], ["pick-folder", "folder"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", (event) => {
      add([...event.target.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
      event.target.value = "";
    });
  }
  const drop = byId("drop");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    add(await dropped(event.dataTransfer));
  });
  document.addEventListener("paste", (event) => {
    add([...event.clipboardData.files].map((file) => ({ file, path: file.name })));
  });
  byId("save-csv").addEventListener("click", () => save("captions.csv", "text/csv", csv(photos)));
  byId("save-json").addEventListener("click", () => save("captions.json", "application/json", json(photos)));
  byId("clear").addEventListener("click", clear);
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    search(byId("sentence").value.trim());
  });
}

/** The files of a drop, those of folders too. */
async function dropped(transfer) {
  const files = [...transfer.files].map((file) => ({ file, path: file.name }));
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return files; // the browser does not tell files from folders
  const walked = [];
  const walk = async (entry) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      walked.push({ file, path: entry.fullPath.replace(/^\//, "") });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return; // it gives a hundred at a time
      for (const inner of some) await walk(inner);
    }
  };
  for (const entry of entries) await walk(entry);
  return walked;
}

function add(files) {
  const images = files
    .filter(({ file }) => file.type.startsWith("image/"))
    .sort((a, b) => a.path.localeCompare(b.path));
  if (files.length && !images.length) {
    say("None of these files is a photo.");
    return;
  }
  for (const { file, path } of images) {
    const photo = { file, path, item: byId("photo").content.cloneNode(true).firstElementChild };
    photos.push(photo);
    const image = photo.item.querySelector("img");
    image.src = URL.createObjectURL(file);
    photo.item.classList.add("waiting");
    photo.item.querySelector("h2").textContent = "…";
    photo.item.querySelector(".path").textContent = path;
    byId("photos").append(photo.item);
    queue = queue.then(() => describe(photo));
  }
  byId("results").hidden = !photos.length;
  count();
}

async function describe(photo) {
  if (!photos.includes(photo)) return; // cleared meanwhile
  try {
    photo.record = { ...(await captioner.caption(photo.file)), path: photo.path };
  } catch (error) {
    photo.error = error.message;
  }
  if (!photos.includes(photo)) return;
  done += 1;
  show(photo);
  count();
}

function show({ item, path, record, error }) {
  const part = (selector) => item.querySelector(selector);
  item.classList.remove("waiting");
  if (error) {
    part("h2").textContent = "No caption";
    part(".error").textContent = error;
    part(".error").hidden = false;
    return;
  }
  part("h2").textContent = record.caption;
  part("img").alt = record.caption;
  if (typeof record.confidence === "number") {
    part(".path").append(`, confidence ${Math.round(100 * record.confidence)} %`);
  }
  part(".copy").hidden = false;
  for (const button of item.querySelectorAll("[data-copy]")) {
    button.setAttribute("aria-label", `${button.textContent}: ${path}`);
    button.addEventListener("click", () => copy(button, formats[button.dataset.copy](record)));
  }
  if (record.candidates?.length > 1) {
    part(".more").hidden = false;
    part(".more summary").textContent = `${record.candidates.length} candidates`;
    part(".candidates").append(...record.candidates.map(candidate));
  }
  if (record.neighbours?.length) {
    part(".neighbours").hidden = false;
    part(".neighbours ol").append(...record.neighbours.map(({ image }) => element("li", "", image)));
  }
}

function candidate({ caption, score }, place) {
  const line = element("li", "");
  const value = element("span", "value");
  value.append(element("span", "unseen", "score "), score.toFixed(2).replace("-", "−"));
  line.append(element("span", "place", place + 1), element("span", "words", caption), value);
  return line;
}

function element(tag, kind, text = "") {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  made.textContent = text;
  return made;
}

async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    say(`Copied: ${text}`);
  } catch {
    say(`The browser does not let this page copy. The text is: ${text}`);
  }
}

async function search(sentence) {
  const ready = photos.filter((photo) => photo.record);
  if (!sentence || !ready.length) {
    say(sentence ? "There is no photo yet." : "Write what to look for.");
    return;
  }
  say("Searching …");
  try {
    const order = await captioner.search(sentence, ready.map(({ file }) => file));
    byId("photos").prepend(...order.map((place) => ready[place].item));
    say(`Sorted by “${sentence}”, best first.`);
  } catch (error) {
    say(`Nothing found: ${error.message}.`);
  }
}

function clear() {
  for (const { item } of photos) URL.revokeObjectURL(item.querySelector("img").src);
  photos.length = 0;
  done = 0;
  byId("photos").replaceChildren();
  byId("results").hidden = true;
  say("");
  byId("pick").focus();
}

function count() {
  const failed = photos.filter((photo) => photo.error).length;
  const noun = photos.length === 1 ? "photo" : "photos";
  if (!done) say(`Looking at ${photos.length} ${noun} …`);
  else say(`${done} of ${photos.length} ${noun} done${failed ? `, ${failed} without a caption` : ""}.`);
}

function say(text) {
  byId("status").textContent = text;
}
