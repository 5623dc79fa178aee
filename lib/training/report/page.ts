/** Puts runs side by side into one self-contained page. */
import { type Chart, colourOf, drawChart } from './chart.js';
import { escapeHtml } from './escape.js';
import { bytes, decibels, type Format, percent, plain, seconds } from './numbers.js';
import type { SampleGrid } from './sample_grids.js';
import type { Curve, RunCurves } from './series.js';
import { STYLE } from './style.js';

/** One run of a page. */
export interface ReportedRun extends RunCurves {
  readonly name: string;
  readonly samples: readonly SampleGrid[];
}

const SCALE = /^scale(\d+)$/;

/** Titles and formats of quantities that have one; others go by their own name. */
const KNOWN: Readonly<Record<string, { title: string; format?: Format; fromZero?: boolean }>> = {
  loss: { title: 'Loss' },
  accuracy: { title: 'Bit accuracy', format: percent },
  psnr: { title: 'PSNR', format: decibels },
  l1: { title: 'Mean absolute error' },
  l2: { title: 'Mean squared error' },
  quantizer: { title: 'Loss of the quantiser' },
  gradNorm: { title: 'Gradient norm, before clipping' },
  lr: { title: 'Learning rate' },
  samplesPerSecond: { title: 'Samples a second', fromZero: true },
  liveBytes: { title: 'Tensor memory between steps', format: bytes, fromZero: true },
  peakBytes: { title: 'Tensor memory, most so far', format: bytes, fromZero: true },
  rssBytes: { title: 'Memory of the process', format: bytes, fromZero: true },
};

const LEARNING = ['loss', 'psnr', 'accuracy', 'gradNorm', 'lr'];
const MACHINE = ['samplesPerSecond', 'peakBytes', 'liveBytes', 'rssBytes'];

function compared(runs: readonly ReportedRun[], name: string): Chart {
  const curves = runs.map((run, colour): Curve => ({ name: run.name, colour, bins: run.curves.get(name) ?? [] }));
  const { title = name, ...look } = KNOWN[name] ?? {};
  return { title, curves, ...look };
}

/** A chart a run: one curve a scale, from coarse to fine. */
function scales(run: ReportedRun): Chart {
  const names = [...run.curves.keys()].filter((name) => SCALE.test(name));
  names.sort((a, b) => Number(SCALE.exec(a)![1]) - Number(SCALE.exec(b)![1]));
  const curves = names.map((name, i): Curve => {
    const place = names.length > 1 ? i / (names.length - 1) : 0;
    return { name: `scale ${Number(SCALE.exec(name)![1]) + 1}`, colour: { place }, bins: run.curves.get(name)! };
  });
  return { title: run.name, curves, format: percent };
}

function section(title: string, content: string, kind = 'cards'): string {
  return content === '' ? '' : `<section><h2>${title}</h2><div class="${kind}">${content}</div></section>`;
}

function overview(runs: readonly ReportedRun[]): string {
  const metrics = ['loss', 'psnr', 'accuracy'].filter((name) => runs.some((run) => run.summary.final.has(name)));
  const heads = ['Run', 'Steps', ...metrics.map((name) => KNOWN[name]!.title), 'Samples a second', 'Tensor memory'];
  const rows = runs.map(({ name, summary }, colour) => {
    const { lastStep, begin, end, final, samplesPerSecond, peakBytes, badRows } = summary;
    const measured = metrics.map((metric) => {
      const value = final.get(metric);
      return value === undefined ? '–' : (KNOWN[metric]!.format ?? plain)(value);
    });
    const elapsed = seconds(Math.max(0, (Date.parse(end) - Date.parse(begin)) / 1000));
    const cells = [
      lastStep,
      ...measured,
      plain(samplesPerSecond),
      bytes(peakBytes),
      elapsed,
      end.slice(0, 16),
      badRows,
    ];
    const label = `<i style="background:${colourOf({ colour })}"></i>${escapeHtml(name)}`;
    return `<tr><td>${label}</td>${cells.map((cell) => `<td>${escapeHtml(String(cell))}</td>`).join('')}</tr>`;
  });
  const all = [...heads, 'From first to last step', 'Last step', 'Bad rows'];
  const head = all.map((text) => `<th scope="col">${text}</th>`).join('');
  return `<div class="scroll"><table><thead><tr>${head}</tr></thead><tbody>${rows.join('')}</tbody></table></div>`;
}

function sampleGrid({ step, columns, prompts, width, height, png }: SampleGrid): string {
  const described = prompts ? prompts.join('; ') : 'pictures above their reconstructions';
  const image = `<img src="data:image/png;base64,${png.toString('base64')}" width="${width}" height="${height}" alt="${escapeHtml(`Samples of step ${step}: ${described}`)}">`;
  const items = prompts?.map((prompt) => `<li>${escapeHtml(prompt)}</li>`).join('') ?? '';
  const list = items && `<ul class="prompts" style="grid-template-columns:repeat(${columns},1fr)">${items}</ul>`;
  // Small pictures grow, but not beyond what shows their pixels.
  const grid = `<div style="max-width:${columns * 11}rem">${image}${list}</div>`;
  return `<figure><figcaption>Step ${step}</figcaption>${grid}</figure>`;
}

/**
 * The report of some runs: curves, accuracies of every scale, samples. One file without scripts that loads nothing.
 * @param runs at least one; their names differ
 */
export function reportPage(runs: readonly ReportedRun[]): string {
  const names = new Set(runs.flatMap((run) => [...run.curves.keys()]));
  const charts = (wanted: readonly string[]): string => wanted.map((name) => drawChart(compared(runs, name))).join('');
  const others = [...names].filter((name) => !LEARNING.includes(name) && !MACHINE.includes(name) && !SCALE.test(name));
  const title = runs.length === 1 ? runs[0]!.name : `${runs.length} runs`;
  const samples = runs.map(({ name, samples: grids }) =>
    section(
      runs.length === 1 ? 'Samples' : `Samples of ${escapeHtml(name)}`,
      grids.map(sampleGrid).join(''),
      'samples',
    ),
  );
  return [
    '<!doctype html><html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width,initial-scale=1">',
    `<title>${escapeHtml(title)} – training report</title><style>${STYLE}</style></head><body><main>`,
    `<header><h1>${escapeHtml(title)}</h1><p>Training report of node-infinity. Curves are means over equal ranges of steps, the bands behind them go from the lowest to the highest step.</p></header>`,
    `<section><h2>Overview</h2>${overview(runs)}</section>`,
    section('Learning', charts(LEARNING)),
    section('Bit accuracy of each scale', runs.map((run) => drawChart(scales(run))).join('')),
    section('Other measures', charts(others)),
    section('Machine', charts(MACHINE)),
    ...samples,
    '</main></body></html>\n',
  ].join('\n');
}
