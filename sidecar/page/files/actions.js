// What may be changed. Each asks for the API's token, which is kept nowhere, and shows
// the command that does the same.
import { make, byId, quote } from './dom.js';

// An action has a title, what it does, fields, its request and its command.
const dialog = byId('ask');
let current = null;

export function actions(status) {
  const others = status.members.filter((m) => m.member !== status.leader).map((m) => m.member);
  return [
    button('switchover', 'Switchover…', {
      title: 'Switchover', about: 'Hand the lead over, without losing anything.',
      fields: [{ name: 'candidate', label: 'New primary', choices: ['', ...others], first: 'the best' }],
      request: (v) => ['POST', 'switchover', { leader: status.leader, candidate: v.candidate || undefined }],
      command: (v) => 'pgsidecar switchover' + (v.candidate ? ' --to ' + quote(v.candidate) : ''),
    }, !status.leader || others.length === 0),
    status.paused
      ? button('resume', 'Resume…', {
        title: 'Resume', about: 'End maintenance: members fail over again.', fields: [],
        request: () => ['POST', 'resume', {}], command: () => 'pgsidecar resume',
      })
      : button('pause', 'Pause…', {
        title: 'Pause', about: 'Begin maintenance: nobody fails over until it ends.',
        fields: [{ name: 'length', label: 'How long', value: '30m' }, { name: 'reason', label: 'Why', value: '' }],
        request: (v) => ['POST', 'pause', { for: v.length, reason: v.reason || undefined }],
        command: (v) => 'pgsidecar pause --for ' + quote(v.length) + (v.reason ? ' --reason ' + quote(v.reason) : ''),
      }),
  ];
}

// memberActions are those of one member: its own API does them, and only its own page
// can ask that.
export function memberActions(m, status) {
  if (m.link !== 'self') return null;
  const name = quote(m.member);
  return make('div', { class: 'buttons' },
    button('restart', 'Restart…', {
      title: 'Restart ' + m.member, about: 'Restart the PostgreSQL server of this member.' + (m.member === status.leader ? ' It is the primary: writes wait meanwhile.' : ''),
      fields: [], request: () => ['POST', 'restart', {}], command: () => 'pgsidecar restart ' + name,
    }),
    button('reload', 'Reload…', {
      title: 'Reload ' + m.member, about: 'Read the configuration of this member again.',
      fields: [], request: () => ['POST', 'reload', {}], command: () => 'pgsidecar reload ' + name,
    }),
    button('reinit', 'Reinit…', {
      title: 'Reinit ' + m.member, about: 'Throw the data of this member away, and clone it anew.',
      fields: [], request: () => ['POST', 'reinitialize', {}], command: () => 'pgsidecar reinit ' + name + ' --yes',
    }, m.member === status.leader));
}

function button(name, text, action, disabled = false) {
  return make('button', { type: 'button', 'data-action': name, 'data-key': 'do ' + name, disabled, onclick: () => open(action) }, text);
}

function open(action) {
  current = action;
  byId('ask-title').textContent = action.title;
  byId('ask-about').textContent = action.about;
  byId('ask-answer').textContent = '';
  byId('ask-token').value = '';
  byId('ask-do').disabled = false;
  byId('ask-fields').replaceChildren(...action.fields.map((f) => {
    const input = f.choices
      ? make('select', { name: f.name }, f.choices.map((c) => make('option', { value: c }, c || f.first)))
      : make('input', { name: f.name, value: f.value, autocomplete: 'off' });
    input.addEventListener('input', tell);
    return make('label', {}, f.label + ' ', input);
  }));
  tell();
  dialog.showModal();
}

const values = () => Object.fromEntries([...byId('ask-fields').querySelectorAll('[name]')].map((e) => [e.name, e.value]));

function tell() {
  byId('ask-command').textContent = current.command(values());
}

async function send(event) {
  event.preventDefault();
  const answer = byId('ask-answer'), token = byId('ask-token');
  const [method, path, body] = current.request(values());
  const headers = { 'Content-Type': 'application/json' };
  if (token.value) headers.Authorization = 'Bearer ' + token.value;
  token.value = '';
  byId('ask-do').disabled = true;
  answer.className = '';
  answer.textContent = 'asked; waiting for the answer';
  try {
    const response = await fetch(path, { method, headers, body: JSON.stringify(body), credentials: 'omit', cache: 'no-store' });
    const text = await response.text();
    answer.className = response.ok ? 'good' : 'bad';
    answer.textContent = (response.ok ? '' : 'refused (' + response.status + '): ') + (text.trim() || 'done');
  } catch {
    answer.className = 'bad';
    answer.textContent = 'this member does not answer';
  }
  byId('ask-do').disabled = false;
}

dialog.querySelector('form').addEventListener('submit', send);
byId('ask-close').addEventListener('click', () => dialog.close());
