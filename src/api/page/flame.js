// SPDX-License-Identifier: Apache-2.0
// A flame graph as an icicle: callers above callees, each as wide as its share of the samples.
//
// It is a tree in the sense of ARIA: one box is in the tab order, arrows move between boxes, Enter
// zooms, Escape zooms out. Boxes narrower than a few pixels are not drawn; zooming in shows them.

import { h, put } from './dom.js';
import { total } from './evidence.js';
import { round } from './format.js';

const ROW = 20;
const LEAST_PX = 2.5;
const TEXT_PX = 28;

/** A frame without the offset: samples of one function are one box. */
function name(frame) {
  const at = frame.indexOf('+0x');
  return at > 0 && !frame.startsWith('0x') ? frame.slice(0, at) : frame;
}

const box = (text, kernel, parent, depth) => ({ text, kernel, parent, depth, value: 0, own: 0, children: new Map(), matches: false });

/** Joins stacks (`frames`, outermost first, of which the last `kernel` are the kernel's) to one tree. */
export function join(stacks, title) {
  const root = box(title, false, null, 0);
  for (const { frames, value, kernel = 0 } of stacks) {
    const n = Number(value);
    let at = root;
    root.value += n;
    frames.forEach((frame, i) => {
      const inKernel = i >= frames.length - kernel;
      const key = `${inKernel ? 'k' : 'u'}${name(frame)}`;
      let next = at.children.get(key);
      if (!next) at.children.set(key, next = box(name(frame), inKernel, at, at.depth + 1));
      next.value += n;
      at = next;
    });
    at.own += n;
  }
  return root;
}

const widestFirst = (b) => [...b.children.values()].sort((x, y) => y.value - x.value || (x.text < y.text ? -1 : 1));

export class Flame {
  #profile;
  #root;
  #zoom;
  #at;
  #drawn = new Map();
  #search = '';

