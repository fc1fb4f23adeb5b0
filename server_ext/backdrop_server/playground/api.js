// Calls of the gateway, and its refusals as sentences for people.

const KEY = "backdrop.key";

let held = ""; // the key where the browser keeps nothing

export const key = {
  get: () => stored((storage) => storage.getItem(KEY)) ?? held,
  set(text) {
    held = text;
    stored((storage) => storage.setItem(KEY, text));
  },
  forget() {
    held = "";
    stored((storage) => storage.removeItem(KEY));
  },
};

function stored(action) {
  try {
    return action(localStorage);
  } catch {
    return null; // a browser may refuse to keep anything
  }
}

/** What a person can be told; `lost` when no answer came at all, `status` the answer's otherwise. */
export class Refusal extends Error {
  constructor(message, { status = 0, lost = false } = {}) {
    super(message);
    this.status = status;
    this.lost = lost;
  }
}

/** Fetch from the gateway with the key. Throws a Refusal for anything but success. */
export async function call(path, { method = "GET", body, signal, headers = {} } = {}) {
  const own = { "x-api-key": key.get(), ...headers };
  if (body !== undefined) own["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, body: body && JSON.stringify(body), signal, headers: own });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const sentence = "The server does not answer. Check that it is running and that you are online, then try again.";
    throw new Refusal(sentence, { lost: true });
  }
  if (!answer.ok) throw new Refusal(await sentenceOf(answer), { status: answer.status });
  return answer;
}

async function sentenceOf(answer) {
  const said = await answer.json().then((content) => content.error, () => "");
  const seconds = answer.headers.get("retry-after");
  const later = seconds ? ` Try again in ${seconds} s.` : " Try again later.";
  switch (answer.status) {
    case 401: return key.get()
      ? "This API key does not work here. Check it for typing errors, or ask whoever runs this server for a new one."
      : "An API key is needed. Enter it under “API key”.";
    case 406: return `There are not enough credits for this run (${said.replace(/^.*?: /, "")}). Ask whoever runs this server for more.`;
    case 413: return "The pictures are too large together for this server. Use smaller files.";
    case 429: return "Too many requests with this key." + later;
    case 502: case 503: case 504: return "The server is busy or just starting." + later;
    default: return asSentence(said || `The server answered with status ${answer.status}`);
  }
}

export const asSentence = (text) => {
  const plain = text.trim().replace(/\.$/, "");
  return `${plain.charAt(0).toUpperCase()}${plain.slice(1)}.`;
};

/** Random hex for an idempotency key; crypto.randomUUID is there on https only. */
const newId = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The JSON of a call; it is made again where no answer came. */
async function patientJson(path, options, tries = 3) {
  for (let left = tries - 1; ; left--) {
    try {
      return await (await call(path, options)).json();
    } catch (error) {
      if (!error.lost || left === 0) throw error;
      await pause(700);
    }
  }
}

/** Submit a job; its id. The idempotency key makes it safe to send it again. */
export async function submit(body) {
  const headers = { "idempotency-key": newId() };
  return (await patientJson("/v2/bg-replace", { method: "POST", body, headers })).request_id;
}

/** The result of a job that has ended well. */
export const resultOf = (id) => patientJson(`/v2/requests/${id}`);

const SILENCE = 40_000; // ms; the gateway says something at least every 15 s
const LONGEST_PAUSE = 5_000;

/** Follow a job to its end through lost connections, until `isGivenUp` while one is lost; the last status. */
export async function follow(id, { onStatus, onLost, isGivenUp }) {
  for (let wait = 500; ; wait = Math.min(wait * 2, LONGEST_PAUSE)) {
    try {
      for await (const status of events(id)) {
        wait = 500;
        onStatus(status);
        if (status.status === "COMPLETED" || status.status === "FAILED") return status;
      }
    } catch (error) {
      if (!error.lost && error.status !== 429 && error.status < 500) throw error;
      onLost();
    }
    await pause(wait);
    if (isGivenUp()) throw new Refusal("The server does not answer, so it could not be told to cancel the run. It may still be charged.");
  }
}

/** Server-sent events by fetch, since EventSource cannot send a key. */
async function* events(id) {
  const stop = new AbortController();
  let timer = setTimeout(() => stop.abort(), SILENCE);
  try {
    const answer = await call(`/v2/requests/${id}/events`, { signal: stop.signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => stop.abort(), SILENCE);
      const blocks = (text + value).split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const data = /^data: (.*)$/m.exec(block);
        if (data) yield JSON.parse(data[1]);
      }
    }
  } catch (error) {
    throw error instanceof Refusal ? error : new Refusal("The connection was lost.", { lost: true });
  } finally {
    clearTimeout(timer);
    stop.abort();
  }
}
