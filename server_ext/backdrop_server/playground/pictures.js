// The two wells for pictures: pick, drop, paste, examples; and the checks before anything is sent.

import { Refusal } from "/playground/api.js";

const MEGABYTE = 1024 * 1024;

/** A picked picture; `file` is null where there is none. */
export class PictureWell {
  constructor(name, form, { onChange, onError }) {
    this.name = name;
    this.limits = form.limits;
    this.onChange = onChange;
    this.onError = onError;
    this.file = null;
    this.root = document.getElementById(`drop-${name}`);
    this.input = document.getElementById(`file-${name}`);
    this.image = this.root.querySelector(".shown");
    this.input.accept = this.limits.picture_formats.map((format) => `image/${format.toLowerCase()}`).join(",");
    this.input.addEventListener("change", () => {
      if (this.input.files[0]) this.take(this.input.files[0]);
      this.input.value = ""; // so that the same file can be picked again
    });
    this.#listenToDrops();
    for (const [file, text] of Object.entries(form.examples[name])) this.#addExample(file, text);
  }

  /** Check a file and show it; a sentence through `onError` where it is refused. */
  async take(file) {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const problem = await this.#check(file);
    if (turn !== this.turn) return; // another one was picked meanwhile
    if (problem.sentence) return this.onError(problem.sentence);
    this.file = file;
    ({ width: this.width, height: this.height } = problem);
    this.base64 = null;
    URL.revokeObjectURL(this.image.src);
    this.image.src = URL.createObjectURL(file);
    this.image.alt = file.name;
    this.image.hidden = false;
    this.root.classList.add("filled");
    const line = this.root.querySelector(".file");
    line.textContent = `${file.name} · ${this.width} × ${this.height}`;
    line.hidden = false;
    this.onChange(this.name);
  }

  async takeExample(name) {
    const answer = await fetch(`/playground/examples/${name}`).catch(() => null);
    if (!answer?.ok) return this.onError("The example could not be loaded: the server does not answer.");
    const blob = await answer.blob();
    await this.take(new File([blob], name, { type: blob.type }));
  }

  /** The file as base64. */
  async text() {
    this.base64 ??= await toBase64(this.file).catch(() => {
      throw new Refusal(`“${this.file.name}” can no longer be read. Choose it again.`);
    });
    return this.base64;
  }

  async #check(file) {
    const { picture_bytes: bytes, picture_side: side, picture_formats: formats } = this.limits;
    const allowed = `${formats.slice(0, -1).join(", ")} or ${formats.at(-1)}`;
    if (!formats.includes(await formatOf(file)))
      return { sentence: `“${file.name}” is not a picture that can be used. Choose a ${allowed} file.` };
    if (file.size > bytes)
      return { sentence: `“${file.name}” has ${(file.size / MEGABYTE).toFixed(1)} MB. At most ${bytes / MEGABYTE} MB are allowed.` };
    const bitmap = await createImageBitmap(file).catch(() => null);
    if (!bitmap) return { sentence: `“${file.name}” is damaged: it cannot be opened. Choose another file.` };
    const { width, height } = bitmap;
    bitmap.close();
    if (Math.max(width, height) > side)
      return { sentence: `“${file.name}” is ${width} × ${height} pixels. At most ${side} × ${side} are allowed: make it smaller first.` };
    return { width, height };
  }

  #listenToDrops() {
    let depth = 0; // dragenter and dragleave also come from the parts inside
    const over = (change) => {
      depth = Math.max(0, depth + change);
      this.root.classList.toggle("over", depth > 0);
    };
    this.root.addEventListener("dragenter", () => over(1));
    this.root.addEventListener("dragleave", () => over(-1));
    this.root.addEventListener("drop", (event) => {
      over(-depth);
      const file = event.dataTransfer.files[0];
      if (file) this.take(file);
      else this.onError("What was dropped is no file. Drop a picture file from this device.");
    });
  }

  #addExample(name, text) {
    const button = document.createElement("button");
    button.type = "button";
    const image = Object.assign(new Image(), { src: `/playground/examples/${name}`, alt: `Use the example: ${text}` });
    button.append(image);
    button.addEventListener("click", () => this.takeExample(name));
    this.root.querySelector(".examples").append(button);
  }
}

/** Dropping beside a well must not open the file in place of the page; pasting fills the wells. */
export function listenToPage(wells) {
  for (const type of ["dragover", "drop"]) document.addEventListener(type, (event) => event.preventDefault());
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    const focused = wells.find((well) => well.root.contains(document.activeElement));
    const free = wells.filter((well) => !well.file);
    const order = [...new Set([focused, ...free, ...wells])].filter(Boolean);
    files.slice(0, order.length).forEach((file, index) => order[index].take(file));
  });
}

const SIGNATURES = { PNG: /^89504e47/, JPEG: /^ffd8ff/, GIF: /^47494638/, WEBP: /^52494646.{8}57454250/ };

/** The format by its first bytes, as the gateway does it: names and types of files may lie. */
async function formatOf(file) {
  const head = new Uint8Array(await file.slice(0, 12).arrayBuffer());
  const hex = [...head].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return Object.keys(SIGNATURES).find((format) => SIGNATURES[format].test(hex));
}

/** A blob as base64. */
export function toBase64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
