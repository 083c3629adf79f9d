// SPDX-License-Identifier: Apache-2.0
/** Random numbers that come again: a failure is had again from its seed. */

/** mulberry32. The function returns a whole number from 0 up to, and without, `below`. */
export function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** One of them. */
export function pick<T>(random: (below: number) => number, from: readonly T[]): T {
  return from[random(from.length)] as T;
}

/** A text with a few bytes of it changed, doubled, taken away or taken from elsewhere. */
export function garble(random: (below: number) => number, text: string, pieces: readonly string[]): string {
  let garbled = text;
  for (let times = random(4); times >= 0; times--) {
    const at = random(garbled.length + 1);
    const length = random(6);
    const inserted = [
      "",
      pick(random, pieces),
      String.fromCharCode(1 + random(0x24f)),
      garbled.slice(random(garbled.length + 1)).slice(0, 8),
    ];
    garbled = garbled.slice(0, at) + pick(random, inserted) + garbled.slice(at + length);
  }
  return garbled;
}
