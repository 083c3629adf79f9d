// SPDX-License-Identifier: Apache-2.0
/** What one map of the kernel's holds: read, decoded by its BTF, and as a page. */

import { isPrefixKey, prefixKey } from "../catalog/address.ts";
import { Handles } from "../chain/undo.ts";
import { KernelError, type KernelPort, type MapInfo } from "../kernel/port.ts";
import { type Decoded, decode, decodeSum, splitCpus, untyped } from "../values/decode.ts";
import { type Page, printable } from "./terminal.ts";

/** As `--json` prints it. */
export interface MapContents {
  name: string;
  type: string;
  id: number;
  keySize: number;
  valueSize: number;
  maxEntries: number;
  /** `value`, or one of `values` per CPU. Undefined where nothing can be read; `unreadable` says why. */
  entries?: { key: Decoded; value?: Decoded; values?: Decoded[] }[];
  /** There are more than the limit allowed. */
  more: boolean;
  unreadable?: string;
}

/** Types that hold nothing a key leads to. */
const withoutKeys: Record<string, string> = {
  ringbuf: "a ring buffer: what it carries goes to who reads it first",
  user_ringbuf: "a ring buffer from user space to the program",
  perf_event_array: "a perf event array: what it carries goes to who reads it first",
  queue: "a queue: to read is to take out",
  stack: "a stack: to read is to take out",
  bloom_filter: "a Bloom filter: it tells no keys",
};

/** What a map of the kernel's holds, as far as the limit allows. */
export function readEntries(
  kernel: KernelPort,
  info: MapInfo,
  { limit, perCpu }: { limit: number; perCpu: boolean },
): Pick<MapContents, "entries" | "more" | "unreadable"> {
  const reason = withoutKeys[info.type];
  if (reason !== undefined) return { more: false, unreadable: reason };
  using handles = new Handles(kernel);
  try {
    const fd = handles.own(kernel.openMapById(info.id));
    const types = kernel.mapTypes(fd);
    const { entries, more } = kernel.mapEntries(fd, limit);
    const ids = info.type === "prog_array" || info.type.endsWith("_of_maps");
    const number = { kind: "int", name: "", size: 4, signed: false, encoding: "int" } as const;
    const array = info.type.includes("array");
    const keyType = types && types.key.kind !== "other" ? types.key : array ? number : untyped(info.keySize);
    const valueType = ids ? number : (types?.value ?? untyped(info.valueSize));
    const cpus = (value: Buffer): Buffer[] =>
      info.type.includes("percpu") ? splitCpus(value, info.valueSize) : [value];
    return {
      more,
      entries: entries.map(({ key, value }) => ({
        key: isPrefixKey(keyType) ? prefixKey.decode(key) : decode(keyType, key),
        ...(perCpu && info.type.includes("percpu")
          ? { values: cpus(value).map((each) => decode(valueType, each)) }
          : { value: decodeSum(valueType, cpus(value)) }),
      })),
    };
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
    return { more: false, unreadable: error.message };
  }
}

/** `whose`: the line below the title. */
export function renderContents(map: MapContents, whose: string, page: Page): string[] {
  const size = `${map.entries?.length ?? 0}${map.more ? "+" : ""} of ${map.maxEntries}`;
  const title = [
    `${page.paint(printable(map.name), "strong")}  ${map.type}  ${size}  id ${map.id}`,
    `  ${page.paint(printable(whose), "faint")}`,
  ];
  if (map.entries === undefined) return [...title, `  ${page.paint(printable(map.unreadable ?? ""), "warn")}`];
  const array = map.type.endsWith("array");
  const kept = map.entries.filter((entry) => !array || !isZero(entry.values ?? entry.value ?? 0));
  const left = map.entries.length - kept.length;
  return [
    ...title,
    ...kept.flatMap(({ key, value, values }) =>
      values === undefined
        ? tree(inline(key), value ?? null, 2, page.width)
        : values.flatMap((each, cpu) => (isZero(each) ? [] : tree(`${inline(key)} cpu ${cpu}`, each, 2, page.width))),
    ),
    ...(map.entries.length === 0 ? [`  ${page.paint("empty", "faint")}`] : []),
    ...(left > 0 ? [`  ${page.paint(`${left} ${left === 1 ? "entry holds" : "entries hold"} zeros`, "faint")}`] : []),
    ...(map.more ? [`  ${page.paint("and more: --limit N", "faint")}`] : []),
  ];
}

/** A name and its value: on one line where it fits, else its parts below, two columns further in. */
function tree(name: string, value: Decoded, indent: number, width: number): string[] {
  const margin = " ".repeat(indent);
  const line = `${margin}${name}: ${inline(value)}`;
  const deep = typeof value === "object" && value !== null;
  const simple =
    !deep || !Object.values(value).some((part) => typeof part === "object" && part !== null && !Array.isArray(part));
  if (!deep || (simple && line.length <= width))
    return [line.length <= width ? line : `${line.slice(0, width - 3)}...`];
  const parts: [string, Decoded][] = Array.isArray(value)
    ? value.map((part, index) => [String(index), part])
    : Object.entries(value).map(([key, part]) => [printable(key), part]);
  const said = parts.filter(([, part]) => !isZero(part));
  const zeros = parts.length - said.length;
  return [
    `${margin}${name}:`,
    ...said.flatMap(([key, part]) => tree(key, part, indent + 2, width)),
    ...(zeros > 0 ? [`${margin}  (${zeros} of ${parts.length} are zero)`] : []),
  ];
}

function inline(value: Decoded): string {
  if (typeof value === "string") return printable(/^[\w.:/-]+$/.test(value) ? value : JSON.stringify(value));
  if (typeof value !== "object" || value === null) return String(value);
  if (Array.isArray(value)) return `[${value.map(inline).join(" ")}]`;
  return Object.entries(value)
    .map(([name, part]) => {
      const nested = typeof part === "object" && part !== null && !Array.isArray(part);
      return `${printable(name)}=${nested ? `{${inline(part)}}` : inline(part)}`;
    })
    .join(" ");
}

function isZero(value: Decoded): boolean {
  if (typeof value === "object" && value !== null) return Object.values(value).every(isZero);
  return value === 0 || value === false || value === "" || (typeof value === "string" && /^0+$/.test(value));
}
