// The page: what happens when.

import { openKey, report, setUpKey } from "/playground/account.js";
import { Refusal, call, key } from "/playground/api.js";
import { copyCode, showCode } from "/playground/code.js";
import { setUpHistory, showHistory } from "/playground/gallery.js";
import { MaskEditor } from "/playground/mask.js";
import { $, page, showError } from "/playground/page.js";
import { PictureWell, listenToPage, toBase64 } from "/playground/pictures.js";
import { quote } from "/playground/price.js";
import { cancel, resume, run, whenEnded } from "/playground/run.js";
import { Settings } from "/playground/settings.js";

const DEBOUNCE = 350; // ms
const editor = new MaskEditor(useMask);
let timer;

/** The form was changed: another price, other code. */
function changed() {
  clearTimeout(timer);
  timer = setTimeout(() => (quote(), showCode()), DEBOUNCE);
}

async function openMask() {
  showError(key.get() ? "" : "An API key is needed to find the product in the photo.");
  if (!key.get()) return openKey(true);
  $("mask-state").textContent = "Looking for the product…";
  try {
    await editor.open(page.wells[0]);
  } catch (error) {
    report(error);
  } finally {
    showMaskState();
  }
}

const showMaskState = () => ($("mask-state").textContent = page.mask ? "Your own mask is used" : "");

async function useMask(blob) {
  page.mask = blob && { base64: await toBase64(blob) };
  showMaskState();
  changed();
}

function pictureChanged(name) {
  showError("");
  if (name === "image") {
    page.mask = null;
    editor.forget();
    showMaskState();
    $("mask-open").disabled = false;
  }
  changed();
}

async function fillExample(form) {
  await Promise.all(page.wells.map((well) => well.takeExample(Object.keys(form.examples[well.name])[0])));
  if (!$("prompt").value) $("prompt").value = $("prompt").placeholder;
  changed();
}

async function start() {
  const form = await (await call("/playground/form.json")).json();
  const told = { onChange: pictureChanged, onError: showError };
  page.wells = ["image", "ref_image"].map((name) => new PictureWell(name, form, told));
  page.settings = new Settings(form, changed);
  listenToPage(page.wells);
  setUpKey(quote);
  $("settings").addEventListener("submit", (event) => (event.preventDefault(), run()));
  $("settings").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  });
  $("cancel").addEventListener("click", cancel);
  $("mask-open").addEventListener("click", openMask);
  $("try").addEventListener("click", () => fillExample(form));
  $("copy").addEventListener("click", copyCode);
  document.querySelector(".code").addEventListener("change", showCode);
  setUpHistory(changed);
  whenEnded(showHistory);
  quote();
  showCode();
  await showHistory();
  await resume();
}

start().catch((error) => {
  if (!(error instanceof Refusal)) throw error;
  showError(error.message);
});
