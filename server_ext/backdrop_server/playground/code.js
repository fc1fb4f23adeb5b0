// The request of the page as code: shown, and copied.

import { $, page, say } from "/playground/page.js";
import { element } from "/playground/settings.js";
import { snippet } from "/playground/snippets.js";

async function pictureSources() {
  const sources = {};
  for (const well of page.wells) {
    sources[well.name] = well.file
      ? { base64: await well.text(), file: well.file.name }
      : { base64: `<${well.name} in base64>`, file: well.name === "image" ? "product.jpg" : "reference.jpg" };
  }
  if (page.mask) sources.mask_image = { base64: page.mask.base64 };
  return sources;
}

async function currentCode() {
  return snippet(document.querySelector("[name=language]:checked").value, {
    origin: location.origin,
    values: page.settings.values(),
    pictures: await pictureSources(),
    inline: $("inline").checked,
  });
}

export async function showCode() {
  $("code").textContent = (await currentCode()).shown;
}

export async function copyCode() {
  const { code } = await currentCode();
  await copyText(code);
  $("copy").textContent = "Copied";
  say(`The ${document.querySelector("[name=language]:checked").value} code is copied.`);
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
}

/** The clipboard's own interface is there on https and localhost only. */
async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element("textarea", { value: text, className: "visually-hidden" });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
