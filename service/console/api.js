// Requests to this service: the key of the tab, deadlines, and what kind of failure a failure is.

const PATIENCE_MS = 10000;
const KEY = "key";

// `kind`: "key" (needed, or not known), "gone" (no answer), "broken" (the service failed), "refused" (this request).
export class Failure extends Error {
  constructor(kind, message, status) {
    super(message);
    this.kind = kind;
    this.status = status;
  }
}

// Kept for this tab alone, until it is closed.
export const useKey = key => sessionStorage.setItem(KEY, key);

export async function ask(path, { query = {}, ...options } = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  const given = new URLSearchParams(query).toString();
  let response, body;
  try {
    response = await fetch(given ? `${path}?${given}` : path,
      { ...options, headers, signal: AbortSignal.timeout(PATIENCE_MS) });
    body = await response.json().catch(() => null);
  } catch {
    throw new Failure("gone", "The service does not answer.");
  }
  if (response.ok && body !== null) return body;
  const { status } = response;
  const message = body?.error?.message ?? `the service answered ${status} without a reason`;
  if (status === 401 || status === 403) {
    throw new Failure("key", key ? `The service refuses this key: ${message}.` : "The service needs an API key.", status);
  }
  if (status >= 500 || response.ok) throw new Failure("broken", `The service fails (${status}): ${message}.`, status);
  throw new Failure("refused", `The service refuses this: ${message}.`, status);
}

export const post = (path, body, headers = {}) => ask(path, {
  method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) });
