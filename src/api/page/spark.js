// SPDX-License-Identifier: Apache-2.0
// Small lines of the last values of a metric.

import { s } from './dom.js';

const WIDTH = 160;
const HEIGHT = 40;

/** A line of values, oldest first, from 0 to `top` or their highest; what is not known is a gap. */
export function spark(values, label, top) {
  const known = values.filter(Number.isFinite);
  const highest = top ?? Math.max(...known, 0);
  const x = (i) => (values.length < 2 ? WIDTH : (i / (values.length - 1)) * WIDTH);
  const y = (v) => HEIGHT - 2 - (highest > 0 ? Math.min(v / highest, 1) * (HEIGHT - 4) : 0);
  const pieces = [];
  let piece = [];
  values.forEach((v, i) => {
    if (Number.isFinite(v)) piece.push([x(i), y(v)]);
    else if (piece.length) { pieces.push(piece); piece = []; }
  });
  if (piece.length) pieces.push(piece);
  const path = (points) => points.map(([a, b], i) => `${i ? 'L' : 'M'}${a.toFixed(1)} ${b.toFixed(1)}`).join('');
  const area = (points) => `${path(points)}L${points.at(-1)[0].toFixed(1)} ${HEIGHT}L${points[0][0].toFixed(1)} ${HEIGHT}Z`;
  return s('svg', { class: 'spark', viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
    pieces.map((p) => [s('path', { class: 'area', d: area(p) }), s('path', { class: 'line', d: path(p), 'vector-effect': 'non-scaling-stroke' })]));
}

/** Keeps the last readings of every metric and gives its values: a rate for counters, percentiles for histograms. */
export class History {
  constructor(keep) {
    this.keep = keep;
    this.before = new Map();
    this.values = new Map();
  }

  /** Takes the lines of `/v1/metrics`; sums up the series of each metric, apart from what `skip` refuses. */
  take(series, skip = () => false) {
    const sums = new Map();
    for (const line of series) {
      if (skip(line)) continue;
      const sum = sums.get(line.name) ?? { ...line, value: 0, buckets: new Map(), at: 0 };
      sum.value += Number(line.value ?? 0);
      for (const [le, n] of line.histogram?.buckets ?? []) sum.buckets.set(le, (sum.buckets.get(le) ?? 0) + n);
      if (line.histogram) sum.buckets.set(0, (sum.buckets.get(0) ?? 0) + line.histogram.zero_count);
      sum.at = Math.max(sum.at, Date.parse(line.time));
      sums.set(line.name, sum);
    }
    for (const [name, now] of sums) {
      const last = this.before.get(name);
      if (last && last.at === now.at) continue;
      this.before.set(name, now);
      const seconds = last ? (now.at - last.at) / 1000 : 0;
      let point = NaN;
      if (now.instrument === 'histogram') point = last ? quantile(now.buckets, last.buckets, 0.99) : NaN;
      else if (now.instrument === 'counter') point = last && seconds > 0 ? Math.max(0, now.value - last.value) / seconds : NaN;
      else point = now.value;
      const all = this.values.get(name) ?? [];
      all.push(point);
      if (all.length > this.keep) all.shift();
      this.values.set(name, all);
    }
    return sums;
  }

  of(name) {
    return this.values.get(name) ?? [];
  }

  last(name) {
    return this.of(name).at(-1) ?? NaN;
  }
}

/** The bound below which a share of the values that came between two readings lies; 0 where none came. */
export function quantile(now, last, share) {
  const grown = [...now].map(([le, n]) => [le, n - (last.get(le) ?? 0)]).filter(([, n]) => n > 0).sort((a, b) => a[0] - b[0]);
  const total = grown.reduce((sum, [, n]) => sum + n, 0);
  let seen = 0;
  for (const [le, n] of grown) {
    seen += n;
    if (seen >= total * share) return le;
  }
  return 0;
}
