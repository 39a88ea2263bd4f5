// SPDX-License-Identifier: Apache-2.0
// An incident as plain text: for a ticket or a chat, as `bianque show` prints it.

import { evidenceText } from './evidence.js';
import { incidentSpan, lasted, ms, parts, place, plain, span } from './format.js';

const MAX_ROWS = 10;

export function asText(i) {
  const time = i.state === 'open' ? `${i.time}, still open` : `${i.time} to ${i.end} (${span(incidentSpan(i))}), ended: ${i.end_reason ?? ''}`;
  const out = [`Incident ${i.id}  ${i.name}  ${i.severity}`, `  message   ${i.message ?? ''}`, `  where     ${place(i)}`, `  time      ${time}`];
  const resource = Object.entries(i.resource ?? {}).map(([k, v]) => `${k}=${plain(v)}`).join('  ');
  if (resource) out.push(`  resource  ${resource}`);
  out.push('');
  const all = parts(i);
  all.forEach((e, n) => {
    const last = n === all.length - 1;
    const below = last ? '      ' : '│     ';
    const offset = (ms(e.start ?? e.time) - ms(i.time)) / 1000;
    const long = lasted(e) ? ` (${span(lasted(e))})` : '';
    out.push(`${last ? '└─' : '├─'} ${offset < 0 ? '-' : '+'}${span(Math.abs(offset))}  ${e.severity || 'capture'}  ${e.name}${long}  ${e.message ?? ''}`.trimEnd());
    for (const r of e.related ?? []) out.push(`${below}${r.name}${lasted(r) ? ` (${span(lasted(r))})` : ''}  ${plain(r.attributes ?? {})}`.trimEnd());
    out.push(...details(e).map((line) => below + line));
  });
  return `${out.join('\n')}\n`;
}

function details(e) {
  const out = [];
  const tables = [];
  for (const [key, value] of Object.entries(e.attributes ?? {})) {
    if (Array.isArray(value) && value.some((x) => x !== null && typeof x === 'object')) tables.push([key, value]);
    else out.push(`${key}=${plain(value)}`);
  }
  for (const [key, rows] of tables) {
    out.push(key, ...rows.slice(0, MAX_ROWS).map((r) => `  ${plain(r)}`));
    if (rows.length > MAX_ROWS) out.push(`  … and ${rows.length - MAX_ROWS} more`);
  }
  out.push(...evidenceText(e));
  for (const kind of ['kernel', 'user']) {
    if (e.stacks?.[kind]?.length) out.push(`${kind} stack`, ...e.stacks[kind].map((f) => `  ${f}`));
  }
  return out;
}
