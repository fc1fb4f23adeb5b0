// The API key: it stays in this browser.

import { Refusal, key } from "/playground/api.js";
import { $, showError } from "/playground/page.js";

export function openKey(open) {
  $("key-card").hidden = !open;
  $("key-open").setAttribute("aria-expanded", String(open));
  $("key-forget").hidden = !key.get();
}

/** `onChange` is called when there is another key, or none any more. */
export function setUpKey(onChange) {
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
    onChange();
    $("key-open").focus();
  });
  $("key-forget").addEventListener("click", () => {
    key.forget();
    openKey(true);
    $("balance").hidden = true;
    onChange();
    $("key").focus();
  });
}

/** Say what was refused; for a wrong key, with the field for a new one. */
export function report(error) {
  if (!(error instanceof Refusal)) throw error;
  showError(error.message);
  if (error.status === 401) openKey(true);
}