  /** A profile as the API has it; `caption` says what it measures. */
  constructor(profile, title, caption) {
    this.#profile = profile;
    this.#root = join(profile.stacks, title);
    this.#zoom = this.#root;
    this.#at = this.#root;
    this.graph = h('div', {
      class: 'graph', role: 'tree', 'aria-label': `Flame graph of ${title}`, 'aria-describedby': 'flame-keys',
      onkeydown: (e) => this.#key(e),
      onclick: (e) => this.#point(e, (b) => { this.#at = b; this.zoom(b); }),
      onpointerover: (e) => this.#point(e, (b) => this.#describe(b)),
      onfocusin: (e) => this.#point(e, (b) => this.#describe(b)),
    });
    this.words = h('p', { class: 'words', role: 'status' });
    this.found = h('span', { class: 'dim', role: 'status' });
    this.input = h('input', {
      type: 'search', 'aria-label': 'Search for a function', placeholder: 'Search: /', spellcheck: 'false', autocapitalize: 'off',
      oninput: () => this.search(this.input.value.trim()),
      onkeydown: (e) => { if (e.key === 'Enter') { e.preventDefault(); this.#next(); } },
    });
    this.reset = h('button', { type: 'button', onclick: () => this.zoom(this.#root) }, 'Zoom out');
    this.element = h('div', { class: 'flame card' },
      h('p', { class: 'caption' }, caption),
      h('div', { class: 'filters' }, this.input, this.found, h('span', { class: 'legend' }, h('i', { class: 'user' }), 'user', h('i', { class: 'kernel' }), 'kernel'), this.reset),
      this.words, this.graph,
      h('p', { class: 'dim keys', id: 'flame-keys' }, h('kbd', null, '↑↓←→'), ' move, ', h('kbd', null, 'Enter'), ' zooms, ', h('kbd', null, 'Esc'), ' zooms out, ', h('kbd', null, '/'), ' searches, ', h('kbd', null, 'n'), ' next found'));
    const slash = (e) => {
      if (!this.element.isConnected) document.removeEventListener('keydown', slash);
      else if (e.key === '/' && !e.target.matches('input, select')) {
        e.preventDefault();
        this.input.focus();
      }
    };
    document.addEventListener('keydown', slash);
    let width = 0;
    new ResizeObserver(([entry]) => {
      if (Math.abs(entry.contentRect.width - width) < 1) return;
      width = entry.contentRect.width;
      this.#draw();
    }).observe(this.graph);
    this.#describe(this.#root);
  }

  zoom(b) {
    const focused = this.graph.contains(document.activeElement);
    this.#zoom = b;
    if (b === this.#root) this.#at = b;
    this.#draw();
    this.#describe(b);
    if (focused) this.#focus(this.#at);
  }

  /** Marks functions whose name contains `text`, whatever its case, and says how much of it all is in them. */
  search(text) {
    this.#search = text;
    const wanted = text.toLowerCase();
    let inThem = 0;
    const look = (b, inside) => {
      b.matches = wanted !== '' && b !== this.#root && b.text.toLowerCase().includes(wanted);
      // A function that calls itself counts once.
      if (b.matches && !inside) inThem += b.value;
      for (const c of b.children.values()) look(c, inside || b.matches);
    };
    look(this.#root, false);
    put(this.found, wanted ? `${round((inThem / this.#root.value) * 100)} % of it all` : '');
    this.#draw();
  }

  #describe(b) {
    const of = (whole) => `${round((b.value / whole.value) * 100)} %`;
    const zoomed = this.#zoom !== this.#root ? `, ${of(this.#zoom)} of what is shown` : '';
    put(this.words, h('b', { class: 'mono' }, b.text), ` ${total(this.#profile, b.value)}, ${of(this.#root)}${zoomed}${b.own ? `, ${total(this.#profile, b.own)} in itself` : ''}`);
  }

  #point(e, then) {
    const element = e.target.closest('[role=treeitem]');
    if (element) then(element.box);
  }

  #draw() {
    const width = this.graph.clientWidth;
    this.#drawn = new Map();
    const out = [];
    let deepest = 0;
    const add = (b, left, w) => {
      deepest = Math.max(deepest, b.depth);
      const share = (b.value / this.#root.value) * 100;
      const element = h('div', {
        role: 'treeitem', tabindex: '-1', 'aria-level': b.depth + 1, 'aria-expanded': b.children.size ? 'true' : null,
        'aria-label': `${b.text}, ${round(share)} %`,
        class: `box ${b.depth === 0 ? 'root' : b.kernel ? 'kernel' : 'user'} shade${shade(b.text)}${b.matches ? ' match' : this.#search ? ' other' : ''}${b.depth < this.#zoom.depth ? ' above' : ''}`,
        style: { left: `${left}px`, width: `${Math.max(w - 1, 1)}px`, top: `${b.depth * ROW}px` },
      }, w >= TEXT_PX ? b.text : '');
      element.box = b;
      this.#drawn.set(b, element);
      out.push(element);
    };
    const below = (b, left, w) => {
      let x = left;
      for (const c of widestFirst(b)) {
        const cw = (c.value / b.value) * w;
        if (cw < LEAST_PX) break;
        add(c, x, cw);
        below(c, x, cw);
        x += cw;
      }
    };
    for (let b = this.#zoom.parent; b; b = b.parent) add(b, 0, width);
    add(this.#zoom, 0, width);
    below(this.#zoom, 0, width);
    this.graph.style.setProperty('height', `${(deepest + 1) * ROW}px`);
    this.graph.replaceChildren(...out);
    this.reset.disabled = this.#zoom === this.#root;
    if (!this.#drawn.has(this.#at)) this.#at = this.#zoom;
    this.#drawn.get(this.#at).tabIndex = 0;
  }

  #focus(b) {
    const element = this.#drawn.get(b);
    if (!element) return;
    const before = this.#drawn.get(this.#at);
    if (before) before.tabIndex = -1;
    this.#at = b;
    element.tabIndex = 0;
    element.focus({ preventScroll: false });
  }

  #key(e) {
    if (e.ctrlKey || e.altKey || e.metaKey) return;
    const b = this.#at;
    const beside = (step) => {
      const all = b.parent ? widestFirst(b.parent).filter((c) => this.#drawn.has(c)) : [b];
      return all[all.indexOf(b) + step];
    };
    const act = {
      ArrowUp: () => this.#focus(b.parent),
      ArrowDown: () => this.#focus(widestFirst(b)[0]),
      ArrowLeft: () => this.#focus(beside(-1)),
      ArrowRight: () => this.#focus(beside(1)),
      Home: () => this.#focus(this.#zoom),
      Enter: () => this.zoom(b),
      ' ': () => this.zoom(b),
      Escape: () => this.zoom(this.#root),
      n: () => this.#next(),
    }[e.key];
    if (!act) return;
    e.preventDefault();
    act();
  }

  #next() {
    const found = [...this.#drawn.keys()].filter((b) => b.matches);
    if (found.length === 0) return;
    this.#focus(found[(found.indexOf(this.#at) + 1) % found.length]);
  }
}

/** One of four shades by name, so that neighbours can be told apart and a function looks the same everywhere. */
function shade(text) {
  let sum = 0;
  for (let i = 0; i < text.length; i += 1) sum = (sum * 31 + text.charCodeAt(i)) >>> 0;
  return sum % 4;
}
