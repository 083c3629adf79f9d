// SPDX-License-Identifier: Apache-2.0
/** How a program's parameters are shown, by `programs` and `inspect` alike. */

import { type ParameterDescription, readParameters } from "../catalog/parameters.ts";
import type { ObjectInfo } from "../kernel/port.ts";
import type { ParameterText } from "../model.ts";
import { type Column, type Row, table } from "./table.ts";
import type { Page } from "./terminal.ts";

/** The shape of a parameter in `--json`, for the help texts. */
export const parameterShape = `{"name","type","unit"|null,"min"|null,"max"|null,"choices":[NAME],
"from"|null,"default","expects","help"}`;

/**
 * The parameters of an object, as `--json` prints them.
 *
 * @param overrides what a manifest says instead of the object's own defaults.
 * @throws RemoraError (badObject) where the object's tags are wrong.
 */
export function describeParameters(
  path: string,
  info: ObjectInfo,
  overrides: Record<string, ParameterText> = {},
): ParameterDescription[] {
  return [...readParameters(path, info).values()].map(
    ({ name, type, unit, min, max, choices, from, default: initial, expects, help }) => ({
      name,
      type,
      unit,
      min,
      max,
      choices,
      from,
      default: Object.hasOwn(overrides, name) ? (overrides[name] ?? initial) : initial,
      expects,
      help,
    }),
  );
}

const columns: Column[] = [
  { title: "parameter" },
  { title: "type", fit: "wrap" },
  { title: "unit", optional: true },
  { title: "default", fit: "wrap" },
  { title: "range", fit: "wrap", optional: true },
];

export function parameterTable(page: Page, parameters: ParameterDescription[], indent: number): string[] {
  return table(page, columns, parameters.map(rowOf), indent);
}

/** What is said of a parameter that is filled from the pod's interface. */
const filled: Record<NonNullable<ParameterDescription["from"]>, string> = {
  addresses: "the addresses that the pod's interface was given",
  ipv4: "the first IPv4 address that the pod's interface was given",
  ipv6: "the first IPv6 address that the pod's interface was given",
  mac: "the MAC of the pod's interface",
  mtu: "the MTU of the pod's interface",
  directions: "the directions in which the program stands",
};

function rowOf({ name, type, unit, min, max, from, default: initial, expects, help }: ParameterDescription): Row {
  return {
    cells: [name, type, unit ?? "", initial === "" ? "-" : String(initial), boundsOf(min, max)],
    below: [help, expects, from === null ? "" : `unless the node sets it: ${filled[from]}`].filter(
      (text) => text !== "",
    ),
  };
}

function boundsOf(min: string | null, max: string | null): string {
  if (min === null) return max === null ? "" : `up to ${max}`;
  return max === null ? `${min} or more` : `${min} to ${max}`;
}
