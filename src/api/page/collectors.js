// SPDX-License-Identifier: Apache-2.0
// What runs, what does not and why, and what it all costs.

import { every, lines } from './api.js';
import { h, put } from './dom.js';
import { count, round, span } from './format.js';

const REFRESH_MS = 5_000;
const KINDS = ['metrics', 'events', 'autotracing'];

/** A share of one CPU's time, in percent. */
const share = (x) => (Number.isFinite(x) ? `${x === 0 ? '0' : x < 1e-6 ? '<0.0001' : round(x * 100)} %` : '–');

/** Costs since the look before; since start at the first. */
export class Costs {
  #before = null;

  /** Takes the lines of `/v1/costs` and gives each with `share` of one CPU and `rate` of runs. */
  take(rows, at) {
    const key = (r) => `${r.collector ?? ''}/${r.probe ?? ''}/${r.hook ?? ''}`;
    const before = this.#before;
    const out = rows.map((r) => {
      const last = before?.rows.get(key(r));
      const seconds = last ? (at - before.at) / 1000 : NaN;
      return { ...r, share: (r.seconds - (last?.seconds ?? 0)) / seconds, rate: (r.runs - (last?.runs ?? 0)) / seconds };
    });
    // Kernel figures move once an interval: a look between two would show nothing.
    const moved = !before || rows.some((r) => r.runs !== before.rows.get(key(r))?.runs);
    if (moved) {
      this.#before = { at, rows: new Map(rows.map((r) => [key(r), r])) };
      this.last = out;
    }
    return this.last;
  }
}

export async function collectors(main, { signal, refused }) {
  const costs = new Costs();
  const status = h('p', { class: 'dim', role: 'status' });
  const table = h('div', { class: 'costs-all' });
  const probes = h('section', { class: 'card programs', 'aria-labelledby': 'probes' });
  main.append(h('div', { class: 'head' }, h('h1', null, 'Collectors'), status), table, probes);
  await every(REFRESH_MS, async () => {
    try {
      const [all, spent] = await Promise.all([lines('/v1/collectors', null, signal), lines('/v1/costs', null, signal)]);
      const now = costs.take(spent, Date.now());
      const running = all.filter((c) => c.state === 'running').length;
      put(status, `${running} of ${all.length} run`);
      put(table, KINDS.map((kind) => section(kind, all.filter((c) => c.kind === kind), now)));
      put(probes, programs(now.filter((r) => r.probe)));
      main.querySelector(':scope > .failure')?.remove();
    } catch (e) { refused(e); }
  }, signal);
}

function section(kind, all, costs) {
  if (all.length === 0) return null;
  const row = (c) => {
    const run = costs.find((r) => r.collector === c.name);
    const kernel = costs.filter((r) => r.probe === c.name);
    const inKernel = kernel.length ? share(kernel.reduce((sum, r) => sum + r.share, 0)) : '–';
    const why = c.reason ? h('tr', { class: 'why' }, h('td', { colspan: 8, class: 'reason' }, c.reason)) : null;
    return [h('tr', { class: why ? 'has-reason' : null },
      h('th', { scope: 'row' }, h('b', null, c.name)),
      h('td', { 'data-label': 'State' }, h('span', { class: `state ${c.state}` }, c.state)),
      h('td', { 'data-label': 'Hook', class: 'mono small' }, c.hook ? c.hook.split(', ').map((x) => h('div', null, x)) : h('span', { class: 'dim' }, '–')),
      h('td', { 'data-label': 'Runs', class: 'number' }, run ? count(run.runs) : '–'),
      h('td', { 'data-label': 'Time per run', class: 'number' }, run?.runs ? span(run.seconds / run.runs) : '–'),
      h('td', { 'data-label': 'Failures', class: 'number' }, run ? h('span', { class: run.failures ? 'bad' : null }, count(run.failures)) : '–'),
      h('td', { 'data-label': 'In the agent', class: 'number' }, run ? share(run.share) : '–'),
      h('td', { 'data-label': 'In the kernel', class: 'number' }, inKernel)), why];
  };
  const title = { metrics: 'Metrics', events: 'Events', autotracing: 'Autotracing' }[kind];
  return h('section', { class: 'card costs', 'aria-labelledby': `kind-${kind}` }, h('h2', { id: `kind-${kind}` }, title),
    h('table', { class: 'cards' },
      h('thead', null, h('tr', null, ['Collector', 'State', 'Hook'].map((t) => h('th', { scope: 'col' }, t)), ['Runs', 'Time per run', 'Failures', 'In the agent', 'In the kernel'].map((t) => h('th', { scope: 'col', class: 'number' }, t)))),
      h('tbody', null, all.map(row))));
}

function programs(rows) {
  const total = rows.reduce((sum, r) => sum + (r.share || 0), 0);
  const known = rows.some((r) => Number.isFinite(r.share));
  return [
    h('h2', { id: 'probes' }, 'BPF programs'),
    h('p', { class: 'dim' }, known ? `All together ${share(total)} of one CPU. ` : null, 'Shared probes serve several collectors. Times are estimates: one run in 1,024 is timed.'),
    rows.length ? h('table', { class: 'cards' },
      h('thead', null, h('tr', null, h('th', { scope: 'col' }, 'Hook'), h('th', { scope: 'col' }, 'Probe'), ['Runs', 'Runs/s', 'Time per run', 'Of one CPU'].map((t) => h('th', { scope: 'col', class: 'number' }, t)))),
      h('tbody', null, [...rows].sort((a, b) => b.seconds - a.seconds).map((r) => h('tr', null,
        h('th', { scope: 'row', class: 'mono small' }, r.hook),
        h('td', { 'data-label': 'Probe' }, r.probe),
        h('td', { 'data-label': 'Runs', class: 'number' }, count(r.runs)),
        h('td', { 'data-label': 'Runs/s', class: 'number' }, Number.isFinite(r.rate) ? count(r.rate) : '–'),
        h('td', { 'data-label': 'Time per run', class: 'number' }, r.runs && r.seconds ? span(r.seconds / r.runs) : '–'),
        h('td', { 'data-label': 'Of one CPU', class: 'number' }, share(r.share)))))) : h('p', { class: 'dim' }, 'No program has been read so far: figures come once an interval.'),
  ];
}
