/** Line plots as SVG: means over seeds with bars from the smallest to the largest. No script, no style sheet, no other file. */
import type { Summary } from './statistics.js';

export interface Point {
  readonly x: number;
  readonly y: Summary;
}

export interface Series {
  readonly name: string;
  readonly points: readonly Point[];
  /** A level to compare with instead of a measurement: dashed, without marks. */
  readonly reference?: boolean;
}

export interface Plot {
  /** File name without extension. */
  readonly name: string;
  readonly title: string;
  readonly x: string;
  readonly y: string;
  /** Ticks at these positions with these labels; by default at every x that has a point. */
  readonly ticks?: readonly (readonly [at: number, label: string])[];
  readonly logX?: boolean;
  readonly logY?: boolean;
  readonly series: readonly Series[];
}

const WIDTH = 680;
const HEIGHT = 360;
const LEFT = 72;
const RIGHT = 200;
const TOP = 40;
const BOTTOM = 52;
/** Okabe and Ito's colours, which colour-blind readers can tell apart; marks differ as well. */
const COLORS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9'];
const INK = '#333';

export function escaped(text: string): string {
  return text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!);
}

/** Round steps of 1, 2 or 5 times a power of ten, about `count` of them. */
export function niceTicks(low: number, high: number, count = 5): number[] {
  const rough = (high - low) / count || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough)!;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(1, last - first + 1) }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

function powerTicks(low: number, high: number): number[] {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const every = Math.ceil((last - first) / 6) || 1;
  return Array.from({ length: Math.floor((last - first) / every) + 1 }, (_, i) => 10 ** (first + i * every));
}

const SUFFIXES = ['', 'k', 'M', 'G', 'T', 'P'] as const;

/** 1500 -> "1.5k"; powers of a thousand have letters, what is beyond them an exponent. */
export function tickLabel(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e18 || (size > 0 && size < 1e-3)) return value.toExponential(0);
  const power = size >= 1000 ? Math.min(SUFFIXES.length - 1, Math.floor(Math.log10(size) / 3 + 1e-9)) : 0;
  return `${Number((value / 1000 ** power).toPrecision(4))}${SUFFIXES[power]}`;
}

interface Axis {
  readonly at: (value: number) => number;
  readonly ticks: readonly (readonly [at: number, label: string])[];
}

function axis(
  values: readonly number[],
  [from, to]: readonly [from: number, to: number],
  { log = false, ticks, margin }: { log?: boolean | undefined; ticks?: Plot['ticks']; margin: number },
): Axis {
  const map = log ? Math.log10 : (v: number) => v;
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (log && !ticks) [low, high] = [powerTicks(low, high)[0]!, powerTicks(low, high).at(-1)!];
  const room = (map(high) - map(low) || Math.abs(map(high)) || 1) * margin;
  const [start, end] = log && !ticks && low !== high ? [map(low), map(high)] : [map(low) - room, map(high) + room];
  const own = log ? powerTicks(low, high) : niceTicks(start, end);
  return {
    at: (value) => from + ((map(value) - start) / (end - start)) * (to - from),
    ticks: ticks ?? own.map((t) => [t, tickLabel(t)] as const),
  };
}

function mark(index: number, x: number, y: number, color: string): string {
  const at = `fill="${color}"`;
  if (index % 3 === 0) return `<circle cx="${x}" cy="${y}" r="4" ${at}/>`;
  if (index % 3 === 1) return `<rect x="${x - 3.5}" y="${y - 3.5}" width="7" height="7" ${at}/>`;
  return `<path d="M${x} ${y - 5}L${x + 4.5} ${y + 3.5}H${x - 4.5}Z" ${at}/>`;
}

function drawSeries({ name, points, reference }: Series, index: number, x: Axis, y: Axis): string[] {
  const color = reference ? '#777' : COLORS[index % COLORS.length]!;
  const place = points.map((p) => ({ x: round(x.at(p.x)), y: round(y.at(p.y.mean)), ...p.y }));
  const dash = reference ? ' stroke-dasharray="5 4"' : '';
  const line = place.map((p) => `${p.x},${p.y}`).join(' ');
  const bars = place.flatMap(({ x: at, low, high, n }) => {
    if (reference || n < 2) return [];
    const [top, bottom] = [round(y.at(high)), round(y.at(low))];
    return [`<path d="M${at} ${top}V${bottom}M${at - 4} ${top}h8M${at - 4} ${bottom}h8" stroke="${color}"/>`];
  });
  const key = TOP + 8 + index * 20;
  return [
    `<polyline points="${line}" fill="none" stroke="${color}" stroke-width="2"${dash}/>`,
    ...bars,
    ...(reference ? [] : place.map((p) => mark(index, p.x, p.y, color))),
    `<path d="M${WIDTH - RIGHT + 12} ${key}h18" stroke="${color}" stroke-width="2"${dash}/>`,
    ...(reference ? [] : [mark(index, WIDTH - RIGHT + 21, key, color)]),
    `<text x="${WIDTH - RIGHT + 36}" y="${key + 4}">${escaped(name)}</text>`,
  ];
}

const round = (value: number): number => Math.round(value * 10) / 10;

/** The plot as an SVG element; undefined where no series has a point. */
export function drawPlot(plot: Plot): string | undefined {
  const series = plot.series.filter(({ points }) => points.length > 0);
  const points = series.flatMap((s) => s.points);
  if (points.length === 0) return undefined;
  const xs = [...new Set(points.map((p) => p.x))].sort((a, b) => a - b);
  const ticks = plot.ticks ?? (xs.length <= 8 ? xs.map((v) => [v, tickLabel(v)] as const) : undefined);
  const x = axis(xs, [LEFT, WIDTH - RIGHT], { log: plot.logX, ticks, margin: 0.04 });
  const ys = points.flatMap(({ y: { low, high } }) => [low, high]);
  const y = axis(ys, [HEIGHT - BOTTOM, TOP], { log: plot.logY, margin: 0.06 });
  const [right, bottom] = [WIDTH - RIGHT, HEIGHT - BOTTOM];
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" font-family="system-ui, sans-serif" font-size="12" fill="${INK}" role="img">`,
    `<title>${escaped(plot.title)}</title>`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
    `<text x="${LEFT}" y="22" font-size="14" font-weight="600">${escaped(plot.title)}</text>`,
    ...y.ticks.flatMap(([value, label]) => {
      const at = round(y.at(value));
      return [
        `<path d="M${LEFT} ${at}H${right}" stroke="#ddd"/>`,
        `<text x="${LEFT - 8}" y="${at + 4}" text-anchor="end">${escaped(label)}</text>`,
      ];
    }),
    ...x.ticks.map(([value, label]) => {
      const at = round(x.at(value));
      return `<path d="M${at} ${bottom}v5" stroke="${INK}"/><text x="${at}" y="${bottom + 19}" text-anchor="middle">${escaped(label)}</text>`;
    }),
    `<path d="M${LEFT} ${bottom}H${right}" stroke="${INK}"/>`,
    `<text x="${(LEFT + right) / 2}" y="${HEIGHT - 12}" text-anchor="middle">${escaped(plot.x)}</text>`,
    `<text transform="rotate(-90)" x="${-(TOP + bottom) / 2}" y="18" text-anchor="middle">${escaped(plot.y)}</text>`,
    ...series.flatMap((s, i) => drawSeries(s, i, x, y)),
    '</svg>',
  ].join('\n');
}
