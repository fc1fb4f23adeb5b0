// The history as it is shown.

import * as history from "/playground/history.js";
import { $, page, revealStage, showError } from "/playground/page.js";
import { isRunning, showRun } from "/playground/run.js";
import { element } from "/playground/settings.js";

let onFill = () => {};

/** `action` is called when an earlier run has filled the form. */
export function setUpHistory(action) {
  onFill = action;
  $("history-clear").addEventListener("click", async () => {
    await history.clear();
    await showHistory();
    $("stage").focus();
  });
}

export async function showHistory() {
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
    if (isRunning()) return;
    page.settings.fill({ ...record.values, seed: record.seeds[0] });
    showError("");
    showRun(record);
    revealStage();
    onFill();
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
