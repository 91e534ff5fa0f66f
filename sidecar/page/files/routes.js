// The routes: where DNS, HAProxy, PgBouncer and written files lead clients, here and on
// other hosts, as each says itself.
import { make, show, byId, table } from './dom.js';

let elsewhere = { routes: [] };

// keepElsewhere keeps what other hosts said last; the next showRoutes has it.
export function keepElsewhere(said) {
  elsewhere = said;
}

// switched are the rows of one host's HAProxies, PgBouncers and files.
function switched(t, host, check) {
  const at = (where) => (host ? `${host}: ${where}` : where);
  const odd = check && check !== 'passing' ? `its check is ${check}` : '';
  const rows = [];
  for (const p of t.haproxy || []) rows.push(['HAProxy', at(p.socket), p.primary ? `${p.primary}, term ${p.term}` : 'unknown', p.error || odd || (p.connected ? 'connected' : 'not connected')]);
  for (const p of t.pgbouncer || []) rows.push(['PgBouncer', at(p.address), p.paused ? 'paused' : 'open', p.error || odd]);
  for (const f of t.templates || []) rows.push(['file', at(f.destination), f.term ? `term ${f.term}` : 'not written', f.error || odd]);
  return rows;
}

export function showRoutes(s) {
  const named = s.registered || [], t = s.templates || {};
  const of = (tag) => named.filter((r) => (r.tags || []).includes(tag) && r.status !== 'critical').map((r) => `${r.member} (${r.address})`).join(', ') || 'nobody';
  const rows = [['DNS', `primary.${s.service}.service.consul`, of('primary'), ''], ['DNS', `replica.${s.service}.service.consul`, of('replica'), '']];
  rows.push(...switched(t, '', ''));
  for (const r of elsewhere.routes || []) {
    if (r.templates) rows.push(...switched(r.templates, r.host, r.check));
    else rows.push(['proxy', r.host, 'unknown', r.problem]);
  }
  const proxies = rows.some((r) => r[0] !== 'DNS' && r[0] !== 'file');
  show(byId('routes').lastElementChild, [rows, elsewhere.problem], () => [
    table(['by', 'where', 'leads to', ''], rows),
    elsewhere.problem ? make('p', { class: 'quiet' }, 'The proxies are not known: ' + elsewhere.problem) : null,
    proxies || elsewhere.problem ? null : make('p', { class: 'quiet' }, 'No HAProxy and no PgBouncer is known. ', make('code', {}, 'pgsidecar help proxy'), ' says how one is registered.'),
  ]);
}
