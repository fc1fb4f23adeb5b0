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

/** Bring the stage into view where it is not: on a narrow screen it lies below the form. */
export function revealStage() {
  const { top, bottom } = $("stage").getBoundingClientRect();
  if (top > innerHeight / 2 || bottom < innerHeight / 4) $("stage").scrollIntoView();
}

/** Show one of the stage's three faces. */
export function face(id) {
  for (const name of ["empty", "progress", "result"]) $(name).hidden = name !== id;
}

export const format = (credits) => Number(credits).toLocaleString("en", { maximumSignificantDigits: 4 });
