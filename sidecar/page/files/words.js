// Numbers as people read them.

export function bytes(n) {
  if (n === null || n === undefined) return 'unknown';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let u = 0;
  while (n >= 1024 && u < units.length - 1) { n /= 1024; u++; }
  return (u === 0 ? n : n.toFixed(n < 10 ? 1 : 0)) + ' ' + units[u];
}

export function seconds(s) {
  if (s === null || s === undefined) return 'unknown';
  if (s < 0) return 'never';
  if (s < 0.9995) return Math.round(s * 1000) + ' ms';
  if (s < 59.5) return s.toFixed(s < 9.95 ? 1 : 0) + ' s';
  s = Math.round(s);
  if (s < 3600) return Math.floor(s / 60) + ' min ' + (s % 60) + ' s';
  if (s < 86400) return Math.floor(s / 3600) + ' h ' + Math.floor((s % 3600) / 60) + ' min';
  const days = Math.floor(s / 86400);
  return days + (days === 1 ? ' day ' : ' days ') + Math.floor((s % 86400) / 3600) + ' h';
}

export const time = (text) => (text ? new Date(text).toLocaleString() : 'unknown');

// percent has as many digits as the nines need, and never rounds up to 100. What nobody saw
// is not up.
export function percent(share) {
  if (share === null || share === undefined) return 'unknown';
  if (share >= 1) return '100 %';
  const digits = share <= 0 ? 2 : Math.min(Math.max(Math.floor(-Math.log10(1 - share)), 2), 8);
  return (Math.floor(share * 100 * 10 ** digits) / 10 ** digits).toFixed(digits) + ' %';
}

// position is a position in the log as a number: both halves are hexadecimal.
export function position(lsn) {
  const [high, low] = String(lsn || '0/0').split('/');
  return parseInt(high, 16) * 2 ** 32 + parseInt(low, 16);
}
