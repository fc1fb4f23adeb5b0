// What all parts of the page share: its state, and how it speaks.

export const $ = (id) => document.getElementById(id);

/** The form as it is now; `mask` is the edited one, { base64 }. */
export const page = { wells: [], settings: null, mask: null };

export const say = (text) => ($("live").textContent = text);

export function showError(sentence) {
  $("error").textContent = sentence;
  $("error").hidden = !sentence;
  if (sentence) $("error").scrollIntoView({ block: "nearest" });
}

/** Show one of the stage's three faces. */
export function face(id) {
  for (const name of ["empty", "progress", "result"]) $(name).hidden = name !== id;
}

export const format = (credits) => Number(credits).toLocaleString("en", { maximumSignificantDigits: 4 });
