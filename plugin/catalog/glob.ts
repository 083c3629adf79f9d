// SPDX-License-Identifier: Apache-2.0
/** Globs over names (namespaces, programs): `*` stands for any text, none included; all else for itself. */

export const globPattern = /^[A-Za-z0-9._*-]+$/;

/** True where the glob covers the whole name. By hand: a regular expression made of `*a*a*a` can take for ever. */
export function globMatches(glob: string, name: string): boolean {
  const [first = "", ...rest] = glob.split("*");
  const last = rest.pop();
  if (last === undefined) return glob === name;
  if (!name.startsWith(first)) return false;
  let at = first.length;
  for (const part of rest) {
    const found = name.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return name.length - last.length >= at && name.endsWith(last);
}
