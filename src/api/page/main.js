// SPDX-License-Identifier: Apache-2.0
// The frame of the page: which view is shown, how the node is, and the token where one is asked for.

import { every, one, token } from './api.js';
import { failure, h, put, say } from './dom.js';
import { span, ms } from './format.js';
import { overview } from './overview.js';
import { incidents } from './incidents.js';
import { incident } from './incident.js';
import { events } from './events.js';
import { collectors } from './collectors.js';

const VIEWS = {
  '': ['overview', 'Now', overview],
  incidents: ['incidents', 'Incidents', incidents],
  events: ['events', 'Events', events],
  collectors: ['collectors', 'Collectors', collectors],
};
const REFRESH_MS = 5_000;

const main = document.getElementById('main');
const health = document.getElementById('health');
let leave = new AbortController();

/** `#/incidents/ID?range=1h` as view, rest of the path and parameters. */
function route() {
  const [path, query] = location.hash.replace(/^#\/?/, '').split('?');
  const [name, ...rest] = path.split('/').map(decodeURIComponent);
  return { name, rest, parameters: new URLSearchParams(query) };
}

function show() {
  leave.abort();
  leave = new AbortController();
  const at = route();
  let [view, title, draw] = VIEWS[at.name] ?? ['', 'Not found', null];
  if (at.name === 'incidents' && at.rest[0]) [title, draw] = [`Incident ${at.rest[0].slice(0, 12)}`, incident];
  document.title = `${title} · ${document.getElementById('node').textContent || 'bianque'}`;
  for (const a of document.querySelectorAll('nav a[data-view]')) {
    if (a.dataset.view === view) a.setAttribute('aria-current', 'page');
    else a.removeAttribute('aria-current');
  }
  main.replaceChildren();
  if (!draw) {
    main.append(failure(new Error('There is no such view')));
    return;
  }
  const { signal } = leave;
  Promise.resolve(draw(main, { ...at, signal, refused })).catch((e) => { if (!signal.aborted) refused(e); });
}

/** What a view could not do: a wrong or missing token is asked for, all else is said. */
function refused(error) {
  if (error.name === 'AbortError') return;
  if (error.status === 401) askToken();
  else if (!main.querySelector('.failure')) main.prepend(failure(error));
}

function askToken() {
  leave.abort();
  if (main.querySelector('#token')) return;
  const wrong = token.get() !== null;
  token.forget();
  const input = h('input', { id: 'token', type: 'password', autocomplete: 'current-password', required: true, 'aria-describedby': 'token-help' });
  const submit = (e) => {
    e.preventDefault();
    token.set(input.value.trim());
    refresh();
    show();
  };
  main.replaceChildren(h('form', { class: 'card token', onsubmit: submit },
    h('h1', null, 'This agent asks for a token'),
    wrong ? h('p', { class: 'failure', role: 'alert' }, 'That was not it.') : null,
    h('label', { for: 'token' }, 'Token'), input,
    h('p', { id: 'token-help', class: 'dim' }, 'The content of the file that http.token_file names on the node. It is kept until this tab is closed.'),
    h('button', { type: 'submit', class: 'primary' }, 'Open')));
  input.focus();
}

async function refresh() {
  try {
    const node = await one('/v1/node');
    const name = node.resource['k8s.node.name'] ?? node.resource['host.name'] ?? '';
    say(document.getElementById('node'), name);
    const failed = node.ready ? null : node.store.state === 'ok' ? 'a collector has failed' : 'the store is degraded';
    const open = node.incidents_open ?? 0;
    health.className = `health ${failed ? 'error' : open ? 'warn' : 'ok'}`;
    say(health, failed ?? (open ? `${open} ${open === 1 ? 'incident' : 'incidents'} open` : 'All is well'));
    put(document.getElementById('foot'),
      `bianque ${node.agent.version}, up ${span((Date.now() - ms(node.agent.started)) / 1000)} on Linux ${node.resource['os.version'] ?? ''}`, ' · ',
      h('a', { href: '/metrics' }, '/metrics'), ' · ', h('a', { href: '/readyz' }, '/readyz'));
    main.querySelector(':scope > .failure.gone')?.remove();
  } catch (e) {
    if (e.status === 401) return;
    health.className = 'health error';
    say(health, e.status === 0 ? 'No answer' : e.message);
  }
}

window.addEventListener('hashchange', () => {
  // "Skip to the content" is no view.
  if (location.hash === '#main') return;
  show();
  window.scrollTo(0, 0);
  main.focus({ preventScroll: true });
});
if (location.hash === '#main') history.replaceState(null, '', '#/');
every(REFRESH_MS, refresh, new AbortController().signal);
show();
