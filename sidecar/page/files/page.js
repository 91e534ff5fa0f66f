// The page: listens to the member's events, and shows them.
import { make, show, byId, apiLink, command } from './dom.js';
import { seconds } from './words.js';
import { showMembers } from './members.js';
import { showRoutes, keepElsewhere } from './routes.js';
import { actions } from './actions.js';
import { showTerms, showAvailability, showSettings, showDrill, showBackups } from './past.js';
import { addSample } from './plots.js';

let heardAt = 0;
let askedFor = null;

function showHead(s) {
  document.title = s.cluster + ' · pgsidecar';
  byId('cluster').textContent = s.cluster;
  const d = s.durability || {};
  const parts = [`term ${s.term}`, s.leader ? `leader ${s.leader}` : 'no leader', s.phase,
    d.mode === 'quorum' && d.k > 0 ? `quorum: ${d.k} of ${(d.voters || []).join(', ')} hold each acknowledged commit` : d.mode,
    `as ${s.member} sees it`];
  const summary = byId('summary');
  summary.dataset.leader = s.leader;
  summary.dataset.term = s.term;
  summary.textContent = parts.filter(Boolean).join(' · ');
}

// showBlocks has what the cluster waits for, each with the command that continues.
function showBlocks(s) {
  const blocks = byId('blocks');
  const notes = [
    s.paused && 'Maintenance: nobody fails over' + (s.paused_until ? ' until ' + new Date(s.paused_until).toLocaleString() : '') + (s.paused_reason ? ' (' + s.paused_reason + ')' : '') + '.',
    s.scheduled_switchover && 'A switchover' + (s.scheduled_switchover.to ? ' to ' + s.scheduled_switchover.to : '') + ' is planned for ' + new Date(s.scheduled_switchover.at).toLocaleString() + '.',
    s.switchover_refused && 'The switchover cannot begin: ' + s.switchover_refused,
    s.problem && 'This server: ' + s.problem,
    s.config_problem && 'PostgreSQL refuses a file: ' + s.config_problem,
    s.consul.problem && 'Consul: ' + s.consul.problem,
    s.consul.reachable === 'no' && 'Consul does not answer this member.',
    s.decided_seconds_ago > 10 && 'This member has decided nothing for ' + seconds(s.decided_seconds_ago) + ': what follows is old.',
  ].filter(Boolean);
  blocks.hidden = s.blocks.length === 0 && notes.length === 0;
  show(blocks, [s.blocks.map((b) => [b.what, b.missing, b.override, b.cost, Math.floor(b.since_seconds / 5)]), notes], () => [
    notes.map((n) => make('p', {}, n)),
    s.blocks.map((b) => make('div', { class: 'block' },
      make('h3', {}, b.what, make('span', { class: 'quiet' }, ' since ' + seconds(b.since_seconds))),
      make('p', {}, 'waiting for: ' + b.missing),
      b.override ? [make('p', {}, 'override:'), command(b.override)] : null,
      b.cost ? make('p', { class: 'warn' }, 'risk: ' + b.cost) : null)),
  ]);
}

function showClusters(all) {
  const nav = byId('clusters');
  nav.hidden = all.length < 2;
  show(nav, all, () => make('p', {}, 'Clusters of this Consul: ', all.map((c, i) => {
    const href = apiLink(c.api, '/ui'), words = `${c.cluster} (${c.healthy} of ${c.members}${c.primary ? ', primary ' + c.primary : ', no primary'})`;
    return [i ? ', ' : '', href ? make('a', { href, rel: 'noreferrer', 'data-key': 'cluster ' + c.cluster }, words) : words];
  })));
}

// seldom asks for what no event tells, and what this member must ask Consul for: at the
// beginning, with a new term, each minute.
async function seldom(s) {
  const key = s.term + ' ' + Math.floor(Date.parse(s.at) / 60000);
  if (askedFor === key) return;
  askedFor = key;
  try {
    const response = await fetch('ui/seldom', { credentials: 'omit', cache: 'no-store' });
    const found = await response.json();
    if (found.clusters) showClusters(found.clusters);
    showDrill(found.drill);
  } catch {
    askedFor = null; // the member is away; its next event asks again
  }
}

function live(s) {
  heardAt = performance.now();
  connected();
  showHead(s);
  showBlocks(s);
  show(byId('actions'), [s.leader, s.paused, s.members.map((m) => m.member)], () => actions(s));
  showMembers(s);
  showRoutes(s);
  showBackups(s);
  addSample(s);
  seldom(s);
}

function past(p) {
  showTerms(p.terms);
  showAvailability(p);
  showSettings(p);
}

function connected() {
  const c = byId('connection');
  const away = performance.now() - heardAt > 4000;
  c.classList.toggle('lost', away);
  const words = away ? 'this member has not answered for ' + seconds((performance.now() - heardAt) / 1000) : 'live';
  if (c.textContent !== words) c.textContent = words;
}

// A browser connects again by itself when a stream breaks, but not when it was refused.
let stream;
function listen() {
  stream = new EventSource('ui/events');
  stream.addEventListener('live', (e) => live(JSON.parse(e.data)));
  stream.addEventListener('past', (e) => past(JSON.parse(e.data)));
  stream.addEventListener('elsewhere', (e) => keepElsewhere(JSON.parse(e.data)));
  stream.addEventListener('error', () => { if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 10000); });
}
listen();
setInterval(connected, 2000);
