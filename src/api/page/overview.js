// SPDX-License-Identifier: Apache-2.0
// The node now: how it is, what happened lately, what is delivered, what runs.

import { every, lines, one } from './api.js';
import { empty, h, put } from './dom.js';
import { list } from './incidents.js';
import { History, spark } from './spark.js';
import { timeline } from './timeline.js';
import { bytes, count, ms, place, rate, round, span, value } from './format.js';

const REFRESH_MS = 5_000;
const KEEP = 60;
const HOURS = 6;
const LATEST = 5;
const BUSIEST = 8;

/** Readings that go on as long as the page is open, whatever view is shown. */
const history = new History(KEEP);
const busy = new History(KEEP);

const isIdle = (line) => line.name === 'system.cpu.utilization' && ['idle', 'iowait'].includes(line.attributes['cpu.mode']);

export async function overview(main, { signal, refused }) {
  const vitals = h('section', { class: 'vitals', 'aria-labelledby': 'vitals-title' });
  const lately = h('section', { class: 'card', 'aria-labelledby': 'lately-title' });
  const busiest = h('section', { class: 'card', 'aria-labelledby': 'busiest-title' });
  const delivery = h('section', { class: 'card', 'aria-labelledby': 'delivery-title' });
  const runs = h('section', { class: 'card', 'aria-labelledby': 'runs-title' });
  const readings = h('section', { class: 'card', 'aria-labelledby': 'readings-title' });
  main.append(h('h1', { class: 'unseen' }, 'The node now'), vitals, lately, h('div', { class: 'columns' }, busiest, delivery, runs), readings);
  await every(REFRESH_MS, async () => {
    try {
      const ask = (path, parameters) => lines(path, parameters, signal);
      const [node, series, usage, incidents, collectors] = await Promise.all([
        one('/v1/node', null, signal), ask('/v1/metrics'), ask('/v1/metrics', { scope: 'workloads', name: 'container.cpu.usage' }),
        ask('/v1/incidents', { since: `${HOURS}h`, limit: 200 }), ask('/v1/collectors')]);
      const sums = history.take(series, isIdle);
      busy.take(usage.map((line) => ({ ...line, name: place(line) })));
      put(vitals, h('h2', { id: 'vitals-title', class: 'unseen' }, 'Vital signs'), drawVitals(node, sums));
      if (!lately.contains(document.activeElement)) put(lately, drawLately(incidents));
      put(busiest, drawBusiest(usage));
      put(delivery, drawDelivery(node));
      put(runs, drawCollectors(collectors));
      if (!readings.contains(document.activeElement)) put(readings, drawReadings(sums, readings.querySelector('details')?.open));
      main.querySelector(':scope > .failure')?.remove();
    } catch (e) { refused(e); }
  }, signal);
}

function vital(title, text, more, line) {
  return h('div', { class: 'card vital' }, h('h3', null, title), h('p', { class: 'figure' }, text), h('p', { class: 'dim' }, more), line);
}

function drawVitals(node, sums) {
  const out = [];
  const open = node.incidents_open ?? 0;
  out.push(h('div', { class: `card vital ${open ? 'warn' : ''}` }, h('h3', null, 'Incidents open'), h('p', { class: 'figure' }, String(open)),
    h('p', { class: 'dim' }, open ? h('a', { href: '#/incidents?range=1h' }, 'What happens now') : 'Nothing is ill')));
  const draw = (name, title, more, format, top) => {
    if (!sums.has(name)) return;
    const last = history.last(name);
    out.push(vital(title, Number.isFinite(last) ? format(last) : '…', more, spark(history.of(name), `${title}, the last readings`, top)));
  };
  draw('system.cpu.utilization', 'CPU in use', sums.has('system.cpu.logical.count') ? `of ${count(sums.get('system.cpu.logical.count').value)} CPUs` : 'of all CPUs', (v) => `${round(v * 100)} %`, 1);
  draw('linux.sched.runqueue.latency', 'Waiting for a CPU', '99 % of threads wait less', span);
  for (const [name, title] of [['system.memory.utilization', 'Memory in use'], ['linux.pressure.cpu', 'CPU pressure'], ['linux.pressure.memory', 'Memory pressure'], ['linux.pressure.io', 'I/O pressure']]) {
    draw(name, title, 'now', (v) => value(v, '1'), 1);
  }
  return out;
}

