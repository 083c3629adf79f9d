// SPDX-License-Identifier: Apache-2.0
/** Maps that a program has only where a parameter asks for them (the tag `when` of bpf/include/remora/params.h). */

import type { Selected } from "../model.ts";

/** Those that these parameters make needless: they are not made, and what they would cost is not paid. */
export function unneededMaps({ program, parameters }: Pick<Selected, "program" | "parameters">): string[] {
  const value = (name: string): Buffer | undefined =>
    parameters.findLast((parameter) => parameter.name === name)?.bytes ??
    program.info.parameters.find((parameter) => parameter.name === name)?.initial;
  return Object.entries(program.mapConditions)
    .filter(([, parameter]) => !value(parameter)?.some((byte) => byte !== 0))
    .map(([map]) => map);
}
