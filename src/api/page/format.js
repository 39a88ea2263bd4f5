// SPDX-License-Identifier: Apache-2.0
// Formats values for people, in the same way as the command line.

const pad = (n, width = 2) => String(n).padStart(width, '0');

/** Milliseconds since 1970 of a time of the API; its nanoseconds are beyond what a chart can show. */
export const ms = (time) => (time ? Date.parse(time) : NaN);

/** 14:05:09.123, in the reader's own zone. */
export function clock(time, digits = 3) {
  const d = new Date(ms(time));
  if (Number.isNaN(d.getTime())) return '';
  const fraction = digits ? `.${pad(d.getMilliseconds(), 3).slice(0, digits)}` : '';
  return `${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}${fraction}`;
}

/** 2026-11-25 14:05:09; the date is left out where it is today. */
export function moment(time) {
  const d = new Date(ms(time));
  if (Number.isNaN(d.getTime())) return '';
  const date = `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())}`;
  return d.toDateString() === new Date().toDateString() ? clock(time, 0) : `${date} ${clock(time, 0)}`;
}

/** 3 minutes ago. */
export function ago(time) {
  const seconds = Math.max(0, (Date.now() - ms(time)) / 1000);
  return seconds < 10 ? 'just now' : `${span(seconds)} ago`;
}

/** A length of time in seconds, in two units at most: 350 µs, 1.5 s, 2 m 10 s, 3 h 5 m, 2 d 4 h. */
export function span(seconds) {
  const abs = Math.abs(seconds);
  if (!Number.isFinite(seconds)) return '';
  if (abs === 0) return '0 s';
  if (abs < 1e-6) return `${round(seconds * 1e9)} ns`;
  if (abs < 1e-3) return `${round(seconds * 1e6)} µs`;
  if (abs < 1) return `${round(seconds * 1e3)} ms`;
  if (abs < 60) return `${round(seconds)} s`;
  const whole = Math.round(abs);
  const two = (big, unit, small, name) => `${Math.floor(whole / big)} ${unit}${Math.floor((whole % big) / small) ? ` ${Math.floor((whole % big) / small)} ${name}` : ''}`;
  if (whole < 3600) return two(60, 'm', 1, 's');
  if (whole < 86400) return two(3600, 'h', 60, 'm');
  return two(86400, 'd', 3600, 'h');
}

/** Three digits, no more: 0.123, 1.23, 12.3, 123, 1,234. */
export function round(n) {
  const abs = Math.abs(n);
  if (abs === 0) return '0';
  if (abs >= 100) return Math.round(n).toLocaleString('en');
  return String(Number(n.toPrecision(3)));
}

/** A count: 999, 12.3k, 4.5M. */
export function count(n) {
  for (const [size, unit] of [[1e9, 'G'], [1e6, 'M'], [1e4, 'k']]) if (Math.abs(n) >= size) return `${round(n / (unit === 'k' ? 1e3 : size))}${unit}`;
  return round(n);
}

export function bytes(n) {
  for (const [size, unit] of [[2 ** 40, 'TiB'], [2 ** 30, 'GiB'], [2 ** 20, 'MiB'], [2 ** 10, 'KiB']]) if (n >= size) return `${round(n / size)} ${unit}`;
  return `${round(n)} B`;
}

/** A value in its unit: UCUM, as metrics have it, or the words of profiles. */
export function value(v, unit) {
  if (unit === 's') return span(v);
  if (unit === 'ns' || unit === 'nanoseconds') return span(v / 1e9);
  if (unit === 'By' || unit === 'bytes') return bytes(v);
  if (unit === '1') return `${round(v * 100)} %`;
  return count(v);
}

/** How fast a counter goes. */
export function rate(v, unit) {
  if (unit === 's') return `${span(v)}/s`;
  if (unit === 'By') return `${bytes(v)}/s`;
  return `${count(v)}/s`;
}

/** Whose it is, in one word: container, pod, unit or cgroup; else the node. */
export function place(of) {
  const r = of.resource ?? {};
  const pod = r['k8s.pod.name'];
  if (pod) {
    const container = r['k8s.container.name'];
    return [r['k8s.namespace.name'], pod, r['k8s.namespace.name'] ? container : null].filter(Boolean).join('/');
  }
  return r['container.name'] || r['container.id']?.slice(0, 12) || r['linux.systemd.unit'] || r['linux.cgroup.path'] || r['host.name'] || 'node';
}

/** Whether it happened to a workload, rather than to the node as a whole. */
export const isWorkload = (of) => ['container.id', 'container.name', 'k8s.pod.name', 'linux.systemd.unit', 'linux.cgroup.path'].some((k) => of.resource?.[k]);

/** Seconds that an event or a span lasted. */
export const lasted = (of) => Number(of.duration_ns ?? 0) / 1e9;

/** From onset to end of an incident, in seconds; of an open one until now. */
export const incidentSpan = (i) => (Number.isFinite(ms(i.end)) ? ms(i.end) : Date.now()) / 1000 - ms(i.time) / 1000;

/** An attribute's value on one line. */
export function plain(v) {
  if (Array.isArray(v)) return `[${v.map(plain).join(' ')}]`;
  if (v !== null && typeof v === 'object') return Object.entries(v).map(([k, x]) => `${k}=${plain(x)}`).join(' ');
  return String(v).replace(/\s+/g, ' ');
}

/** The class of a severity: fatal, error, warn, info or debug. */
export const level = (severity) => (['fatal', 'error', 'warn', 'info'].includes(severity?.toLowerCase()) ? severity.toLowerCase() : 'debug');

/** Entries of an incident but for its own span, which says what the incident says. */
export const parts = (tree) => (tree.entries ?? []).filter((e) => !('linux.incident.state' in (e.attributes ?? {})));
