// The members: a picture of who follows whom, and a card each.
import { make, draw, show, byId, apiLink } from './dom.js';
import { bytes, seconds } from './words.js';
import { memberActions } from './actions.js';

const away = (m) => m.link !== 'self' && m.link !== 'up';

// state is what a member does, in a few words.
export function state(m) {
  if (away(m)) return m.heard_seconds_ago < 0 ? 'not heard' : m.link;
  if (m.role === 'primary') return m.writable ? 'writable' : 'not writable';
  if (m.streaming) return m.voter ? 'streaming, voter' : 'streaming';
  return m.role === 'stopped' ? 'stopped' : 'not streaming';
}

export function showMembers(status) {
  show(byId('links'), status.members.map((m) => [m.member, m.role, state(m), m.term]).concat([status.leader]), () => picture(status));
  const cards = byId('cards');
  const order = [...status.members].sort((a, b) => (b.member === status.leader) - (a.member === status.leader));
  const names = order.map((m) => m.member);
  show(cards, [names, status.member], () => order.map((m) => make('article', { 'data-member': m.member })));
  order.forEach((m, i) => card(cards.children[i], m, status));
}

function card(element, m, status) {
  const leads = m.member === status.leader;
  element.className = away(m) ? 'away' : leads && m.writable ? 'primary' : '';
  const rows = [
    ['term', m.term],
    ['timeline', m.position.tli || 'unknown'],
    ['position', m.position.tli ? m.position.lsn : 'unknown'],
    leads ? null : ['lag', bytes(m.lag_bytes) + (m.lag_seconds > 0.05 ? ', ' + seconds(m.lag_seconds) : '')],
    ['heard', m.link === 'self' ? 'this member' : m.heard_seconds_ago < 0 ? 'never' : seconds(m.heard_seconds_ago) + ' ago'],
    leads && m.link === 'self' ? ['lease left', seconds(status.lease_left_seconds)] : ['lease', m.lease_seconds ? seconds(m.lease_seconds) : 'unknown'],
    ['PostgreSQL', m.postgres || 'unknown'],
    ['pgsidecar', m.version || 'unknown'],
  ].filter(Boolean);
  const odd = [
    m.pending_restart && 'waits for a restart',
    m.strayed && 'has strayed: ' + m.strayed,
    m.hidden && 'not in DNS: ' + m.hidden,
    m.replay_paused && 'replay is paused: ' + m.replay_paused,
    !m.recorded && 'not on the record: it may not lead',
    m.blocked && 'waits: ' + m.blocked,
  ].filter(Boolean);
  const page = m.link === 'self' ? null : apiLink(m.api, '/ui');
  if (element.children.length === 0) element.append(make('div'), make('div'));
  const [facts, buttons] = element.children;
  show(facts, [rows, odd, state(m), m.role, leads, page], () => [
    make('header', {}, make('h3', {}, m.member), make('span', { class: 'mark ' + (away(m) ? 'bad' : leads ? 'good' : '') }, (leads ? 'leader, ' : '') + m.role)),
    make('p', { class: away(m) ? 'bad' : 'quiet', 'data-field': 'state' }, state(m)),
    make('dl', {}, rows.map(([name, value]) => [make('dt', {}, name), make('dd', { 'data-field': name }, String(value))])),
    odd.map((text) => make('p', { class: 'warn' }, text)),
    page ? make('p', {}, make('a', { href: page, rel: 'noreferrer', 'data-key': 'page ' + m.member }, 'Its own page')) : null,
  ]);
  // Apart, so that a button stays while the numbers change: it may just be pressed.
  show(buttons, [m.member, m.link, leads], () => memberActions(m, status));
}

// picture has the leader above, and a line to each member that follows it.
function picture(status) {
  const others = status.members.filter((m) => m.member !== status.leader);
  const leader = status.members.find((m) => m.member === status.leader);
  const width = 150, gap = 20, across = Math.max(others.length, 1) * (width + gap) - gap + 4;
  const centre = across / 2;
  const node = (m, x, y) => [
    draw('rect', { class: 'node ' + (away(m) ? 'away' : m.member === status.leader ? 'primary' : ''), x: x + 2, y, width, height: 40, rx: 6 }),
    draw('text', { x: x + 2 + width / 2, y: y + 17, 'text-anchor': 'middle' }, short(m.member)),
    draw('text', { class: 'small', x: x + 2 + width / 2, y: y + 32, 'text-anchor': 'middle' }, state(m)),
  ];
  const parts = others.map((m, i) => {
    const x = i * (width + gap);
    const kind = away(m) || !m.streaming ? 'none' : m.voter ? '' : 'async';
    return [draw('path', { class: 'flow ' + kind, d: `M ${centre} 42 C ${centre} 70, ${x + width / 2 + 2} 60, ${x + width / 2 + 2} 90` }), node(m, x, 90)];
  });
  const words = others.map((m) => m.member + ' ' + state(m)).join('; ');
  return draw('svg', { viewBox: `0 0 ${across} 134`, width: across, role: 'img', 'aria-label': 'Leader ' + (status.leader || 'none') + '. ' + words },
    leader ? node(leader, centre - width / 2 - 2, 2) : draw('text', { x: centre, y: 24, 'text-anchor': 'middle' }, 'no leader'), parts.flat(3));
}

const short = (name) => (name.length > 18 ? name.slice(0, 17) + '…' : name);
