/**
 * The log of a run: `log.jsonl` in its directory, one JSON object a step. A step stands in it before the state that contains it is
 * saved, and a resumed run cuts what follows its state, so that every step is there once.
 */
import { join } from 'node:path';
import { AppendFile, wholeLines } from '../io/append_file.js';

/** Memory at the end of a step, bytes. */
export interface MemoryUse {
  /** Tensors that live, and the most that lived at any time since the device was opened. */
  readonly liveBytes: number;
  readonly peakBytes: number;
  /** Of the whole process. */
  readonly rssBytes: number;
}

/** One line of a log. */
export interface LogLine {
  readonly step: number;
  /** When the step was done, ISO 8601. */
  readonly time: string;
  readonly loss: number;
  /** Terms of the loss and accuracies, by name. */
  readonly metrics: Readonly<Record<string, number>>;
  /** What is watched for divergence where that is not the loss. */
  readonly watched?: number;
  /** Part of the training in which the step lies, where there are several. */
  readonly phase?: string;
  readonly gradNorm: number;
  readonly lr: number;
  readonly samplesPerSecond: number;
  readonly memory: MemoryUse;
  /** Rows passed over so far, where there are any. */
  readonly badRows?: number;
}

export const LOG_FILE = 'log.jsonl';

const isObject = (value: unknown): boolean => typeof value === 'object' && value !== null;

function parseLine(text: string): LogLine | undefined {
  try {
    const line = JSON.parse(text) as LogLine | null;
    const whole = Number.isSafeInteger(line?.step) && isObject(line?.metrics) && isObject(line?.memory);
    return whole ? (line as LogLine) : undefined;
  } catch {
    return undefined;
  }
}

/** The lines of a run's log in their order; those that cannot be read are passed over. Nothing when there is no log. */
export async function* readRunLog(directory: string): AsyncGenerator<LogLine> {
  for await (const { text } of wholeLines(join(directory, LOG_FILE))) {
    const line = parseLine(text);
    if (line) yield line;
  }
}

/** A log that is being written. */
export class RunLog {
  private constructor(private readonly file: AppendFile) {}

  /**
   * Opens the log of a run that goes on after `step`: later lines, and whatever a crash left, are cut.
   * @param replay told of every line that stays
   * @throws InfinityError IO_ERROR, DISK_FULL
   */
  static async open(directory: string, step: number, replay: (line: LogLine) => void): Promise<RunLog> {
    const path = join(directory, LOG_FILE);
    let keep = 0;
    for await (const { text, end } of wholeLines(path)) {
      const line = parseLine(text);
      if (!line || line.step > step) break;
      replay(line);
      keep = end;
    }
    return new RunLog(await AppendFile.open(path, keep));
  }

  /** @throws InfinityError IO_ERROR or DISK_FULL; the lines before stay */
  async add(line: LogLine): Promise<void> {
    await this.file.append(Buffer.from(`${JSON.stringify(line)}\n`));
  }

  sync(): Promise<void> {
    return this.file.sync();
  }

  close(): Promise<void> {
    return this.file.close();
  }
}
