// SPDX-License-Identifier: Apache-2.0
// One incident: as a tree along the time, as a flame graph of what was captured, and as text.

import { every, one } from './api.js';
import { empty, h, put } from './dom.js';
import { caption, evidence, profiles, table } from './evidence.js';
import { Flame } from './flame.js';
import { asText } from './text.js';
import { incidentSpan, lasted, level, moment, ms, parts, place, plain, span } from './format.js';

/** Of so few entries all details are shown at once. */
const FEW = 3;

export async function incident(main, { rest: [id], parameters, signal, refused }) {
  const tree = await one(`/v1/incidents/${encodeURIComponent(id)}`, null, signal);
  const head = h('header', { class: 'incident-head' });
  const panels = h('div');
  main.append(h('nav', { class: 'crumbs', 'aria-label': 'Where this is' }, h('a', { href: '#/incidents' }, 'Incidents'), ' / ', h('span', { class: 'mono', 'aria-current': 'page' }, tree.id)), head, panels);
  const captures = parts(tree).filter((e) => profiles(e).length);
  const tabs = [
    ['tree', 'Tree', (panel, t) => put(panel, drawTree(t))],
    ...(captures.length ? [['flame', 'Flame graph', drawFlames]] : []),
    ['text', 'Text', drawText],
  ];
  const chosen = tabs.some(([key]) => key === parameters.get('view')) ? parameters.get('view') : 'tree';
  const show = tabList(panels, tabs, chosen, (key) => history.replaceState(null, '', `#/incidents/${tree.id}?view=${key}`));
  put(head, drawHead(tree));
  show(tree);
  if (tree.state !== 'open') return;
  // As long as it is open more may join.
  let known = JSON.stringify(tree);
  await every(5_000, async () => {
    try {
      const now = await one(`/v1/incidents/${tree.id}`, null, signal);
      put(head, drawHead(now));
      const text = JSON.stringify(now);
      if (text !== known && !panels.contains(document.activeElement?.closest('details, .flame'))) {
        known = text;
        show(now);
      }
    } catch (e) { refused(e); }
  }, signal);
}

function drawHead(i) {
  const open = i.state === 'open';
  const resource = Object.entries(i.resource ?? {});
  return [
    h('h1', null, h('span', { class: `badge ${level(i.severity)}` }, i.severity), ' ', place(i), ' ', h('span', { class: 'mono name' }, i.name)),
    h('p', { class: 'lead' }, i.message),
    h('dl', { class: 'facts' },
      h('div', null, h('dt', null, 'Onset'), h('dd', null, h('time', { datetime: i.time }, moment(i.time)))),
      h('div', null, h('dt', null, open ? 'Open for' : 'Lasted'), h('dd', null, span(incidentSpan(i)))),
      h('div', null, h('dt', null, 'State'), h('dd', null, open ? 'open' : `closed${i.end_reason ? ` (${i.end_reason})` : ''}`)),
      h('div', null, h('dt', null, 'Events'), h('dd', null, String(i.events))),
      h('div', null, h('dt', null, 'Captures'), h('dd', null, String(i.captures), i.captures_under_way ? ` (${i.captures_under_way} more under way)` : ''))),
    h('details', { class: 'more' }, h('summary', null, 'Where it happened'), attributes(resource)),
  ];
}

const attributes = (pairs) => h('dl', { class: 'attributes' }, pairs.map(([k, v]) => h('div', null, h('dt', null, k), h('dd', null, plain(v)))));

/** Tabs by the ARIA pattern: arrows move, only the chosen one is in the tab order. */
function tabList(into, tabs, chosen, changed) {
  const panel = h('div', { role: 'tabpanel', id: 'panel', tabindex: '0', 'aria-labelledby': `tab-${chosen}` });
  let tree = null;
  const buttons = tabs.map(([key, title], i) => h('button', {
    type: 'button', role: 'tab', id: `tab-${key}`, 'aria-controls': 'panel',
    onclick: () => choose(key),
    onkeydown: (e) => {
      const to = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: tabs.length - 1 }[e.key];
      if (to === undefined) return;
      e.preventDefault();
      const next = tabs[(to + tabs.length) % tabs.length][0];
      choose(next);
      document.getElementById(`tab-${next}`).focus();
    },
  }, title));
  const draw = () => {
    for (const [i, [key]] of tabs.entries()) {
      buttons[i].setAttribute('aria-selected', String(key === chosen));
      buttons[i].tabIndex = key === chosen ? 0 : -1;
    }
    panel.setAttribute('aria-labelledby', `tab-${chosen}`);
    panel.replaceChildren();
    tabs.find(([key]) => key === chosen)[2](panel, tree);
  };
  const choose = (key) => {
    if (key === chosen) return;
    chosen = key;
    changed(key);
    draw();
  };
  into.append(h('div', { role: 'tablist', 'aria-label': 'How to look at it', class: 'tabs' }, buttons), panel);
  return (t) => { tree = t; draw(); };
}

// --- the tree ---------------------------------------------------------------------------------------

