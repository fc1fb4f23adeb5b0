// A run from the button to the picture.

import { report, openKey } from "/playground/account.js";
import { Refusal, asSentence, call, follow, key, resultOf, submit } from "/playground/api.js";
import * as history from "/playground/history.js";
import { $, face, page, revealStage, say, showError } from "/playground/page.js";
import { quote } from "/playground/price.js";
import * as result from "/playground/result.js";

const CANCELLED = /cancelled/;
let running = null; // the job that is followed now: { id, isCancelled, isCancelSent, isGivenUp }
let onEnd = () => {};

/** The button keeps its focus, which it would lose if it were disabled. */
const setRunning = (is) => $("run").setAttribute("aria-disabled", String(is));

export const isRunning = () => running !== null;

/** `action` is called when a run has come into the history. */
export const whenEnded = (action) => (onEnd = action);

/** What is missing before a run, as a sentence, with the focus put there. */
function missing() {
  const [product, reference] = page.wells;
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
  return page.settings.problem();
}

export async function run() {
  if (running) return;
  const problem = missing();
  showError(problem ?? "");
  if (problem) return;
  const [product, reference] = page.wells;
  const record = { at: Date.now(), values: page.settings.values(), product: product.file, isOpen: true };
  running = { id: null, isCancelled: false };
  setRunning(true);
  showProgress({ status: "SENDING" });
  revealStage();
  try {
    const body = { ...record.values, image: await product.text(), ref_image: await reference.text(), base64: true };
    if (page.mask) body.mask_image = page.mask.base64;
    running.id = record.id = await submit(body);
    await history.keep(record);
    await finish(record);
  } catch (error) {
    failed(error);
  }
}

function failed(error) {
  running = null;
  setRunning(false);
  face(shownRun ? "result" : "empty");
  quote();
  report(error);
}

/** Follow a job; one that was given up is not followed on after a reload. */
async function followOrForget(id, listeners) {
  try {
    return await follow(id, listeners);
  } catch (error) {
    if (running.isGivenUp || error.status === 404) await history.remove(id);
    throw error;
  }
}

/** Follow a job to its end, and show what came out. */
async function finish(record) {
  const last = await followOrForget(record.id, {
    onStatus: (status) => {
      if (running.isCancelled && !running.isCancelSent) cancel(); // the server was away
      showProgress(status);
    },
    onLost: () => {
      $("progress-text").textContent = "Connection lost. The run goes on; trying to reach the server again…";
      say("Connection lost. Trying to reach the server again.");
    },
    isGivenUp: () => running.isGivenUp,
  });
  if (last.status === "FAILED") {
    await history.remove(record.id);
    return failed(new Refusal(CANCELLED.test(last.error)
      ? "The run was cancelled. Only the steps that were done are charged."
      : `The run failed: ${asSentence(last.error)} Nothing is charged.`));
  }
  const content = await resultOf(record.id);
  const type = `image/${record.values.output_format}`;
  record.pictures = await Promise.all(content.output.map((text) => toBlob(text, type)));
  record.seeds = content.seeds;
  record.credits = content.credits_consumed;
  record.seconds = content.metrics.inference_time;
  record.thumbnail = await history.thumbnail(record.pictures[0]);
  record.isOpen = false;
  running = null;
  setRunning(false);
  showRun(record);
  say(record.pictures.length > 1 ? `Done: ${record.pictures.length} pictures.` : "Done: the picture is there.");
  if (!(await history.keep(record))) $("history-empty").textContent = "This browser keeps no history.";
  onEnd();
  quote();
}

function toBlob(text, type) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type });
}

let shownRun = null;

export function showRun(record) {
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
  if (text && !running.isCancelled) $("progress-text").textContent = text;
  if (progress) $("bar").value = progress.fraction;
  else $("bar").value = 0;
  if (progress?.preview) $("preview").src = progress.preview;
  $("preview").hidden = !(progress?.preview || (step && $("preview").src));
  const now = step ? Math.floor(progress.fraction * 4) : -1;
  if (now !== quarter || !step) say(step ? `Painting: ${now * 25} percent` : (text ?? ""));
  quarter = now;
}

export async function cancel() {
  if (!running) return;
  running.isCancelled = true;
  $("progress-text").textContent = "Cancelling…";
  if (!running.id) return; // it is still being sent; finish() sees to it
  running.isCancelSent = true;
  try {
    await call(`/v2/requests/${running.id}`, { method: "DELETE" });
  } catch (error) {
    if (!running) return; // it has ended meanwhile
    running.isCancelSent = false;
    running.isGivenUp = error.lost;
    if (!error.lost) report(error);
  }
}

/** A run that was going on when the page was closed. */
export async function resume() {
  const [open] = (await history.all()).filter((record) => record.isOpen);
  if (!open || !key.get()) return;
  running = { id: open.id, isCancelled: false };
  setRunning(true);
  showProgress({ status: "QUEUED" });
  try {
    await finish(open);
  } catch (error) {
    failed(error);
  }
}
