"use strict";
const box = document.getElementById("q");
const count = document.getElementById("count");
const photos = [...document.querySelectorAll("article")];
const texts = photos.map((photo) =>
  [...photo.querySelectorAll("h2, .path, .why, .words > span")].map((part) => part.textContent).join(" ").toLowerCase(),
);

function filter() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  photos.forEach((photo, i) => {
    photo.hidden = !words.every((word) => texts[i].includes(word));
    shown += photo.hidden ? 0 : 1;
  });
  const all = photos.length === 1 ? "1 photo" : `${photos.length} photos`;
  count.textContent = words.length ? `${shown} of ${all}` : all;
}

// What is looked for is part of the address: report.html#q=dog+grass
function read() {
  box.value = new URLSearchParams(location.hash.slice(1)).get("q") ?? "";
  filter();
}

box.form.addEventListener("submit", (event) => event.preventDefault());
box.addEventListener("input", () => {
  filter();
  const hash = box.value ? `#${new URLSearchParams({ q: box.value })}` : "#";
  history.replaceState(null, "", hash);
});
addEventListener("hashchange", read);
box.form.hidden = false;
read();
