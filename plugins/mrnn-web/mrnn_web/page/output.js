/** How captions leave the page: as alt text, CSV or JSON. */

const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const url = (path) =>
  path.split("/").map(encodeURIComponent).join("/").replace(/[()]/g, (sign) => (sign === "(" ? "%28" : "%29"));
const html = (text) => text.replace(/[&<>"]/g, (sign) => escapes[sign]);

export const formats = {
  text: ({ caption }) => caption,
  html: ({ caption, path }) => `<img src="${html(url(path))}" alt="${html(caption)}">`,
  markdown: ({ caption, path }) => {
    const words = caption.replace(/[\\[\]]/g, "\\$&");
    return `![${words}](${url(path)})`;
  },
};

const columns = ["path", "caption", "log_prob", "finished", "confidence", "error"];

/** The columns of `mrnn caption --format csv`. */
export function csv(photos) {
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const rows = photos
    .filter((photo) => photo.record || photo.error)
    .map(({ path, record = {}, error }) => ({ ...record, path, error }))
    .map((row) => columns.map((name) => quoted(String(row[name] ?? ""))).join(","));
  return `${[columns.join(","), ...rows].join("\n")}\n`;
}

/** A list of what lines of `mrnn caption --format jsonl` hold. */
export function json(photos) {
  const records = photos
    .filter((photo) => photo.record || photo.error)
    .map(({ path, record, error }) => record ?? { path, error });
  return `${JSON.stringify(records, null, 1)}\n`;
}

export function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
