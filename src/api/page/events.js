// SPDX-License-Identifier: Apache-2.0
// Events as they are accepted.

import { follow, lines } from './api.js';
import { empty, h, put } from './dom.js';
import { details } from './incident.js';
import { clock, level, moment, place } from './format.js';

const KEEP = 500;
const FIRST = 100;

export async function events(main, { parameters, signal, refused }) {
  const filter = Object.fromEntries(['name', 'container', 'severity'].map((k) => [k, parameters.get(k) ?? '']));
  let stop = new AbortController();
  let paused = false;
  let waiting = [];
  let scheduled = false;
  const rows = h('ol', { class: 'rows events', reversed: true, 'aria-label': 'Events, newest first' });
  const status = h('span', { class: 'live', role: 'status' });
  const pause = h('button', { type: 'button', 'aria-pressed': 'false', onclick: () => { paused = !paused; pause.setAttribute('aria-pressed', String(paused)); draw(); } }, 'Pause');
  let typing;
  const text = (key, label, placeholder) => h('label', null, label, h('input', {
    type: 'search', value: filter[key], placeholder, spellcheck: 'false', autocapitalize: 'off',
    oninput: (e) => { filter[key] = e.target.value.trim(); clearTimeout(typing); typing = setTimeout(change, 250); },
  }));
  main.append(
    h('div', { class: 'head' }, h('h1', null, 'Events'), h('div', { class: 'right' }, status, pause)),
    h('div', { class: 'filters' },
      text('name', 'Name or collector', 'oom, linux.net, …'),
      text('container', 'Container, pod or unit', 'any'),
      h('label', null, 'Severity', h('select', { onchange: (e) => { filter.severity = e.target.value; change(); } },
        [['', 'any'], ['info', 'INFO or above'], ['warn', 'WARN or above'], ['error', 'ERROR or above'], ['fatal', 'FATAL']].map(([v, t]) => h('option', { value: v, selected: v === filter.severity }, t))))),
    rows);
  signal.addEventListener('abort', () => stop.abort(), { once: true });

  function change() {
    history.replaceState(null, '', `#/events?${new URLSearchParams(Object.entries(filter).filter(([, v]) => v))}`);
    start();
  }

  const row = (e) => h('li', null, h('details', null,
    h('summary', { class: 'row' },
      h('time', { datetime: e.time, title: e.time }, clock(e.time)),
      h('span', { class: `badge ${level(e.severity)}` }, e.severity),
      h('span', { class: 'what' }, h('span', { class: 'title' }, h('b', null, place(e)), ' ', h('span', { class: 'mono' }, e.name)), h('span', { class: 'message' }, e.message))),
    e.trace_id ? h('p', { class: 'joined' }, h('a', { href: `#/incidents/${e.trace_id}` }, 'The incident it is part of')) : null,
    details(e)));

  const gap = (m) => h('li', { class: 'gap' }, `${m.count ? `${m.count} events` : 'Events'} of ${moment(m.since)}${m.until ? ` to ${moment(m.until)}` : ''} were gone before they could be read`);

  function draw() {
    scheduled = false;
    put(pause, paused ? `Go on${waiting.length ? ` (${waiting.length}${waiting.length >= KEEP ? ' or more' : ''})` : ''}` : 'Pause');
    if (paused) return;
    if (waiting.length) rows.querySelector('.empty')?.closest('li').remove();
    rows.prepend(...waiting.reverse().slice(0, KEEP));
    waiting = [];
    while (rows.children.length > KEEP) rows.lastElementChild.remove();
  }
  const later = (node) => {
    waiting.push(node);
    if (waiting.length > KEEP) waiting.shift();
    // Many come at once: they are shown together.
    if (!scheduled) { scheduled = true; setTimeout(draw, 100); }
  };

  async function start() {
    stop.abort();
    stop = new AbortController();
    const mine = stop.signal;
    main.querySelector(':scope > .failure')?.remove();
    try {
      const past = await lines('/v1/events', { ...filter, limit: FIRST }, mine);
      waiting = [];
      rows.replaceChildren(...past.reverse().map(row));
      if (!past.length) rows.append(h('li', null, empty('No events so far', 'They appear here as they are accepted.')));
      await follow({ ...filter, after: past[0]?.id }, {
        event: (e) => later(row(e)),
        missed: (m) => later(gap(m)),
        state: (s, why) => { status.className = `live ${s}`; put(status, s === 'live' ? 'Live' : `Waiting: ${why ?? 'connecting'}`); },
      }, mine);
    } catch (e) {
      if (!mine.aborted) refused(e);
    }
  }
  await start();
}
