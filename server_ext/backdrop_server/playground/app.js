// The page: what happens when.

import { Refusal, asSentence, call, follow, key, submit } from "/playground/api.js";
import * as history from "/playground/history.js";
import { MaskEditor } from "/playground/mask.js";
import { PictureWell, listenToPage, toBase64 } from "/playground/pictures.js";
import * as result from "/playground/result.js";
import { Settings, element } from "/playground/settings.js";
import { snippet } from "/playground/snippets.js";

const $ = (id) => document.getElementById(id);
const EXAMPLE_PROMPT = $("prompt").placeholder;
const CANCELLED = /cancelled/;
let mask = null; // { blob, base64 } of the edited mask
let running = null; // { id, isCancelled } of the job that is followed now
let wells, settings, editor;

// --- what is told -------------------------------------------------------------------------------

const say = (text) => ($("live").textContent = text);

function showError(sentence) {
  $("error").textContent = sentence;
  $("error").hidden = !sentence;
  if (sentence) $("error").scrollIntoView({ block: "nearest" });
}

/** Show one of the stage's three faces. */
function face(id) {
  for (const name of ["empty", "progress", "result"]) $(name).hidden = name !== id;
}

function report(error) {
  if (!(error instanceof Refusal)) throw error;
  showError(error.message);
  if (error.status === 401) openKey(true);
}

const format = (credits) => Number(credits).toLocaleString("en", { maximumSignificantDigits: 4 });

// --- the key ------------------------------------------------------------------------------------

function openKey(open) {
  $("key-card").hidden = !open;
  $("key-open").setAttribute("aria-expanded", String(open));
  $("key-forget").hidden = !key.get();
}

function setUpKey() {
  openKey(!key.get());
  $("key-open").addEventListener("click", () => {
    openKey($("key-card").hidden);
    if (!$("key-card").hidden) $("key").focus();
  });
  $("key-card").addEventListener("submit", (event) => {
    event.preventDefault();
    key.set($("key").value.trim());
    $("key").value = "";
    openKey(false);
    showError("");
    quote();
    $("key-open").focus();
  });
  $("key-forget").addEventListener("click", () => {
    key.forget();
    openKey(true);
    $("balance").hidden = true;
    quote();
    $("key").focus();
  });
}

// --- the price ----------------------------------------------------------------------------------

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

function changed() {
  clearTimeout(changed.timer);
  changed.timer = setTimeout(() => (quote(), showCode()), 350);
}

