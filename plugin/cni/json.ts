// SPDX-License-Identifier: Apache-2.0
/**
 * JSON in which no number changes. JavaScript's numbers lose whole ones beyond 2^53 and the spelling of the rest
 * (`1.0`, `1e3`), but what we were given by the plugins before us is not ours to round.
 */

// Node has both since 22 (V8 11.4), the language's types do not yet: https://github.com/tc39/proposal-json-parse-with-source
type Reviver = (key: string, value: unknown, context: { source?: string }) => unknown;
const { parse, rawJSON } = JSON as unknown as {
  parse(text: string, reviver: Reviver): unknown;
  rawJSON(source: string): unknown;
};

export type JsonObject = Record<string, unknown>;
export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** For reading. A whole number beyond 2^53 becomes its decimal text, so that nobody computes with a rounded one. */
export function parseForReading(text: string): unknown {
  return parse(text, (_key, value, { source }) =>
    Number.isInteger(value) && !Number.isSafeInteger(value) && source !== undefined && /^-?\d+$/.test(source)
      ? source
      : value,
  );
}

/** For passing on. Every number is an opaque object that `JSON.stringify` prints as it was written. */
export function parseForPassing(text: string): unknown {
  return parse(text, (_key, value, { source }) =>
    typeof value === "number" && source !== undefined ? rawJSON(source) : value,
  );
}

/** A value as an error message shows it: JSON, cut after 80 characters. */
export function show(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}
