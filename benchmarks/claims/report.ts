/** The pages: docs/results.md with its plots beside it, and one self-contained HTML page. */
import type { Experiment, Reading, Table } from './experiment.js';
import { drawPlot, escaped } from './plot.js';
import type { Record } from './store.js';

/** An experiment with whatever of it was measured. */
export interface Measured {
  readonly experiment: Experiment;
  readonly records: readonly Record[];
  /** Cells of the whole experiment. */
  readonly cells: number;
}

/** What a page says about how it came to be. */
interface Origin {
  readonly machines: string;
  readonly missing: string;
}

const SECONDS =
  'Scores do not depend on who else uses a machine; seconds do, and are those of a machine with other work.';

function distinct(records: readonly Record[], name: string): string {
  return [...new Set(records.map(({ machine }) => String(machine[name])))].join(', ');
}

function origin(measured: readonly Measured[]): Origin {
  const records = measured.flatMap((m) => m.records);
  const missing = measured.filter((m) => m.records.length < m.cells);
  const cells = measured.reduce((sum, m) => sum + m.cells, 0);
  const parts = missing.map((m) => `${m.experiment.name} ${m.cells - m.records.length} of ${m.cells}`);
  return {
    machines:
      records.length === 0
        ? 'Nothing was measured yet.'
        : `Measured on ${distinct(records, 'machine')}, ${distinct(records, 'cores')} cores, ${distinct(records, 'isa')}, Node ${distinct(records, 'node')}. ${SECONDS}`,
    missing:
      missing.length === 0
        ? `All ${cells} cells were measured.`
        : `${records.length} of ${cells} cells were measured. Missing: ${parts.join('; ')}. \`npm run claims\` measures them and completes this page.`,
  };
}

const read = ({ experiment, records }: Measured): Reading => experiment.read(records);

function markdownTable({ head, rows }: Table): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

const unmeasured = { verdict: 'open', text: 'Not measured yet.' } as const;

const findingsOf = (reading: Reading) => (reading.findings.length > 0 ? reading.findings : [unmeasured]);

const INTRODUCTION =
  'The claims of the paper (arXiv 2412.04431), measured again in small: minutes of training on the procedural set where the paper trained for weeks on photographs. What holds at this size supports a claim, what does not hold here says nothing about large models. A plot shows means over seeds with bars from the smallest to the largest value; "±" is half a 95 % interval of Student\'s t over differences paired by seed. A finding is open where that interval holds zero or fewer than three seeds were measured.';

/**
 * @param plots where the plots lie, seen from the page
 * @returns the page, and the plots by file name
 */
export function markdownPage(
  measured: readonly Measured[],
  plots: string,
): { readonly page: string; readonly files: ReadonlyMap<string, string> } {
  const files = new Map<string, string>();
  const { machines, missing } = origin(measured);
  const sections = measured.map((m) => {
    const { experiment } = m;
    const reading = read(m);
    const images = reading.plots.flatMap((plot) => {
      const svg = drawPlot(plot);
      if (!svg) return [];
      files.set(`${plot.name}.svg`, `${svg}\n`);
      return [`![${plot.title}](${plots}/${plot.name}.svg)`];
    });
    return [
      `## ${experiment.title}`,
      `**The paper:** ${experiment.claim}`,
      findingsOf(reading)
        .map(({ verdict, text }) => `- **${verdict}** – ${text}`)
        .join('\n'),
      `**Measured:** ${experiment.method}`,
      ...reading.tables.map(markdownTable),
      ...images,
    ].join('\n\n');
  });
  const summary = markdownTable({
    head: ['claim', 'here'],
    rows: measured.map((m) => [
      `[${m.experiment.title}](#${anchor(m.experiment.title)})`,
      findingsOf(read(m))
        .map((f) => f.verdict)
        .join(', '),
    ]),
  });
  const page = [
    '# The claims of the paper, measured again',
    '    npm run claims',
    INTRODUCTION,
    `The same as [one HTML page](${plots}/claims.html); the [records](${plots}/records.jsonl) of all cells.`,
    machines,
    missing,
    summary,
    ...sections,
  ];
  return { page: `${page.join('\n\n')}\n`, files };
}

/** The fragment that a heading gets on the usual hosts. */
function anchor(title: string): string {
  return title
    .toLowerCase()
    .replace(/[^\p{L}\p{N} -]/gu, '')
    .replaceAll(' ', '-');
}

function htmlTable({ head, rows }: Table): string {
  const row = (cells: readonly string[], tag: string): string =>
    `<tr>${cells.map((c) => `<${tag}>${escaped(c)}</${tag}>`).join('')}</tr>`;
  return `<div class="scroll"><table><thead>${row(head, 'th')}</thead><tbody>${rows.map((r) => row(r, 'td')).join('')}</tbody></table></div>`;
}

const STYLE = `
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.75rem 0.25rem 0; text-align: left; border-bottom: 1px solid #8884; }
.scroll { overflow-x: auto; }
svg { max-width: 100%; height: auto; border-radius: 6px; margin: 1rem 0; }
.finding { border-left: 4px solid #888; padding: 0.25rem 0.75rem; margin: 0.75rem 0; }
.holds { border-color: #009e73; }
.refuted { border-color: #d55e00; }
.muted { opacity: 0.75; }
`;

const CLASSES = { holds: 'holds', 'does not hold in small': 'refuted', open: 'open' } as const;

/** One file without any other: plots stand in it. */
export function htmlPage(measured: readonly Measured[]): string {
  const { machines, missing } = origin(measured);
  const sections = measured.map((m) => {
    const reading = read(m);
    const findings = findingsOf(reading).map(
      ({ verdict, text }) =>
        `<p class="finding ${CLASSES[verdict]}"><strong>${verdict}</strong> – ${escaped(text)}</p>`,
    );
    return [
      `<section id="${m.experiment.name}"><h2>${escaped(m.experiment.title)}</h2>`,
      `<p><strong>The paper:</strong> ${escaped(m.experiment.claim)}</p>`,
      ...findings,
      `<p class="muted"><strong>Measured:</strong> ${escaped(m.experiment.method)}</p>`,
      ...reading.tables.map(htmlTable),
      ...reading.plots.flatMap((plot) => drawPlot(plot) ?? []),
      '</section>',
    ].join('\n');
  });
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>The claims of the paper, measured again</title>
<style>${STYLE}</style>
<h1>The claims of the paper, measured again</h1>
<p>${escaped(INTRODUCTION)}</p>
<p class="muted">${escaped(machines)}</p>
<p class="muted">${escaped(missing.replaceAll('`', ''))}</p>
${sections.join('\n')}
</html>
`;
}