/** Ask what a run would cost; a late answer to an earlier question is dropped. */
async function quote() {
  const turn = ++quoting;
  const [product] = wells;
  const tell = (text, isShort = false) => {
    if (turn !== quoting) return;
    $("price").textContent = text;
    $("price").classList.toggle("short", isShort);
  };
  if (!key.get()) return tell("Enter an API key to see the price.");
  if (!product.file) return tell("Choose a product photo to see the price.");
  if (settings.controls.some(({ input }) => !input.checkValidity())) return tell("");
  try {
    const picture = await blankPicture(product);
    const body = { ...settings.values(), image: picture, ref_image: picture, dry_run: true };
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

// --- the code -----------------------------------------------------------------------------------

async function pictureSources() {
  const sources = {};
  for (const well of wells) {
    sources[well.name] = well.file
      ? { base64: await well.text(), file: well.file.name }
      : { base64: `<${well.name} in base64>`, file: well.name === "image" ? "product.jpg" : "reference.jpg" };
  }
  if (mask) sources.mask_image = { base64: mask.base64, file: "mask.png" };
  return sources;
}

async function currentCode() {
  return snippet(document.querySelector("[name=language]:checked").value, {
    origin: location.origin,
    values: settings.values(),
    pictures: await pictureSources(),
    inline: $("inline").checked,
  });
}

async function showCode() {
  $("code").textContent = (await currentCode()).shown;
}

async function copyCode() {
  const { code } = await currentCode();
  await copyText(code);
  $("copy").textContent = "Copied";
  say("The code is copied.");
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

// --- a run --------------------------------------------------------------------------------------

/** What is missing before a run, as a sentence, with the focus put there. */
function missing() {
  const [product, reference] = wells;
  if (!key.get()) {
    openKey(true);
    $("key").focus();
    return "An API key is needed. Enter it above the pictures.";
  }
  for (const [well, what] of [[product, "a photo of the product"], [reference, "a picture of the surroundings"]]) {
    if (!well.file) {
      well.input.focus();
      return `Choose ${what} first.`;
    }
  }
  if (!$("prompt").value.trim()) {
    $("prompt").focus();
    return "Say in the prompt what the surroundings are.";
  }
  return settings.problem();
}

async function run() {
  if (running) return;
  const problem = missing();
  showError(problem ?? "");
  if (problem) return;
  const [product, reference] = wells;
  const values = settings.values();
  running = { id: null, isCancelled: false };
  $("run").disabled = true;
  showProgress({ status: "SENDING" });
  $("stage").scrollIntoView({ block: "nearest" });
  try {
    const body = { ...values, image: await product.text(), ref_image: await reference.text(), base64: true };
    if (mask) body.mask_image = mask.base64;
    running.id = await submit(body);
    const record = { id: running.id, at: Date.now(), values, product: product.file, isOpen: true };
    await history.keep(record);
    await finish(record);
  } catch (error) {
    failed(error);
  }
}

function failed(error) {
  running = null;
  $("run").disabled = false;
  face(shownRun ? "result" : "empty");
  quote();
  report(error);
}

/** Follow a job to its end, and show what came out. */
async function finish(record) {
  if (running.isCancelled) await cancel();
  const last = await follow(record.id, {
    onStatus: (status) => showProgress(status),
    onLost: () => {
      $("progress-text").textContent = "Connection lost. The run goes on; trying to reach the server again…";
      say("Connection lost. Trying to reach the server again.");
    },
  });
  if (last.status === "FAILED") {
    await history.remove(record.id);
    return failed(new Refusal(CANCELLED.test(last.error)
      ? "The run was cancelled. Only the steps that were done are charged."
      : `The run failed: ${asSentence(last.error)} Nothing is charged.`));
  }
  const content = await (await call(`/v2/requests/${record.id}`)).json();
  const type = `image/${record.values.output_format}`;
  record.pictures = await Promise.all(content.output.map((text) => toBlob(text, type)));
  record.seeds = content.seeds;
  record.credits = content.credits_consumed;
  record.seconds = content.metrics.inference_time;
  record.thumbnail = await history.thumbnail(record.pictures[0]);
  record.isOpen = false;
  running = null;
  $("run").disabled = false;
  showRun(record);
  say(record.pictures.length > 1 ? `Done: ${record.pictures.length} pictures.` : "Done: the picture is there.");
  if (!(await history.keep(record))) $("history-empty").textContent = "This browser keeps no history.";
  showHistory();
  quote();
}

function toBlob(text, type) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type });
}

let shownRun = null;

function showRun(record) {
  shownRun = record.id;
  face("result");
  result.show(record);
}

const WORDS = { SENDING: "Sending the pictures", QUEUED: "Waiting for a place", PROCESSING: "Preparing" };
let quarter = -1;

function showProgress({ status, progress }) {
  face("progress");
  const step = progress?.step ?? 0;
  const text = status === "PROCESSING" && step ? `Painting: step ${step} of ${progress.total}` : WORDS[status];
  if (text) $("progress-text").textContent = text;
  if (progress) $("bar").value = progress.fraction;
  else $("bar").value = 0;
  if (progress?.preview) $("preview").src = progress.preview;
  $("preview").hidden = !(progress?.preview || (step && $("preview").src));
  const now = step ? Math.floor(progress.fraction * 4) : -1;
  if (now !== quarter || !step) say(step ? `Painting: ${now * 25} percent` : (text ?? ""));
  quarter = now;
}

