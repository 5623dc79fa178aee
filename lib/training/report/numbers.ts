/** Numbers for readers: axis ticks, values in a few digits, bytes and times. */

/** How a quantity is written. */
export type Format = (value: number) => string;

/** Three or so digits that tell values of any size apart. */
export const plain: Format = (value) => {
  const size = Math.abs(value);
  if (value === 0) return '0';
  if (size >= 1e6 || size < 1e-3) return String(Number(value.toPrecision(3)).toExponential()).replace('e+', 'e');
  return String(Number(value.toPrecision(4)));
};

export const percent: Format = (value) => `${Number((100 * value).toPrecision(4))} %`;

export const decibels: Format = (value) => `${value.toFixed(2)} dB`;

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

const unitOf = (value: number): number =>
  value < 1 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(value) / 10));

export const bytes: Format = (value) => {
  const power = unitOf(value);
  return `${Number((value / 2 ** (10 * power)).toPrecision(3))} ${UNITS[power]}`;
};

export const seconds: Format = (value) => {
  if (value < 100) return `${Number(value.toPrecision(2))} s`;
  const minutes = Math.round(value / 60);
  if (minutes < 100) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
};

/** Round numbers that divide a range into about `count` parts. */
export function linearTicks(low: number, high: number, count = 5): number[] {
  const rough = (high - low) / count;
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((m) => m * power >= rough * 0.999) ?? 10);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  // The product of an integer and 1, 2 or 5 times a power of ten, rounded off its last bits.
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** Round numbers as a format writes them. */
export function ticksFor(format: Format, low: number, high: number, count: number): number[] {
  const unit = format === bytes ? 2 ** (10 * unitOf(high)) : 1;
  return linearTicks(low / unit, high / unit, count).map((tick) => tick * unit);
}

/** Powers of ten in a range, with their doubles and fivefolds where there are few. */
export function logTicks(low: number, high: number): number[] {
  const decades = Math.log10(high / low);
  const multiples = decades > 3 ? [1] : [1, 2, 5];
  const every = Math.max(1, Math.ceil(decades / 6));
  const ticks: number[] = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    if (power % every === 0) for (const m of multiples) ticks.push(Number((m * 10 ** power).toPrecision(12)));
  return ticks.filter((t) => t >= low * 0.999 && t <= high * 1.001);
}
