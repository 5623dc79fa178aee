/** Name patterns of the golden files: `*` any characters, `?` one character, everything else itself. */

const compiled = new Map<string, RegExp>();

export function globMatches(pattern: string, name: string): boolean {
  let expression = compiled.get(pattern);
  if (!expression) {
    const source = pattern
      .replace(/[.+^${}()|[\]\\]/g, '\\$&')
      .replaceAll('*', '[^]*')
      .replaceAll('?', '[^]');
    expression = new RegExp(`^${source}$`, 'u');
    compiled.set(pattern, expression);
  }
  return expression.test(name);
}

/** `{k}` and the like in a name pattern, replaced. */
export function expand(pattern: string, values: Readonly<Record<string, string | number>>): string {
  return pattern.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}
