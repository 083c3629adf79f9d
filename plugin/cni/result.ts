// SPDX-License-Identifier: Apache-2.0
/**
 * `prevResult`: what the plugins before us made. Remora adds no interface and no address, so an ADD answers with it.
 * It is cargo: a copy is read and checked, the original goes on with every number and every key that we do not know
 * as it came. Only where its version differs from the configuration's are the differences between the versions of the
 * specification applied, which are few: `ips[].version` went away with 1.0.0.
 */
import { code, RemoraError } from "../errors.ts";
import { wrong } from "./errors.ts";
import { isObject, type JsonObject, parseForPassing, show } from "./json.ts";
import { type CniVersion, isAtLeast, isSupported, supportedVersions } from "./version.ts";

/** What may be read of a prevResult. Some plugins name no sandbox, some no interfaces at all: then the kernel is asked. */
export interface PrevResult {
  interfaces: { name: string; mac: string; sandbox: string }[];
  /** `interface`: the place in `interfaces`, where the plugin says which one. */
  ips: { address: string; gateway: string; interface?: number }[];
}

/** Reads the copy. Throws code 7 where there is none, and where it is not what the specification says. */
export function readPrevResult(value: unknown): PrevResult {
  if (value === undefined || value === null)
    throw new RemoraError(
      code.invalidConfig,
      "prevResult is missing: remora is a chained plugin, list it after the plugin that makes the interface",
    );
  const result = object(value, "prevResult");
  readResultVersion(result.cniVersion);
  const addresses = list(result.ips, "prevResult.ips").map((item, index) =>
    readAddress(item, `prevResult.ips[${index}]`),
  );
  list(result.routes, "prevResult.routes").forEach((item, index) => {
    const path = `prevResult.routes[${index}]`;
    text(object(item, path).dst, `${path}.dst`);
  });
  if (result.dns !== undefined && result.dns !== null) object(result.dns, "prevResult.dns");
  return {
    interfaces: list(result.interfaces, "prevResult.interfaces").map((item, index) => {
      const path = `prevResult.interfaces[${index}]`;
      const entry = object(item, path);
      return {
        name: text(entry.name, `${path}.name`),
        mac: optionalText(entry.mac, `${path}.mac`),
        sandbox: optionalText(entry.sandbox, `${path}.sandbox`),
      };
    }),
    ips: addresses,
  };
}

/**
 * The answer to an ADD: the `prevResult` of the configuration, whose text was read and checked before, in the
 * configuration's version.
 */
export function passOn(configuration: string, cniVersion: CniVersion): string {
  const result = (parseForPassing(configuration) as JsonObject).prevResult as JsonObject;
  if (result.cniVersion === cniVersion) return JSON.stringify(result);
  // A result without a version has the configuration's (libcni: "prior to 1.0.0, results may not marshal one").
  const from = readResultVersion(result.cniVersion) ?? cniVersion;
  const isOld = (version: CniVersion): boolean => !isAtLeast(version, "1.0.0");
  const ips =
    isOld(from) === isOld(cniVersion) || !Array.isArray(result.ips)
      ? result.ips
      : result.ips.map(isOld(cniVersion) ? withFamily : withoutFamily);
  return JSON.stringify({ ...result, cniVersion, ...(ips === undefined ? {} : { ips }) });
}

function withFamily(ip: JsonObject): JsonObject {
  return { version: String(ip.address).includes(":") ? "6" : "4", ...ip };
}

function withoutFamily({ version: _, ...ip }: JsonObject): JsonObject {
  return ip;
}

function readResultVersion(value: unknown): CniVersion | undefined {
  if (value === undefined || value === null || value === "" || isSupported(value)) return value || undefined;
  throw new RemoraError(
    code.incompatibleVersion,
    `incompatible CNI versions: prevResult.cniVersion is ${show(value)}; Remora supports ${supportedVersions.join(", ")}`,
  );
}

function readAddress(item: unknown, path: string): PrevResult["ips"][number] {
  const entry = object(item, path);
  const address = text(entry.address, `${path}.address`);
  if (!/^[0-9a-fA-F.:]+\/\d{1,3}$/.test(address))
    throw wrong(`${path}.address`, "an address with its prefix length, such as 10.0.0.2/24", address);
  if (entry.interface !== undefined && entry.interface !== null && !Number.isInteger(entry.interface))
    throw wrong(`${path}.interface`, "a whole number, the place in prevResult.interfaces", entry.interface);
  return {
    address,
    gateway: optionalText(entry.gateway, `${path}.gateway`),
    ...(typeof entry.interface === "number" && { interface: entry.interface }),
  };
}

function object(value: unknown, path: string): JsonObject {
  if (!isObject(value)) throw wrong(path, "an object", value);
  return value;
}

/** Go writes an empty list as null, or not at all. */
function list(value: unknown, path: string): unknown[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw wrong(path, "a list", value);
  return value;
}

function text(value: unknown, path: string): string {
  if (typeof value !== "string" || value === "") throw wrong(path, "text", value);
  return value;
}

function optionalText(value: unknown, path: string): string {
  if (value === undefined || value === null) return "";
  if (typeof value !== "string") throw wrong(path, "text", value);
  return value;
}
