// SPDX-License-Identifier: Apache-2.0
// Makes elements. Text is only ever text: nothing here, and nothing that uses it, parses HTML.

const SVG = 'http://www.w3.org/2000/svg';

function fill(element, props, children) {
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (key === 'style') for (const [k, v] of Object.entries(value)) element.style.setProperty(k, v);
    else if (key === 'data') Object.assign(element.dataset, value);
    else element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

/** An HTML element: `h('p', { class: 'x', onclick: f }, 'text', child)`. */
export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);

/** An SVG element. */
export const s = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

/** Puts `children` in the place of what is in `element`, and leaves it alone where nothing changed. */
export function put(element, ...children) {
  const next = h('div', null, ...children);
  if (next.childNodes.length === element.childNodes.length && [...next.childNodes].every((n, i) => n.isEqualNode(element.childNodes[i]))) return;
  element.replaceChildren(...next.childNodes);
}

/** A choice of a few: buttons of which one is pressed. */
export function choice(label, options, chosen, change) {
  const buttons = options.map(([value, text]) => h('button', {
    type: 'button', 'aria-pressed': String(value === chosen),
    onclick: (e) => {
      for (const b of buttons) b.setAttribute('aria-pressed', String(b === e.currentTarget));
      change(value);
    },
  }, text));
  return h('div', { class: 'choice', role: 'group', 'aria-label': label }, buttons);
}

/** Says something to who does not see the page. */
export const say = (element, text) => { if (element.textContent !== text) element.textContent = text; };

/** What stands where there is nothing yet. */
export const empty = (title, ...more) => h('div', { class: 'empty' }, h('p', { class: 'title' }, title), more.length ? h('p', null, more) : null);

/** A question that failed, with what the agent said. */
export const failure = (error) => h('div', { class: 'failure', role: 'alert' }, h('p', { class: 'title' }, error.message), error.expected ? h('p', null, 'Expected: ', String(error.expected)) : null);
