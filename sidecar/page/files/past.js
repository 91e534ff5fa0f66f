// What is over: terms with their phases, outages, drills, and changes of the settings.
import { make, draw, show, byId, table } from './dom.js';
import { seconds, time, percent, bytes } from './words.js';

const phases = ['elected', 'fenced', 'promoted', 'writable', 'announced', 'routed'];

// steps are the phases that a term went through, each with its time since the loss.
function steps(term) {
  const begun = Date.parse(term.detected);
  if (!term.detected || Number.isNaN(begun)) return [];
  return phases.map((name, i) => ({ name, i, at: (Date.parse(term[name]) - begun) / 1000 }))
    .filter((s) => Number.isFinite(s.at) && s.at >= 0);
}

const kind = (term) => (!term.from ? 'bootstrap' : term.planned ? 'switchover' : 'failover');

// milliseconds: the phases of a failover are told apart by them.
const exact = (s) => (s < 10 ? Math.round(s * 1000) + ' ms' : seconds(s));

export function showTerms(terms) {
  const newest = [...(terms || [])].reverse().slice(0, 30);
  show(byId('terms').lastElementChild, newest, () => newest.length === 0
    ? make('p', { class: 'quiet' }, 'None yet.')
    : [legend(), newest.map((t) => {
      const s = steps(t), writable = s.find((x) => x.name === 'writable');
      return make('details', { 'data-key': 'term ' + t.term, 'data-term': t.term },
        make('summary', {}, `term ${t.term}: ${kind(t)} to ${t.leader}` + (t.from ? ` from ${t.from}` : ''),
          ', ' + time(t.announced || t.writable || t.detected), writable ? ', writable after ' + exact(writable.at) : '', bar(s)),
        make('p', {}, t.reason || ''),
        table(['phase', 'after the loss', 'at (UTC)'], s.map((x) => [x.name, exact(x.at), new Date(t[x.name]).toISOString().slice(11, 23)])));
    })]);
}

const legend = () => make('p', { class: 'quiet', 'aria-hidden': 'true' }, phases.map((name, i) => make('span', { class: 'key' },
  draw('svg', { viewBox: '0 0 12 12', width: 12, height: 12, class: 'swatch' }, draw('rect', { class: 'phase' + i, width: 12, height: 12 })), ' ' + name)));

// bar is a term's phases in their order, each as long as it took.
function bar(s) {
  const end = Math.max(...s.map((x) => x.at), 0);
  if (end <= 0) return null;
  const width = 600;
  let from = 0;
  const parts = s.map((x) => {
    const part = draw('rect', { class: 'phase' + x.i, x: (from / end) * width, y: 2, width: Math.max(((x.at - from) / end) * width, 1), height: 12 },
      draw('title', {}, `${x.name} after ${exact(x.at)}`));
    from = Math.max(x.at, from);
    return part;
  });
  return draw('svg', { viewBox: `0 0 ${width} 16`, width, height: 16, role: 'img', preserveAspectRatio: 'none', 'data-part': 'phases',
    'aria-label': s.map((x) => `${x.name} after ${exact(x.at)}`).join(', ') }, parts);
}

export function showAvailability(past) {
  const months = [...(past.months || [])].reverse().slice(0, 12), days = (past.days || []).filter((d) => d.outages > 0 || d.planned_seconds > 0);
  show(byId('availability').lastElementChild, [past.whole, months, days, past.outages, past.objective, past.budget, past.unread_lines], () => {
    if (!past.months) return make('p', { class: 'quiet' }, 'Nothing is known yet: the cluster has no history.');
    const length = (s) => (s === 0 ? '-' : seconds(s));
    const row = (p) => [p.name, percent(p.availability), String(p.outages), length(p.down_seconds), length(p.planned_seconds), length(p.unknown_seconds),
      ...(past.objective && past.objective.availability ? [p.budget_left_seconds < 0 ? 'spent' : seconds(p.budget_left_seconds)] : [])];
    const heads = ['time', 'available', 'outages', 'down', 'planned', 'nobody saw', ...(past.objective && past.objective.availability ? ['budget left'] : [])];
    return [
      past.unread_lines ? make('p', { class: 'warn' }, `${past.unread_lines} ${past.unread_lines === 1 ? 'line' : 'lines'} of the outages in Consul cannot be read: what was written there is in no figure.`) : null,
      past.budget ? make('p', { class: past.budget.left_seconds < 0 ? 'bad' : '' }, `Objective ${Number((past.objective.availability * 100).toPrecision(10))} %: ` +
        (past.budget.left_seconds < 0 ? `the error budget of 30 days is spent, ${seconds(-past.budget.left_seconds)} too much.` : `${seconds(past.budget.left_seconds)} of ${seconds(past.budget.total_seconds)} left in 30 days.`)) : null,
      table(heads, [past.whole, ...months, ...days].map(row)),
      make('details', { 'data-key': 'outages' }, make('summary', {}, `outages (${(past.outages || []).length})`),
        table(['from', 'length', 'kind', 'leader', 'cause'], [...(past.outages || [])].reverse().map((o) =>
          [time(o.from), exact((Date.parse(o.to) - Date.parse(o.from)) / 1000), (o.planned ? 'planned ' : '') + o.kind, o.leader, o.cause || '']))),
    ];
  });
}

