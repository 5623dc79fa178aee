/** Line charts as inline SVG: axes, curves with the range of what they average, and the values under the pointer. */
import { escapeHtml } from './escape.js';
import { type Format, logTicks, plain, ticksFor } from './numbers.js';
import type { Bin, Curve } from './series.js';

/** One chart. */
export interface Chart {
  readonly title: string;
  readonly curves: readonly Curve[];
  readonly format?: Format;
  /** Include zero on the axis of values. */
  readonly fromZero?: boolean;
}

const [WIDTH, HEIGHT] = [480, 250];
const [LEFT, RIGHT, TOP, BOTTOM] = [62, 18, 10, 26];
/** Values that span more than this, all positive, get a logarithmic axis. */
const LOG_SPAN = 30;

/** From values to pixels, with the ticks between. */
interface Axis {
  readonly ticks: readonly number[];
  at(value: number): number;
}

interface AxisOptions {
  readonly low: number;
  readonly high: number;
  /** Pixels of both ends. */
  readonly begin: number;
  readonly end: number;
  readonly format: Format;
  readonly log?: boolean;
}

function axis({ low, high, begin, end, format, log = false }: AxisOptions): Axis {
  const of = log ? Math.log : (v: number): number => v;
  const span = of(high) - of(low);
  return {
    ticks: log ? logTicks(low, high) : ticksFor(format, low, high, 6),
    at: (value) => begin + (span > 0 ? (of(value) - of(low)) / span : 0.5) * (end - begin),
  };
}

function valueAxis(curves: readonly Curve[], format: Format, fromZero: boolean): Axis {
  const means = curves.flatMap(({ bins }) => bins.map(({ mean }) => mean));
  const [least, most] = [Math.min(...means), Math.max(...means)];
  const ends = { begin: HEIGHT - BOTTOM, end: TOP, format };
  if (!fromZero && least > 0 && most / least > LOG_SPAN) return axis({ low: least, high: most, ...ends, log: true });
  const zero = fromZero && least >= 0;
  const margin = 0.04 * (most - (zero ? 0 : least)) || Math.abs(most) * 0.1 || 1;
  const low = zero ? 0 : least - margin;
  return axis({ low, high: most + margin, ...ends });
}

/** A curve's colour, as a value of CSS. */
export function colourOf({ colour }: Pick<Curve, 'colour'>): string {
  if (typeof colour === 'number') return `var(--run${colour % 6})`;
  return `hsl(${Math.round(265 - 245 * colour.place)} 62% 52%)`;
}

const point = (x: number, y: number): string => `${x.toFixed(1)},${y.toFixed(1)}`;

function drawCurve(curve: Curve, x: Axis, y: Axis): string {
  const clamp = (v: number): number => Math.min(HEIGHT - BOTTOM, Math.max(TOP, y.at(v)));
  const line = curve.bins.map((b) => point(x.at(b.step), clamp(b.mean))).join(' ');
  const colour = colourOf(curve);
  const spread = curve.bins.some((b) => b.high > b.low);
  const upper = curve.bins.map((b) => point(x.at(b.step), clamp(b.high)));
  const lower = curve.bins.map((b) => point(x.at(b.step), clamp(b.low))).reverse();
  const band = spread ? `<polygon points="${[...upper, ...lower].join(' ')}" fill="${colour}" opacity=".14"/>` : '';
  const [only] = curve.bins;
  if (curve.bins.length === 1)
    return `<circle cx="${x.at(only!.step).toFixed(1)}" cy="${clamp(only!.mean).toFixed(1)}" r="3" fill="${colour}"/>`;
  return `${band}<polyline points="${line}" fill="none" stroke="${colour}" stroke-width="1.6" stroke-linejoin="round"/>`;
}

/** Invisible columns, one a bin of the longest curve, that tell what is above and below the pointer. */
function pointers(curves: readonly Curve[], x: Axis, format: Format): string {
  const columns = curves.reduce<readonly Bin[]>((a, { bins }) => (bins.length > a.length ? bins : a), []);
  const known = curves.map(({ name, bins }) => ({ name, bins: new Map(bins.map((b) => [b.step, b])), list: bins }));
  let begin = LEFT;
  return columns
    .map(({ step }, i) => {
      const next = columns[i + 1];
      const end = next ? (x.at(step) + x.at(next.step)) / 2 : WIDTH - RIGHT;
      const told = known.flatMap(({ name, bins, list }) => {
        const bin = bins.get(step) ?? list.find((b) => b.step >= step);
        return bin ? [curves.length > 1 ? `${name}: ${format(bin.mean)}` : format(bin.mean)] : [];
      });
      const title = escapeHtml(`step ${step}\n${told.join('\n')}`);
      const column = `<rect x="${begin.toFixed(1)}" y="${TOP}" width="${Math.max(0, end - begin).toFixed(1)}" height="${HEIGHT - TOP - BOTTOM}"><title>${title}</title></rect>`;
      begin = end;
      return column;
    })
    .join('');
}

function grid(x: Axis, y: Axis, format: Format): string {
  const rows = y.ticks.map((value) => {
    const at = y.at(value).toFixed(1);
    return `<path d="M${LEFT} ${at}H${WIDTH - RIGHT}"/><text x="${LEFT - 6}" y="${at}" dy=".32em" text-anchor="end">${escapeHtml(format(value))}</text>`;
  });
  const columns = x.ticks.map((value) => {
    const at = x.at(value).toFixed(1);
    return `<text x="${at}" y="${HEIGHT - 8}" text-anchor="middle">${value}</text>`;
  });
  return `<g class="grid" aria-hidden="true">${rows.join('')}${columns.join('')}</g>`;
}

function described(curves: readonly Curve[], format: Format): string {
  return curves
    .map(({ name, bins }) => {
      const [first, last] = [bins[0]!, bins.at(-1)!];
      return `${name}: ${format(first.mean)} at step ${first.step}, ${format(last.mean)} at step ${last.step}.`;
    })
    .join(' ');
}

function legend(curves: readonly Curve[], format: Format): string {
  if (curves.length < 2) return '';
  const items = curves.map(
    (curve) =>
      `<li><i style="background:${colourOf(curve)}"></i>${escapeHtml(curve.name)} <b>${escapeHtml(format(curve.bins.at(-1)!.mean))}</b></li>`,
  );
  return `<ul class="legend">${items.join('')}</ul>`;
}

/** The chart as a figure; empty where no curve has a value. */
export function drawChart({ title, curves: given, format = plain, fromZero = false }: Chart): string {
  const curves = given.filter(({ bins }) => bins.length > 0);
  if (curves.length === 0) return '';
  const steps = curves.flatMap(({ bins }) => [bins[0]!.step, bins.at(-1)!.step]);
  const ends = { begin: LEFT, end: WIDTH - RIGHT, format: plain };
  const x = axis({ low: Math.min(...steps), high: Math.max(...steps), ...ends });
  const y = valueAxis(curves, format, fromZero);
  const lines = curves.map((curve) => drawCurve(curve, x, y)).join('');
  const name = escapeHtml(title);
  const last = curves.length === 1 ? `<b>${escapeHtml(format(curves[0]!.bins.at(-1)!.mean))}</b>` : '';
  const svg = `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${name}. ${escapeHtml(described(curves, format))}">${grid(x, y, format)}${lines}<g class="pointer">${pointers(curves, x, format)}</g></svg>`;
  return `<figure class="chart"><figcaption>${name} ${last}</figcaption>${svg}${legend(curves, format)}</figure>`;
}
