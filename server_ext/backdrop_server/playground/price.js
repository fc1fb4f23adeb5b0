// What a run would cost, and what is left, before it starts.

import { Refusal, call, key } from "/playground/api.js";
import { $, format, page } from "/playground/page.js";
import { toBase64 } from "/playground/pictures.js";

let quoting = 0;
let blank = {}; // a blank picture of the photo's size: the price depends on no pixel

async function blankPicture({ width, height }) {
  const size = `${width}x${height}`;
  if (blank.size !== size) {
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d");
    blank = { size, text: await toBase64(await canvas.convertToBlob()) };
  }
  return blank.text;
}

/** Ask what a run would cost; a late answer to an earlier question is dropped. */
export async function quote() {
  const turn = ++quoting;
  const [product] = page.wells;
  const tell = (text, isShort = false) => {
    if (turn !== quoting) return;
    $("price").textContent = text;
    $("price").classList.toggle("short", isShort);
  };
  if (!key.get()) return tell("Enter an API key to see the price.");
  if (!product.file) return tell("Choose a product photo to see the price.");
  if (page.settings.controls.some(({ input }) => !input.checkValidity())) return tell("");
  try {
    const picture = await blankPicture(product);
    const body = { ...page.settings.values(), image: picture, ref_image: picture, dry_run: true };
    const answer = await call("/v2/bg-replace", { method: "POST", body });
    const left = answer.headers.get("x-remaining-credits");
    const { estimate } = await answer.json();
    if (turn !== quoting) return;
    $("balance").textContent = `${format(left)} credits left`;
    $("balance").hidden = false;
    const isShort = Number(estimate.reserved_credits) > Number(left);
    const price = `About ${format(estimate.credits)} credits`;
    tell(isShort ? `Not enough credits: this run reserves ${format(estimate.reserved_credits)}, ${format(left)} are left.`
      : `${price} · ${format(left)} left`, isShort);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    tell(error.lost ? "The price is not known: the server does not answer." : error.message, error.status === 401);
  }
}
