// The finished pictures: before and after, samples side by side, the download.

import { $, format } from "/playground/page.js";
import { element } from "/playground/settings.js";

let urls = [];

const urlOf = (blob) => {
  const url = URL.createObjectURL(blob);
  urls.push(url);
  return url;
};

/** Show the pictures of a run from the history. */
export function show(run) {
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = [];
  const [before, after] = $("compare").querySelectorAll("img");
  before.onload = () => $("compare").style.setProperty("--ratio", before.naturalWidth / before.naturalHeight);
  before.src = urlOf(run.product);
  const pictures = run.pictures.map((blob, index) => ({ url: urlOf(blob), seed: run.seeds[index] }));
  const buttons = pictures.map((picture) => sampleButton(picture));
  const choose = (index) => {
    const { url, seed } = pictures[index];
    after.src = url;
    $("download").href = url;
    $("download").download = `backdrop-${seed}.${run.values.output_format === "jpeg" ? "jpg" : run.values.output_format}`;
    $("facts").textContent = [`Seed ${seed}`, `${format(run.credits)} credits`, `${run.seconds.toFixed(1)} s`]
      .join(" · ");
    buttons.forEach((button, place) => button.setAttribute("aria-pressed", String(place === index)));
  };
  buttons.forEach((button, index) => button.addEventListener("click", () => choose(index)));
  $("samples").replaceChildren(...buttons.map((button) => {
    const item = element("li");
    item.append(button);
    return item;
  }));
  $("samples").hidden = pictures.length < 2;
  choose(0);
  $("cut").value = 50;
  moveCut();
}

function sampleButton({ url, seed }) {
  const button = element("button", { type: "button" });
  button.append(element("img", { src: url, alt: "" }), `Seed ${seed}`);
  return button;
}

function moveCut() {
  const share = Number($("cut").value);
  $("compare").style.setProperty("--cut", `${share}%`);
  $("cut").setAttribute("aria-valuetext", `${share} % before, ${100 - share} % after`);
}

$("cut").addEventListener("input", moveCut);
