// SPDX-License-Identifier: Apache-2.0
// Client of the agent's API: responses in lines of JSON, and events as they are accepted.

const KEY = 'bianque.token';
const SILENCE = 45_000;

/** The agent refused, or is not there. */
export class Refused extends Error {
  constructor(status, message, expected) {
    super(message);
    this.status = status;
    this.expected = expected;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

async function request(path, parameters, headers, signal) {
  const query = new URLSearchParams(Object.entries(parameters ?? {}).filter(([, v]) => v)).toString();
  const bearer = token.get();
  let response;
  try {
    response = await fetch(query ? `${path}?${query}` : path, {
      headers: { ...headers, ...(bearer ? { authorization: `Bearer ${bearer}` } : {}) }, signal, cache: 'no-store', credentials: 'same-origin',
    });
  } catch (e) {
    if (e.name === 'AbortError') throw e;
    throw new Refused(0, 'The agent does not answer');
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Refused(response.status, said.error ?? `The agent says ${response.status}`, said.expected);
}

/** Every line of an answer. */
export async function lines(path, parameters, signal) {
  const text = await (await request(path, parameters, null, signal)).text();
  return text.split('\n').filter(Boolean).map((line) => JSON.parse(line));
}

/** An answer of one object. */
export const one = async (path, parameters, signal) => (await lines(path, parameters, signal))[0];

/**
 * Follows events until `signal` is aborted, over broken connections, without loss or repetition.
 * `on.event(json)`, `on.missed(what)`, `on.state('live' | 'waiting', why)`; a refusal ends it and is thrown.
 * Not EventSource, which cannot send a token.
 */
export async function follow(parameters, on, signal) {
  let last = null;
  let pause = 500;
  while (!signal.aborted) {
    try {
      const response = await request('/v1/events/watch', parameters, last ? { 'last-event-id': last } : {}, signal);
      on.state('live');
      pause = 500;
      await read(response.body, (m) => {
        if (m.event === 'missed') on.missed(JSON.parse(m.data));
        else if (m.data) on.event(JSON.parse(m.data));
        if (m.id) last = m.id;
      });
    } catch (e) {
      if (signal.aborted) return;
      if (e instanceof Refused && e.status >= 400 && e.status < 500 && e.status !== 429) throw e;
      on.state('waiting', e.message);
    }
    await new Promise((done) => { setTimeout(done, pause); signal.addEventListener('abort', done, { once: true }); });
    pause = Math.min(pause * 2, 10_000);
  }
}

// The WHATWG HTML standard, "Parsing an event stream"; our server ends lines with \n alone.
async function read(body, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let message = {};
  for (;;) {
    let timer;
    const silent = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error('nothing came for 45 s')), SILENCE); });
    const { value, done } = await Promise.race([reader.read(), silent]).catch((e) => { reader.cancel().catch(() => {}); throw e; }).finally(() => clearTimeout(timer));
    if (done) return;
    const all = (rest + value).split('\n');
    rest = all.pop();
    for (const line of all) {
      if (line === '') {
        if (message.id || message.data) take(message);
        message = {};
        continue;
      }
      const at = line.indexOf(':');
      if (at < 1) continue;
      const [field, text] = [line.slice(0, at), line.slice(at + 1).replace(/^ /, '')];
      message[field] = field === 'data' && message.data ? `${message.data}\n${text}` : text;
    }
  }
}

/** Calls `action` at once and every `ms`, but not while the page is hidden, until `signal` is aborted. */
export async function every(ms, action, signal) {
  while (!signal.aborted) {
    if (!document.hidden) await action();
    await new Promise((done) => {
      setTimeout(done, ms);
      signal.addEventListener('abort', done, { once: true });
      // Who comes back to the page sees it as it is now.
      if (document.hidden) document.addEventListener('visibilitychange', done, { once: true });
    });
  }
}
