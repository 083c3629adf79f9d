// SPDX-License-Identifier: Apache-2.0
/** Pieces of error messages: values shortened, names listed, near misses. */

/** A value as it stands in a one-line message: quoted, control characters escaped, the middle of a long one left out. */
export function quote(value: string, most = 60): string {
  const short = value.length <= most ? value : `${value.slice(0, most - 20)}...${value.slice(-15)}`;
  return JSON.stringify(short);
}

/** `a, b, c`, and where there are many `a, b, ... (40 in all)`; `none` where there is nothing. */
export function listed(names: readonly string[], most = 20): string {
  if (names.length === 0) return "none";
  if (names.length <= most) return names.join(", ");
  return `${names.slice(0, most).join(", ")}, ... (${names.length} in all)`;
}

/** `, did you mean "rate"?` where one of the names is a slip away from what was given; otherwise nothing. */
export function didYouMean(given: string, names: readonly string[]): string {
  const slips = Math.max(1, Math.floor(given.length / 3));
  let best: string | undefined;
  let fewest = slips + 1;
  // A value can be as long as an annotation: what is much longer than any name is no slip.
  for (const name of given.length > 64 ? [] : names) {
    const distance = editDistance(given.toLowerCase(), name.toLowerCase());
    if (distance < fewest) {
      fewest = distance;
      best = name;
    }
  }
  return best === undefined ? "" : `, did you mean "${best}"?`;
}

/** Letters inserted, left out, exchanged, or swapped with their neighbour (optimal string alignment). */
function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let row = 1; row <= a.length; row += 1) {
    const current = [row];
    for (let column = 1; column <= b.length; column += 1) {
      const exchange = a[row - 1] === b[column - 1] ? 0 : 1;
      let cost = Math.min((last[column] ?? 0) + 1, (current[column - 1] ?? 0) + 1, (last[column - 1] ?? 0) + exchange);
      if (row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]) {
        cost = Math.min(cost, (beforeLast[column - 2] ?? 0) + 1);
      }
      current.push(cost);
    }
    beforeLast = last;
    last = current;
  }
  return last[b.length] ?? 0;
}