// flat has a line for each value of settings.
function flat(value, prefix, into) {
  if (value !== null && typeof value === 'object' && !Array.isArray(value)) for (const [k, v] of Object.entries(value)) flat(v, prefix ? prefix + '.' + k : k, into);
  else into.push([prefix, JSON.stringify(value)]);
  return into;
}

export function showSettings(past) {
  const changes = [...(past.changes || [])].reverse().slice(0, 30);
  const stored = flat(past.config || {}, '', []);
  show(byId('settings').lastElementChild, [stored, changes], () => [
    stored.length === 0 ? make('p', { class: 'quiet' }, 'None is stored: what each pg.hcl says holds.') : table(['setting', 'value'], stored),
    make('h3', {}, 'Changes'),
    changes.length === 0 ? make('p', { class: 'quiet' }, 'None yet.') : changes.map((c) => make('details', { 'data-key': 'change ' + c.at },
      make('summary', {}, `${time(c.at)}, by ${c.by || 'unknown'}, stored by ${c.member || 'unknown'}`),
      make('pre', { tabindex: 0 }, String(c.diff || '').split('\n').map((line) =>
        make('span', { class: line.startsWith('+') ? 'plus' : line.startsWith('-') ? 'minus' : '' }, line + '\n'))))),
  ]);
}

const verdict = (d) => make('span', { class: d.passed ? 'good' : 'bad' }, d.passed ? 'passed' : 'failed: ' + (d.failures || []).join('; '));

export function showDrill(last) {
  const before = (last && last.before) || [];
  show(byId('drill'), last, () => (last
    ? [make('p', {}, make('strong', {}, 'Last drill: '), `${last.scenario}, ${time(last.at)}: writes paused for ${Math.round(last.rto_ms)} ms, ${last.rpo_rows} rows lost, `, verdict(last)),
      before.length === 0 ? null : make('details', { 'data-key': 'drills' }, make('summary', {}, `drills before it (${before.length})`),
        table(['drill', 'at', 'writes paused for', 'rows lost', ''], before.map((d) => [d.scenario, time(d.at), Math.round(d.rto_ms) + ' ms', String(d.rpo_rows), verdict(d)])))]
    : make('p', { class: 'quiet' }, 'No drill has been done. ', make('code', {}, 'pgsidecar drill live'), ' does one.')));
}

export function showBackups(status) {
  const all = status.backups || [];
  const a = status.archive;
  show(byId('backup'), [all.map((b) => [b.name, b.good, b.failed, b.running, Math.floor(b.age_seconds / 60)]), a && [a.problem, a.waiting_files, a.gaps]], () => [
    all.length === 0 ? make('p', { class: 'quiet' }, 'No backups are configured, or this member is not told of them.') : all.map((b) => make('p', {},
      make('strong', {}, `Backup ${b.name} (${b.engine}): `), b.good ? `last good one ${b.good.label}, ${seconds(b.age_seconds)} ago, by ${b.by || 'unknown'}, ${bytes(b.good.size)}` : 'there is none yet',
      b.running ? '; one is being made' : '', b.failed ? make('span', { class: 'bad' }, '; the last attempt failed') : '')),
    a ? make('p', { class: a.problem || (a.gaps || []).length ? 'bad' : '' }, `Archive ${a.backup}: ${a.waiting_files} files wait`, a.problem ? ': ' + a.problem : '', (a.gaps || []).map((g) => '; gap: ' + g)) : null,
  ]);
}
