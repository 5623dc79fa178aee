/** What is submitted to a device. */
import type { Device } from '../../lib/device.js';

/** How often each op, by its id, is submitted while `work` runs. */
export function countCommands(device: Device, work: () => void): Map<number, number> {
  const counts = new Map<number, number>();
  const submit = device.submit.bind(device);
  device.submit = () => {
    const id = device.words[0]!;
    counts.set(id, (counts.get(id) ?? 0) + 1);
    submit();
  };
  try {
    work();
  } finally {
    Reflect.deleteProperty(device, 'submit');
  }
  return counts;
}
