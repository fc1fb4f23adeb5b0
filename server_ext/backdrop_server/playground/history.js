// Runs of this browser in IndexedDB. An open run is in it too, so that a reload can follow it on.

const STORE = "runs";
const KEPT = 24;

let opened;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("backdrop", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function within(mode, action) {
  const transaction = (await database()).transaction(STORE, mode);
  const request = action(transaction.objectStore(STORE));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

/** All runs, the newest first; none where this browser keeps nothing. */
export async function all() {
  const runs = await within("readonly", (store) => store.getAll()).catch(() => []);
  return runs.sort((first, second) => second.at - first.at);
}

/** Keep a run; the oldest ones make room. False where this browser keeps nothing. */
export async function keep(run) {
  try {
    await within("readwrite", (store) => store.put(run));
    for (const old of (await all()).slice(KEPT)) await remove(old.id);
    return true;
  } catch {
    return false;
  }
}

export const remove = (id) => within("readwrite", (store) => store.delete(id)).catch(() => {});
export const clear = () => within("readwrite", (store) => store.clear()).catch(() => {});

/** A small JPEG of a picture. */
export async function thumbnail(blob, side = 240) {
  const bitmap = await createImageBitmap(blob);
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.ceil(bitmap.width * scale), Math.ceil(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.85 });
}
