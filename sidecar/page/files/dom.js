// Elements from data. Whatever is shown was written by somebody else, so that nothing
// here makes markup of text: text is only ever a text node.

// make returns an element with attributes and children; what is no node becomes text.
export function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

const pictures = 'http://www.w3.org/2000/svg';

// draw is make for parts of a picture.
export function draw(name, attributes = {}, ...children) {
  return fill(document.createElementNS(pictures, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key === 'onclick') element.addEventListener('click', value);
    else if (value === true) element.setAttribute(key, '');
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(key, String(value));
  }
  element.append(...children.flat(9).filter((c) => c !== null && c !== undefined && c !== false && c !== ''));
  return element;
}

export const byId = (id) => document.getElementById(id);

// show replaces what is in an element, if it is another than the last time: focus and
// selection stay where nothing has changed.
const shown = new WeakMap();
export function show(element, version, children) {
  const key = JSON.stringify(version);
  if (shown.get(element) === key) return;
  shown.set(element, key);
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.key : '';
  const open = new Set([...element.querySelectorAll('details[open]')].map((d) => d.dataset.key));
  element.replaceChildren(...[children()].flat(9).filter(Boolean));
  for (const d of element.querySelectorAll('details')) if (open.has(d.dataset.key)) d.open = true;
  if (focused) for (const e of element.querySelectorAll('[data-key]')) if (e.dataset.key === focused) e.focus();
}

// link is an address that a member gave, if it is one of the web and of no other sort.
export function apiLink(address, path) {
  if (!address) return null;
  try {
    const url = new URL(location.protocol + '//' + address + path);
    return url.username === '' && url.password === '' && url.host !== '' ? url.href : null;
  } catch {
    return null;
  }
}

// quote makes one word of a shell's command line.
export const quote = (word) => (/^[A-Za-z0-9_.:/=@%+-]+$/.test(word) ? word : "'" + String(word).replaceAll("'", "'\\''") + "'");

// command is a command with a button that copies it.
export function command(text) {
  const button = make('button', { type: 'button', 'aria-label': 'Copy the command', 'data-key': 'copy ' + text }, 'Copy');
  button.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = 'Copied';
    } catch {
      button.textContent = 'Select it, and copy';
    }
  });
  return make('div', { class: 'command' }, make('pre', { tabindex: 0 }, text), button);
}

// table keeps a number and its unit in one line; a cell with more text than that is broken.
export function table(heads, rows) {
  const cell = (c) => make('td', { class: typeof c !== 'object' && String(c).length <= 26 ? 'short' : '' }, c);
  return make('div', { class: 'scroll' }, make('table', {},
    make('thead', {}, make('tr', {}, heads.map((h) => make('th', { scope: 'col' }, h)))),
    make('tbody', {}, rows.map((r) => make('tr', {}, r.map(cell))))));
}
