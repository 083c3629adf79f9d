// SPDX-License-Identifier: Apache-2.0
/**
 * Which programs a pod's annotations may select. What the node's own chain names is the administrator's choice, and is
 * asked about only where the program itself is not meant for every pod.
 *
 * Of the namespace globs of `allow` that cover a namespace, the most specific one decides alone: a name without `*`
 * before any glob, then more letters before fewer, then fewer stars before more. Where two are equal even so
 * (`a*` and `*z` for `az`), both must allow. A pod of which no namespace is known counts as namespace "", which only
 * globs such as `*` cover.
 */

import { globMatches } from "../catalog/glob.ts";
import { didYouMean, listed, quote } from "../catalog/words.ts";
import type { CatalogProgram, NodeConfig } from "../model.ts";

/** The lists that decide for a namespace; none where nothing covers it. */
export function decidingLists(allow: NodeConfig["allow"], namespace: string): string[][] {
  const covering = Object.keys(allow).filter((glob) => globMatches(glob, namespace));
  const [best] = covering.sort(bySpecificity);
  if (best === undefined) return [];
  return covering.filter((glob) => bySpecificity(glob, best) === 0).map((glob) => allow[glob] ?? []);
}

function bySpecificity(a: string, b: string): number {
  const stars = (glob: string) => glob.split("*").length - 1;
  const exact = Number(stars(b) === 0) - Number(stars(a) === 0);
  return exact || b.length - stars(b) - (a.length - stars(a)) || stars(a) - stars(b);
}

function inNamespace(namespace: string): string {
  return namespace === "" ? "a pod without a namespace" : `namespace ${quote(namespace)}`;
}

/** Why the configuration does not let this namespace select a program of this name; undefined where it does. */
export function deniedByNode(allow: NodeConfig["allow"], namespace: string, program: string): string | undefined {
  const lists = decidingLists(allow, namespace);
  const allows = (list: string[]) => list.some((glob) => globMatches(glob, program));
  if (lists.length > 0 && lists.every(allows)) return undefined;
  const globs = lists.find((list) => !allows(list)) ?? [];
  const may = globs.length === 0 ? "it may use none" : `it may use ${listed(globs)}`;
  return `${inNamespace(namespace)} may not use program ${quote(program)}${didYouMean(program, globs) || ":"} ${may}`;
}

/** Why the node's own chain may not name this program; undefined where it may. It would be on every pod. */
export function deniedNodeWide({ name, path, nodeWide }: CatalogProgram): string | undefined {
  if (nodeWide) return undefined;
  const manifest = path.replace(/\.bpf\.o$/, ".yaml");
  return (
    `program ${quote(name)} may not be on every pod: its manifest says "nodeWide: false". Take it out of the chain and let ` +
    `the pods that are to have it ask for it by annotation, or say "nodeWide: true" in ${manifest}`
  );
}

/** Why the program's own manifest does not let this namespace select it; undefined where it does. */
export function deniedByManifest({ name, namespaces }: CatalogProgram, namespace: string): string | undefined {
  if (namespaces === undefined || namespaces.some((glob) => globMatches(glob, namespace))) return undefined;
  return `${inNamespace(namespace)} may not use program ${quote(name)}: its manifest keeps it for ${listed(namespaces)}`;
}
