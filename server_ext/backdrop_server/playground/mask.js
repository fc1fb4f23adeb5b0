// The mask editor: the gateway's matte over the photo, painted on, and given back as mask_image.

import { call } from "/playground/api.js";
import { $ } from "/playground/page.js";

const TINT = [214, 58, 92]; // the red film of retouchers

/** `onUse` gets the mask as a PNG blob: white is repainted, black is kept. */
export class MaskEditor {
  constructor(onUse) {
    this.onUse = onUse;
    this.dialog = $("mask");
    this.veil = $("veil"); // opaque where the picture is repainted
    this.context = this.veil.getContext("2d", { willReadFrequently: true });
    this.strokes = [];
    this.forget();
    this.veil.addEventListener("pointerdown", (event) => this.#begin(event));
    this.veil.addEventListener("pointermove", (event) => this.#move(event));
    for (const type of ["pointerup", "pointercancel"]) this.veil.addEventListener(type, () => this.#end());
    this.veil.addEventListener("pointerleave", () => ($("cursor").hidden = true));
    this.veil.addEventListener("keydown", (event) => this.#key(event));
    this.veil.addEventListener("keyup", (event) => event.key === "Shift" && this.#end());
    this.veil.addEventListener("blur", () => (this.#end(), ($("cursor").hidden = true)));
    $("brush-size").addEventListener("input", () => this.#showCursor());
    $("mask-undo").addEventListener("click", () => (this.strokes.pop(), this.#redraw()));
    $("mask-reset").addEventListener("click", () => ((this.strokes = []), this.#redraw()));
    $("mask-close").addEventListener("click", () => this.dialog.close());
    $("mask-use").addEventListener("click", () => this.#use());
    this.dialog.addEventListener("close", () => (this.strokes = this.used.slice()));
  }

  /** Drop the mask: the photo is another one. */
  forget() {
    this.file = null;
    this.strokes = [];
    this.used = []; // the strokes of the mask that is in use
  }

  /** Open the editor for the picture of a well. Throws a Refusal where there is no matte. */
  async open(well) {
    const file = well.file;
    if (this.file !== file) {
      const body = { image: await well.text() };
      const answer = await call("/v2/bg-replace/matte", { method: "POST", body });
      const matte = await createImageBitmap(await answer.blob());
      if (well.file !== file) return; // another photo was picked meanwhile
      this.forget();
      this.#load(matte);
      this.file = file;
    }
    if (this.dialog.open) return;
    $("mask-photo").src = well.image.src;
    this.#redraw();
    this.dialog.showModal();
    this.veil.focus();
  }

  #load(matte) {
    const { width, height } = matte;
    Object.assign(this.veil, { width, height });
    this.context.drawImage(matte, 0, 0);
    const pixels = this.context.getImageData(0, 0, width, height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      const product = pixels.data[i];
      pixels.data.set(TINT, i);
      pixels.data[i + 3] = 255 - product;
    }
    this.base = pixels;
    this.spot = { x: width / 2, y: height / 2 };
  }

  #redraw() {
    this.context.putImageData(this.base, 0, 0);
    for (const stroke of this.strokes) this.#draw(stroke);
    $("mask-undo").disabled = $("mask-reset").disabled = !this.strokes.length;
  }

  #draw({ mode, size, points }, from = 0) {
    const context = this.context;
    context.globalCompositeOperation = mode === "keep" ? "destination-out" : "source-over";
    context.strokeStyle = `rgb(${TINT.join()})`;
    context.lineWidth = size;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...points[from]);
    for (const point of points.slice(from)) context.lineTo(...point);
    context.stroke();
    context.globalCompositeOperation = "source-over";
  }

  /** The brush's diameter in pixels of the photo. */
  get size() {
    return (Number($("brush-size").value) / 100) * Math.max(this.veil.width, this.veil.height);
  }

  #start() {
    const mode = this.dialog.querySelector("[name=brush]:checked").value;
    this.stroke = { mode, size: this.size, points: [[this.spot.x, this.spot.y]] };
    this.strokes.push(this.stroke);
    this.#draw(this.stroke);
    $("mask-undo").disabled = $("mask-reset").disabled = false;
  }

  #extend() {
    if (!this.stroke) return;
    this.stroke.points.push([this.spot.x, this.spot.y]);
    this.#draw(this.stroke, this.stroke.points.length - 2);
  }

  #end() {
    this.stroke = null;
  }

  #begin(event) {
    if (event.button !== 0) return;
    this.veil.setPointerCapture(event.pointerId);
    this.#aim(event);
    this.#start();
  }

  #move(event) {
    for (const part of event.getCoalescedEvents?.() ?? [event]) {
      this.#aim(part);
      this.#extend();
    }
    this.#aim(event);
    this.#extend();
  }

  #aim(event) {
    const box = this.veil.getBoundingClientRect();
    this.spot.x = ((event.clientX - box.left) / box.width) * this.veil.width;
    this.spot.y = ((event.clientY - box.top) / box.height) * this.veil.height;
    this.#showCursor();
  }

  #key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const slider = $("brush-size");
    if (event.key === "[") slider.stepDown();
    else if (event.key === "]") slider.stepUp();
    else if (moves[event.key]) {
      if (event.shiftKey && !this.stroke) this.#start();
      const [dx, dy] = moves[event.key];
      const step = this.size / 3;
      this.spot.x = Math.min(Math.max(this.spot.x + dx * step, 0), this.veil.width);
      this.spot.y = Math.min(Math.max(this.spot.y + dy * step, 0), this.veil.height);
      if (event.shiftKey) this.#extend();
    } else return;
    event.preventDefault();
    this.#showCursor();
  }

  #showCursor() {
    const scale = this.veil.clientWidth / this.veil.width;
    const cursor = $("cursor");
    cursor.hidden = false;
    cursor.style.left = `${this.spot.x * scale}px`;
    cursor.style.top = `${this.spot.y * scale}px`;
    cursor.style.width = cursor.style.height = `${this.size * scale}px`;
  }

  async #use() {
    this.used = this.strokes.slice();
    this.dialog.close();
    this.onUse(this.used.length ? await this.#mask() : null);
  }

  /** White where the veil is: what is repainted. */
  #mask() {
    const { width, height } = this.veil;
    const pixels = this.context.getImageData(0, 0, width, height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data.fill(pixels.data[i + 3], i, i + 3);
      pixels.data[i + 3] = 255;
    }
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return canvas.convertToBlob({ type: "image/png" });
  }
}