function drawTree(tree) {
  const all = parts(tree);
  if (all.length === 0) return empty('Nothing of it is stored any more', 'Its entries are gone by age or size.');
  const start = (e) => ms(e.start ?? e.time);
  const end = (e) => Math.max(ms(e.time), start(e) + lasted(e) * 1000);
  const from = Math.min(ms(tree.time), ...all.map(start));
  const to = Math.max(Number.isFinite(ms(tree.end)) ? ms(tree.end) : Date.now(), ...all.map(end), from + 1);
  const scale = (t) => ((t - from) / (to - from)) * 100;
  const bar = (e) => h('span', { class: 'span', 'aria-hidden': 'true' }, h('i', {
    class: e.severity ? level(e.severity) : 'capture',
    style: { left: `${scale(start(e)).toFixed(3)}%`, width: `${(scale(end(e)) - scale(start(e))).toFixed(3)}%` },
  }));
  const when = (e) => {
    const seconds = (start(e) - ms(tree.time)) / 1000;
    return `${seconds < 0 ? '−' : '+'}${span(Math.abs(seconds))}`;
  };
  const row = (e) => h('li', null, h('details', { class: 'entry', open: all.length <= FEW },
    h('summary', null,
      h('span', { class: 'when' }, when(e)),
      h('span', { class: `badge ${e.severity ? level(e.severity) : 'capture'}` }, e.severity || 'CAPTURE'),
      h('span', { class: 'what' }, h('span', { class: 'mono' }, e.name), lasted(e) ? h('span', { class: 'dim' }, ` ${span(lasted(e))} `) : ' ', h('span', { class: 'message' }, e.message ?? '')),
      bar(e)),
    details(e)),
  e.related?.length ? h('ul', null, e.related.map((r) => h('li', { class: 'related' },
    h('span', { class: 'mono' }, r.name), lasted(r) ? h('span', { class: 'dim' }, ` ${span(lasted(r))}`) : null, ' ',
    h('span', { class: 'dim' }, plain(r.attributes ?? {}))))) : null);
  return h('div', { class: 'tree card' },
    h('div', { class: 'scale', 'aria-hidden': 'true' }, h('span', null, '0'), h('span', null, span((to - from) / 2000)), h('span', null, span((to - from) / 1000))),
    h('ol', { 'aria-label': 'What happened, in the order of time' }, all.map(row)));
}

/** All that an event says: attributes, what belongs together, tables, stacks. */
export function details(e) {
  const pairs = Object.entries(e.attributes ?? {});
  const isObject = (v) => v !== null && typeof v === 'object' && !Array.isArray(v);
  const isTable = ([, v]) => Array.isArray(v) && v.some(isObject);
  const isMap = ([, v]) => isObject(v) && Object.keys(v).length > FEW;
  const out = [attributes([['time', e.time], ['id', e.id], ...pairs.filter((p) => !isTable(p) && !isMap(p))])];
  for (const [name, rows] of pairs.filter(isTable)) out.push(table(name, columnsOf(rows), rows.map((r) => r ?? {})));
  out.push(evidence(e));
  for (const [name, map] of pairs.filter(isMap)) out.push(h('details', { class: 'map' }, h('summary', { class: 'mono' }, name, h('span', { class: 'dim' }, ` ${Object.keys(map).length} values`)), attributes(Object.entries(map))));
  for (const kind of ['kernel', 'user']) {
    if (e.stacks?.[kind]?.length) out.push(h('h3', null, `${kind === 'kernel' ? 'Kernel' : 'User'} stack`), h('pre', { class: 'stack', tabindex: '0' }, e.stacks[kind].join('\n')));
  }
  return h('div', { class: 'details' }, out);
}

/** Columns of a table that is an attribute, and so says nothing of units. */
function columnsOf(rows) {
  const names = [...new Set(rows.flatMap((r) => Object.keys(r ?? {})))];
  return names.map((name) => ({ name, unit: '', type: rows.some((r) => typeof r?.[name] === 'number') ? 'int' : 'text' }));
}

// --- the other forms --------------------------------------------------------------------------------

function drawFlames(panel, tree) {
  const all = parts(tree).flatMap((e) => profiles(e).map((p) => ({ e, p })));
  const into = h('div');
  const show = ({ e, p }) => into.replaceChildren(new Flame(p, e.name, caption(e, p)).element);
  if (all.length > 1) {
    panel.append(h('label', { class: 'which' }, 'Profile', h('select', { onchange: (ev) => show(all[ev.target.value]) },
      all.map(({ e, p }, i) => h('option', { value: i }, `${moment(e.start ?? e.time)} ${caption(e, p)}`)))));
  }
  panel.append(into);
  show(all[0]);
}

function drawText(panel, tree) {
  const text = asText(tree);
  const done = h('span', { class: 'dim', role: 'status' });
  const copy = async () => {
    // A page without TLS on another address than loopback has no clipboard: then the text is marked.
    try {
      await navigator.clipboard.writeText(text);
      put(done, 'Copied');
    } catch {
      getSelection().selectAllChildren(pre);
      put(done, 'Marked: copy it with Ctrl-C');
    }
  };
  const pre = h('pre', { class: 'text', tabindex: '0' }, text);
  panel.append(h('div', { class: 'filters' }, h('button', { type: 'button', onclick: copy }, 'Copy'), done), pre);
}