async function cancel() {
  if (!running) return;
  running.isCancelled = true;
  $("progress-text").textContent = "Cancelling…";
  if (!running.id) return; // it is still being sent; finish() sees to it
  try {
    await call(`/v2/requests/${running.id}`, { method: "DELETE" });
  } catch (error) {
    report(error);
  }
}

// --- history ------------------------------------------------------------------------------------

async function showHistory() {
  const runs = (await history.all()).filter((record) => !record.isOpen);
  $("history").querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
  $("history").replaceChildren(...runs.map(historyItem));
  $("history-empty").hidden = runs.length > 0;
  $("history-clear").hidden = !runs.length;
}

function historyItem(record) {
  const open = element("button", { type: "button", className: "open" });
  open.append(
    element("img", { src: URL.createObjectURL(record.thumbnail), alt: "" }),
    element("span", { textContent: record.values.prompt, title: record.values.prompt }),
  );
  open.addEventListener("click", () => {
    if (running) return;
    settings.fill({ ...record.values, seed: record.seeds[0] });
    showError("");
    showRun(record);
    $("stage").scrollIntoView({ block: "nearest" });
    changed();
  });
  const remove = element("button", { type: "button", className: "remove", textContent: "×" });
  remove.setAttribute("aria-label", `Remove “${record.values.prompt}” from the history`);
  remove.addEventListener("click", async () => {
    await history.remove(record.id);
    await showHistory();
    ($("history").querySelector("button") ?? $("stage")).focus();
  });
  const item = element("li");
  item.append(open, remove);
  return item;
}

/** A run that was going on when the page was closed. */
async function resume() {
  const [open] = (await history.all()).filter((record) => record.isOpen);
  if (!open || !key.get()) return;
  running = { id: open.id, isCancelled: false };
  $("run").disabled = true;
  showProgress({ status: "QUEUED" });
  try {
    await finish(open);
  } catch (error) {
    await history.remove(open.id);
    failed(error);
  }
}

// --- the mask -----------------------------------------------------------------------------------

async function openMask() {
  showError(key.get() ? "" : "An API key is needed to find the product in the photo.");
  if (!key.get()) return openKey(true);
  $("mask-open").disabled = true;
  $("mask-state").textContent = "Looking for the product…";
  try {
    await editor.open(wells[0]);
  } catch (error) {
    report(error);
  } finally {
    $("mask-open").disabled = false;
    showMaskState();
  }
}

const showMaskState = () => ($("mask-state").textContent = mask ? "Your own mask is used" : "");

async function useMask(blob) {
  mask = blob && { blob, base64: await toBase64(blob) };
  showMaskState();
  changed();
}

// --- start --------------------------------------------------------------------------------------

function pictureChanged(name) {
  showError("");
  if (name === "image") {
    mask = null;
    editor.forget();
    showMaskState();
    $("mask-open").disabled = false;
  }
  changed();
}

async function fillExample(form) {
  await Promise.all(wells.map((well) => well.takeExample(Object.keys(form.examples[well.name])[0])));
  if (!$("prompt").value) $("prompt").value = EXAMPLE_PROMPT;
  changed();
}

async function start() {
  const form = await (await call("/playground/form.json")).json();
  const told = { onChange: pictureChanged, onError: showError };
  wells = ["image", "ref_image"].map((name) => new PictureWell(name, form, told));
  settings = new Settings(form, changed);
  editor = new MaskEditor(useMask);
  listenToPage(wells);
  setUpKey();
  $("settings").addEventListener("submit", (event) => (event.preventDefault(), run()));
  $("settings").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  });
  $("cancel").addEventListener("click", cancel);
  $("mask-open").addEventListener("click", openMask);
  $("try").addEventListener("click", () => fillExample(form));
  $("copy").addEventListener("click", copyCode);
  document.querySelector(".code").addEventListener("change", showCode);
  $("history-clear").addEventListener("click", async () => {
    await history.clear();
    await showHistory();
    $("stage").focus();
  });
  quote();
  showCode();
  await showHistory();
  await resume();
}

start().catch((error) => {
  if (!(error instanceof Refusal)) throw error;
  showError(error.message);
});
