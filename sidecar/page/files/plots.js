// Lag, write rate and lease as they were since the page was opened.
import { make, byId } from './dom.js';
import { bytes, seconds, position } from './words.js';

const kept = 600; // seconds
const least = 60; // seconds that a plot shows, also when there are fewer
const samples = [];
let plots = [];
let names = '';
let last = null;

const colours = ['#2a7ae2', '#d98a2b', '#3aa76d', '#8e6bd8', '#c2446b', '#5a6575', '#0aa2c0'];
const text = () => getComputedStyle(document.body).color;
const line = () => getComputedStyle(document.documentElement).getPropertyValue('--line').trim() || '#ccc';

export function addSample(status) {
  const now = Date.parse(status.at) / 1000;
  const leader = status.members.find((m) => m.member === status.leader);
  const at = leader ? position(leader.position.lsn) : 0;
  let rate = null;
  if (last && at >= last.at && last.leader === status.leader && now - last.now >= 0.5) rate = (at - last.at) / (now - last.now);
  if (last && now - last.now < 0.5) return;
  last = { now, at, leader: status.leader };
  const replicas = status.members.filter((m) => m.member !== status.leader);
  samples.push({ now, rate, lags: Object.fromEntries(replicas.map((m) => [m.member, m.lag_bytes])),
    lease: status.leader === status.member ? status.lease_left_seconds : null,
    heard: leader && status.leader !== status.member && leader.heard_seconds_ago >= 0 ? leader.heard_seconds_ago : null });
  while (samples.length && samples[0].now < now - kept) samples.shift();
  draw(status);
}

function draw(status) {
  if (typeof uPlot === 'undefined') return;
  const members = status.members.map((m) => m.member).sort();
  if (names !== members.join('\n')) build(members);
  const begin = samples[samples.length - 1].now - least;
  const shown = begin < samples[0].now ? [{ now: begin, lags: {} }, ...samples] : samples;
  const of = (value) => shown.map((s) => value(s) ?? null);
  const x = of((s) => s.now);
  const data = [
    [x, ...members.map((m) => of((s) => s.lags[m]))],
    [x, of((s) => s.rate)],
    [x, of((s) => s.lease), of((s) => s.heard)],
  ];
  plots.forEach((p, i) => p.setData(data[i]));
}

function build(members) {
  names = members.join('\n');
  plots.forEach((p) => p.destroy());
  const area = byId('plot-area');
  area.replaceChildren();
  const one = (title, series, unit) => {
    const box = make('div', { role: 'img', 'aria-label': title });
    area.append(box);
    const axis = { stroke: text, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    return new uPlot({
      title, width: Math.max(box.clientWidth, 200), height: 190,
      series: [{ label: 'time' }, ...series.map((label, i) => ({ label, stroke: colours[i % colours.length], width: 2, spanGaps: false, value: (u, v) => (v === null || v === undefined ? '-' : unit(v)) }))],
      axes: [axis, { ...axis, size: 70, values: (u, all) => all.map(unit) }],
      scales: { y: { range: (u, low, high) => [0, Math.max(high || 0, 1)] } },
      legend: { live: true },
    }, [[], ...series.map(() => [])], box);
  };
  plots = [one('Lag of each replica', members, bytes), one('Log written per second', ['rate'], bytes),
    one('Lease', ['lease left', 'leader heard'], seconds)];
}

const resize = new ResizeObserver(() => {
  for (const p of plots) p.setSize({ width: Math.max(p.root.parentElement.clientWidth, 200), height: 190 });
});
resize.observe(byId('plot-area'));
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => plots.forEach((p) => p.redraw()));
