// SPDX-License-Identifier: Apache-2.0
/**
 * Mappings from names to values, in what people write: parameters, maps, namespaces. zod's own records leave out a key
 * `__proto__` without a word; nothing that was written may do nothing, so here it is refused.
 */

import * as z from "zod/mini";

/**
 * An object of any names, or of those that `names` matches.
 *
 * @param expected what the message says of what is none, in the words of the place.
 */
export function mapping<Value extends z.core.SomeType>(value: Value, expected: string, names = /(?:)/) {
  const wrongIn = (input: unknown): string | undefined =>
    typeof input === "object" && input !== null
      ? Object.keys(input).find((name) => name === "__proto__" || !names.test(name))
      : undefined;
  const named = z.custom<unknown>((input) => wrongIn(input) === undefined, {
    error: ({ input }) => `${expected} (${JSON.stringify(wrongIn(input))} cannot be one of its names)`,
  });
  return z.pipe(named, z.record(z.string(), value, expected));
}
