// SPDX-License-Identifier: Apache-2.0
// Incidents on a time line: a lane for each that fell ill, a bar from onset to recovery.

import { h } from './dom.js';
import { incidentSpan, level, moment, ms, place, span } from './format.js';

const LANES = 12;
const STEPS = [60, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];

/** The lanes of `all` between `from` and `to`, in milliseconds since 1970. */
export function timeline(all, from, to) {
  const lanes = new Map();
  for (const i of all) {
    const name = place(i);
    lanes.set(name, [...(lanes.get(name) ?? []), i]);
  }
  // Who fell ill last is looked for first.
  const ordered = [...lanes].sort((a, b) => ms(b[1].at(-1).time) - ms(a[1].at(-1).time));
  const shown = ordered.slice(0, LANES);
  const at = (t) => ((Math.min(Math.max(t, from), to) - from) / (to - from)) * 100;
  const bar = (i) => {
    const [left, right] = [at(ms(i.time)), at(Number.isFinite(ms(i.end)) ? ms(i.end) : to)];
    const open = i.state === 'open';
    const words = `${i.name}, ${i.severity}, ${place(i)}, ${moment(i.time)}, ${open ? 'open for' : 'lasted'} ${span(incidentSpan(i))}`;
    return h('li', { style: { left: `min(${left.toFixed(3)}%, 100% - 9px)`, width: `${Math.max(right - left, 0).toFixed(3)}%` } },
      h('a', { class: `bar ${level(i.severity)}${open ? ' open' : ''}`, href: `#/incidents/${i.id}`, title: `${words}\n${i.message ?? ''}`, 'aria-label': words }));
  };
  return h('div', { class: 'timeline' },
    shown.map(([name, bars]) => h('div', { class: 'lane' }, h('span', { class: 'who', title: name }, name), h('ul', { class: 'bars', 'aria-label': `Incidents of ${name}` }, bars.map(bar)))),
    h('div', { class: 'axis', 'aria-hidden': 'true' }, ticks(from, to).map(([t, text]) => h('span', { style: { left: `${at(t).toFixed(3)}%` } }, text))),
    ordered.length > LANES ? h('p', { class: 'dim' }, `and ${ordered.length - LANES} more, in the list`) : null);
}

function ticks(from, to) {
  const seconds = (to - from) / 1000;
  const step = (STEPS.find((x) => seconds / x <= 6) ?? 86400) * 1000;
  // Whole steps of the reader's own day.
  const zone = new Date(from).getTimezoneOffset() * 60_000;
  const out = [];
  for (let t = Math.ceil((from - zone) / step) * step + zone; t < to - (to - from) / 40; t += step) {
    const d = new Date(t);
    const day = step >= 86_400_000 || (d.getHours() === 0 && d.getMinutes() === 0);
    out.push([t, day ? d.toLocaleDateString('en', { day: 'numeric', month: 'short' }) : `${String(d.getHours()).padStart(2, '0')}:${String(d.getMinutes()).padStart(2, '0')}`]);
  }
  return out;
}