function drawLately(incidents) {
  const now = Date.now();
  const from = Math.min(now - HOURS * 3_600_000, ...incidents.map((i) => ms(i.time)));
  return [
    h('div', { class: 'head' }, h('h2', { id: 'lately-title' }, `The last ${HOURS} hours`), h('a', { href: '#/incidents' }, 'All incidents')),
    incidents.length ? [timeline(incidents, from, now), list(incidents.slice(-LATEST))] : empty('No incidents', 'When a container or the node falls ill, it is shown here with the evidence.'),
  ];
}

function drawBusiest(usage) {
  const sorted = [...usage].sort((a, b) => b.value - a.value).slice(0, BUSIEST).filter((line) => line.value > 0.001);
  return [h('h2', { id: 'busiest-title' }, 'Busiest workloads'),
    sorted.length ? h('ol', { class: 'busiest' }, sorted.map((line) => h('li', null,
      h('a', { class: 'who', href: `#/incidents?container=${encodeURIComponent(line.resource?.['container.name'] ?? place(line))}`, title: place(line) }, place(line)),
      spark(busy.of(place(line)), `CPU of ${place(line)}`),
      h('span', { class: 'number' }, `${round(line.value)} CPU`)))) : h('p', { class: 'dim' }, usage.length ? 'None uses the CPU.' : 'What they use is known from the second reading on.')];
}

function drawDelivery(node) {
  const { store, exporters } = node;
  const row = (name, state, facts, reason) => h('li', null, h('b', null, name), h('span', { class: `state ${state}` }, state), h('span', { class: 'dim' }, facts), reason ? h('p', { class: 'reason' }, reason) : null);
  return [h('h2', { id: 'delivery-title' }, 'Store and delivery'), h('ul', { class: 'states' },
    row('Store', store.state, [store.size_bytes === undefined ? null : bytes(store.size_bytes), store.dropped ? `${count(store.dropped)} dropped` : null].filter(Boolean).join(', '), store.reason),
    exporters.map((x) => row(x.name, x.state, x.behind ? `${count(x.behind)} behind` : 'up to date', x.reason)),
    exporters.length ? null : h('li', { class: 'dim' }, 'No back end is configured: all is in the store.'))];
}

function drawCollectors(all) {
  const states = ['running', 'stuck', 'failed', 'unavailable', 'disabled'].map((state) => [state, all.filter((c) => c.state === state)]);
  const ill = all.filter((c) => ['stuck', 'failed', 'unavailable'].includes(c.state));
  return [h('div', { class: 'head' }, h('h2', { id: 'runs-title' }, 'Collectors'), h('a', { href: '#/collectors' }, 'Their cost')),
    h('ul', { class: 'tally' }, states.filter(([, c]) => c.length).map(([state, c]) => h('li', null, h('b', null, String(c.length)), ' ', h('span', { class: `state ${state}` }, state)))),
    ill.length ? h('ul', { class: 'states' }, ill.map((c) => h('li', null, h('b', null, c.name), h('span', { class: `state ${c.state}` }, c.state), h('p', { class: 'reason' }, c.reason)))) : null];
}

function drawReadings(sums, open) {
  const now = (line) => {
    const last = history.last(line.name);
    if (!Number.isFinite(last)) return '…';
    if (line.instrument === 'histogram') return `99 % below ${value(last, line.unit)}`;
    return line.instrument === 'counter' ? rate(last, line.unit) : value(last, line.unit);
  };
  return h('details', { open: Boolean(open) },
    h('summary', null, h('h2', { id: 'readings-title' }, 'All readings of the node'), h('span', { class: 'dim' }, ` ${sums.size} metrics`)),
    h('table', { class: 'cards readings' },
      h('thead', null, h('tr', null, ['Metric', 'Collector', 'What it is'].map((t) => h('th', { scope: 'col' }, t)), h('th', { scope: 'col', class: 'number' }, 'Now'), h('th', { scope: 'col' }, 'Lately'))),
      h('tbody', null, [...sums.values()].map((line) => h('tr', null,
        h('th', { scope: 'row', class: 'mono small' }, line.name),
        h('td', { 'data-label': 'Collector' }, line.collector),
        h('td', { 'data-label': 'What it is', class: 'dim' }, line.help),
        h('td', { 'data-label': 'Now', class: 'number' }, now(line)),
        h('td', { 'data-label': 'Lately' }, spark(history.of(line.name), `${line.name}, the last readings`)))))));
}
