// SPDX-License-Identifier: Apache-2.0
// Evidence of captures by its type: tables with their units, series as small charts, and what a profile measures.

import { h } from './dom.js';
import { spark } from './spark.js';
import { ms, plain, span, value } from './format.js';

const MAX_ROWS = 50;
const MAX_TEXT_ROWS = 10;

const of = (e, type) => (e.evidence ?? []).filter((p) => p.type === type);

/** The profiles of an entry that have stacks. */
export const profiles = (e) => of(e, 'profile').filter((p) => p.stacks.length > 0);

/** A value in the unit of its profile or column; whole numbers of things stay whole. */
export const amount = (v, unit) => (['s', 'ns', 'nanoseconds', 'By', 'bytes', '1'].includes(unit) ? value(Number(v), unit) : Number(v).toLocaleString('en', { maximumFractionDigits: 3 }));

/** 42 samples (424 ms); 1.5 s. */
export function total(profile, sum = Number(profile.total)) {
  if (profile.unit !== 'count') return amount(sum, profile.unit);
  const stands = profile.period ? ` (${amount(sum * profile.period, profile.period_unit)})` : '';
  return `${amount(sum, 'count')} ${sum === 1 ? 'sample' : 'samples'}${stands}`;
}

/** cpu_profile: cpu, 42 samples (424 ms), 3 lost. */
export const caption = (e, profile) => `${e.name}: ${profile.name}, ${total(profile)}${profile.lost ? `, ${profile.lost} lost` : ''}`;

const cell = (column, v) => {
  if (v === undefined || v === null) return '–';
  return column.type === 'text' || column.unit === '' || !Number.isFinite(Number(v)) ? plain(v) : amount(v, column.unit);
};

/** One table, with what it leaves out. `columns`: name, type (text, int, double) and unit. */
export function table(name, columns, rows, leftOut = 0) {
  const more = Math.max(0, rows.length - MAX_ROWS) + leftOut;
  return [h('h3', { class: 'mono' }, name), h('div', { class: 'wide', tabindex: '0', role: 'region', 'aria-label': name }, h('table', null,
    h('thead', null, h('tr', null, columns.map((c) => h('th', { scope: 'col', class: c.type === 'text' ? null : 'number' }, c.name)))),
    h('tbody', null, rows.slice(0, MAX_ROWS).map((r) => h('tr', null, columns.map((c) => h('td', { class: c.type === 'text' ? null : 'number' }, cell(c, r[c.name])))))))),
  more ? h('p', { class: 'dim' }, `and ${more} more`) : null];
}

const range = (series) => {
  const values = series.points.map((p) => Number(p.value));
  const seconds = (ms(series.points.at(-1).time) - ms(series.points[0].time)) / 1000;
  return `${amount(Math.min(...values), series.unit)} to ${amount(Math.max(...values), series.unit)}, last ${amount(values.at(-1), series.unit)}, over ${span(seconds)}`;
};

function chart(series) {
  if (series.points.length === 0) return null;
  const text = range(series);
  return [h('h3', { class: 'mono' }, series.name), h('figure', { class: 'series' },
    spark(series.points.map((p) => Number(p.value)), `${series.name}: ${text}`),
    h('figcaption', { class: 'dim' }, text, series.left_out ? `, ${series.left_out} more had no room` : ''))];
}

/** Tables and series of an entry, and the spans of applications that it links to. */
export function evidence(e) {
  return [
    ...of(e, 'table').flatMap((t) => table(t.name, t.columns, t.rows, t.left_out)),
    ...of(e, 'series').flatMap(chart),
    e.links?.length ? [h('h3', null, 'Spans under way'), h('ul', { class: 'links' }, e.links.map((l) => h('li', { class: 'mono' }, linkText(l))))] : null,
  ];
}

const linkText = (l) => `${l.trace_id}/${l.span_id}${l.attributes ? `  ${plain(l.attributes)}` : ''}`;

/** The same, and what its profiles measure, as lines of text. */
export function evidenceText(e) {
  const out = [];
  for (const t of of(e, 'table')) {
    const lines = [t.columns.map((c) => c.name), ...t.rows.slice(0, MAX_TEXT_ROWS).map((r) => t.columns.map((c) => cell(c, r[c.name])))];
    const widths = t.columns.map((_, i) => Math.max(...lines.map((l) => l[i].length)));
    out.push(t.name, ...lines.map((l) => `  ${l.map((text, i) => (t.columns[i].type === 'text' ? text.padEnd(widths[i]) : text.padStart(widths[i]))).join('  ')}`.trimEnd()));
    const more = Math.max(0, t.rows.length - MAX_TEXT_ROWS) + (t.left_out ?? 0);
    if (more) out.push(`  … and ${more} more`);
  }
  for (const s of of(e, 'series')) if (s.points.length) out.push(`${s.name}  ${range(s)}`);
  for (const p of profiles(e)) out.push(`profile ${p.name}, ${total(p)}${p.lost ? `, ${p.lost} lost` : ''}`);
  for (const l of e.links ?? []) out.push(`span ${linkText(l)}`);
  return out;
}
