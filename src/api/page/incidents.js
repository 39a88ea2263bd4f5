// SPDX-License-Identifier: Apache-2.0
// All incidents: on a time line, and as a list.

import { every, lines } from './api.js';
import { choice, empty, h, put } from './dom.js';
import { timeline } from './timeline.js';
import { ago, incidentSpan, level, moment, ms, place, span } from './format.js';

const RANGES = { '1h': 3600, '6h': 21600, '24h': 86400, '7d': 604800 };
const LIMIT = 500;

/** The rows of a list of incidents, newest first. */
export const list = (all) => h('ol', { class: 'rows incidents', reversed: true }, [...all].reverse().map((i) => h('li', null,
  h('a', { href: `#/incidents/${i.id}`, class: 'row' },
    h('span', { class: `badge ${level(i.severity)}` }, i.severity),
    h('span', { class: 'what' },
      h('span', { class: 'title' }, h('b', null, place(i)), ' ', h('span', { class: 'mono' }, i.name)),
      h('span', { class: 'message' }, i.message)),
    h('span', { class: 'facts' },
      i.state === 'open' ? h('span', { class: 'state open' }, `open for ${span(incidentSpan(i))}`) : h('span', { class: 'state' }, `lasted ${span(incidentSpan(i))}`),
      h('time', { datetime: i.time, title: i.time }, moment(i.time)),
      h('span', { class: 'dim' }, `${i.events} ${i.events === 1 ? 'event' : 'events'}${i.captures ? `, ${i.captures} ${i.captures === 1 ? 'capture' : 'captures'}` : ''}`))))));

export async function incidents(main, { parameters, signal, refused }) {
  let range = RANGES[parameters.get('range')] ? parameters.get('range') : '24h';
  let severity = parameters.get('severity') ?? '';
  let container = parameters.get('container') ?? '';
  const lanes = h('section', { class: 'card', 'aria-label': 'Time line' });
  const rows = h('section', { 'aria-label': 'List' });
  const status = h('p', { class: 'dim', role: 'status' });
  const change = () => {
    const kept = new URLSearchParams(Object.entries({ range, severity, container }).filter(([, v]) => v));
    history.replaceState(null, '', `#/incidents?${kept}`);
    refresh();
  };
  let typing;
  main.append(
    h('div', { class: 'head' }, h('h1', null, 'Incidents'),
      choice('Time', Object.keys(RANGES).map((r) => [r, r]), range, (r) => { range = r; change(); })),
    h('div', { class: 'filters' },
      h('label', null, 'Container, pod or unit', h('input', {
        type: 'search', value: container, placeholder: 'any', spellcheck: 'false', autocapitalize: 'off',
        oninput: (e) => { container = e.target.value.trim(); clearTimeout(typing); typing = setTimeout(change, 250); },
      })),
      h('label', null, 'Severity', h('select', { onchange: (e) => { severity = e.target.value; change(); } },
        [['', 'any'], ['warn', 'WARN or above'], ['error', 'ERROR or above'], ['fatal', 'FATAL']].map(([v, t]) => h('option', { value: v, selected: v === severity }, t)))),
      status),
    lanes, rows);

  async function refresh() {
    try {
      const all = await lines('/v1/incidents', { since: range, severity, container, limit: LIMIT }, signal);
      const now = Date.now();
      const newest = all.length ? `, the last onset ${ago(new Date(Math.max(...all.map((i) => ms(i.time)))).toISOString())}` : '';
      put(status, `${all.length}${all.length === LIMIT ? ' or more' : ''} ${all.length === 1 ? 'incident' : 'incidents'}${newest}`);
      if (all.length === 0) {
        put(lanes, empty(`No incidents in the last ${range}`, severity || container ? 'With these filters.' : 'Nothing on this node fell ill.'));
        put(rows);
        return;
      }
      const from = Math.min(now - RANGES[range] * 1000, ...all.map((i) => ms(i.time)));
      // Whoever is on a bar with the keyboard keeps it.
      if (!lanes.contains(document.activeElement)) put(lanes, timeline(all, from, now));
      if (!rows.contains(document.activeElement)) put(rows, list(all));
      main.querySelector(':scope > .failure')?.remove();
    } catch (e) { refused(e); }
  }
  await every(5_000, refresh, signal);
}
