// SPDX-License-Identifier: Apache-2.0
/** Which versions of the CNI specification Remora speaks, and which verb came with which of them. */
import { code, RemoraError } from "../errors.ts";

/** In ascending order; the last one is what is answered where nobody named a version. */
export const supportedVersions = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] as const;
export type CniVersion = (typeof supportedVersions)[number];
export const newestVersion: CniVersion = "1.1.0";

export function isSupported(version: unknown): version is CniVersion {
  return (supportedVersions as readonly unknown[]).includes(version);
}

/** True where `version` is `least` or newer. Both are supported ones, so their place in the list decides. */
export function isAtLeast(version: CniVersion, least: CniVersion): boolean {
  return supportedVersions.indexOf(version) >= supportedVersions.indexOf(least);
}

/**
 * The version of a network configuration. Throws code 6 for what is no string, code 1 for a version that Remora does
 * not speak. A configuration without one is of version 0.1.0 (CNI specification, since 0.2.0).
 */
export function readVersion(value: unknown): CniVersion {
  if (isSupported(value)) return value;
  if (value !== undefined && value !== null && typeof value !== "string")
    throw new RemoraError(
      code.decodingFailure,
      `cniVersion: expected text such as "1.0.0", got ${JSON.stringify(value)}`,
    );
  const found = value ? `"${value}"` : "none, which means 0.1.0";
  throw new RemoraError(
    code.incompatibleVersion,
    `incompatible CNI versions: the configuration's cniVersion is ${found}; Remora supports ${supportedVersions.join(", ")}`,
  );
}
