/** What looks over a run's shoulder: its log, and the checks that end it when it no longer learns. */
import { InfinityError } from '../errors.js';
import { type DivergenceConfig, DivergenceWatch } from './divergence.js';
import type { NotFinite } from './not_finite.js';
import { type LogLine, type MemoryUse, RunLog } from './run_log.js';
import { lastGoodState, savedStates } from './run_state.js';
import type { StepNumbers, Trainee } from './trainee.js';

type Watched = Pick<Trainee, 'device' | 'optimizer' | 'otherOptimizers'>;
type Measured = StepNumbers & Pick<LogLine, 'step' | 'lr' | 'samplesPerSecond'>;

const CURE = 'Lower optimizer.lr or optimizer.clip in the config and start a run in another directory.';

/** Writes the log of one run and judges its steps. */
export class RunWatch {
  private constructor(
    private readonly directory: string,
    private readonly trainee: Watched,
    private readonly divergence: DivergenceWatch,
    private readonly log: RunLog,
  ) {}

  /**
   * Goes on after `step` with what the log tells of the steps before.
   * @throws InfinityError IO_ERROR, DISK_FULL
   */
  static async open(directory: string, step: number, trainee: Watched, config?: DivergenceConfig): Promise<RunWatch> {
    const divergence = new DivergenceWatch(config);
    const log = await RunLog.open(directory, step, (line) =>
      divergence.add(line.step, line.watched ?? line.loss, line.phase),
    );
    return new RunWatch(directory, trainee, divergence, log);
  }

  /** First step of the present stretch of high losses: states saved from then on may be spoilt. */
  get highSince(): number | undefined {
    return this.divergence.high?.since;
  }

  /**
   * Judges a step, writes it to the log.
   * @throws InfinityError NUMERICAL naming step, tensor and last good state; IO_ERROR, DISK_FULL
   */
  async check(measured: Measured, badRows: number): Promise<MemoryUse> {
    const { step, loss, metrics, watched, phase, gradNorm, lr, samplesPerSecond } = measured;
    await this.checkFinite(measured);
    const { liveBytes, peakBytes } = this.trainee.device.stats();
    const memory = { liveBytes, peakBytes, rssBytes: process.memoryUsage.rss() };
    await this.log.add({
      step,
      time: new Date().toISOString(),
      loss,
      metrics,
      ...(watched === undefined ? {} : { watched }),
      ...(phase === undefined ? {} : { phase }),
      gradNorm,
      lr,
      samplesPerSecond,
      memory,
      ...(badRows > 0 ? { badRows } : {}),
    });
    this.divergence.add(step, watched ?? loss, phase);
    if (this.divergence.diverged) await this.stopDiverged(step, watched ?? loss);
    return memory;
  }

  /** Before a state is saved: it must not know steps that the log has lost. */
  sync(): Promise<void> {
    return this.log.sync();
  }

  close(): Promise<void> {
    return this.log.close();
  }

  private async notFiniteGradient(): Promise<NotFinite | undefined> {
    const { optimizer, otherOptimizers = [] } = this.trainee;
    for (const each of [optimizer, ...otherOptimizers]) {
      const found = await each.notFiniteGradient();
      if (found) return found;
    }
    return undefined;
  }

  private async checkFinite({ step, loss, metrics, gradNorm }: Measured): Promise<void> {
    const metric = Object.entries(metrics).find(([, value]) => Number.isNaN(value))?.[0];
    if (Number.isFinite(loss) && Number.isFinite(gradNorm) && metric === undefined) return;
    const gradient = await this.notFiniteGradient();
    const found: string[] = [];
    if (metric !== undefined) found.push(`metric '${metric}' is NaN`);
    if (gradient) {
      const are = gradient.others > 0 ? `and ${gradient.others} more are` : 'is';
      found.push(`the gradient of '${gradient.name}' ${are} not finite`);
    }
    const where = found.length > 0 ? `: ${found.join(', ')}` : '';
    const tensor = metric ?? (Number.isFinite(loss) ? gradient?.name : 'loss');
    await this.stop(`The loss of step ${step} is ${loss}, its gradient norm ${gradNorm}${where}.`, loss, {
      step,
      tensor,
      gradient: gradient?.name,
    });
  }

  private async stopDiverged(step: number, value: number): Promise<never> {
    const { since, level, limit } = this.divergence.high!;
    const told = `loss has stayed above ${limit.toPrecision(4)} since step ${since}; its level before was ${level.toPrecision(4)}`;
    return this.stop(`The training diverged: at step ${step} the ${told}.`, value, {
      step,
      tensor: 'loss',
      since,
      level,
    });
  }

  private async stop(statement: string, value: number, fields: Readonly<Record<string, unknown>>): Promise<never> {
    const good = lastGoodState(await savedStates(this.directory), this.highSince ?? Infinity);
    const last = good ? `The last good state is ${good.path}.` : 'No good state was saved before.';
    throw new InfinityError('NUMERICAL', `${statement} ${last}`, {
      value,
      fields: { ...fields, lastGood: good?.path },
      cure: CURE,
    });
  }
}
