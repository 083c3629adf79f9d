// SPDX-License-Identifier: Apache-2.0
/**
 * The configuration of a DEL, read by hand and forgivingly. By hand, because a pod's end brings three to five DELs, and
 * each would load zod for two fields. Forgivingly, because a configuration that an older or newer Remora took must not
 * keep a pod from being removed: fields that are unknown or wrong are left out; only `bpffs`, which says where to
 * remove, is refused.
 */
import type { NodeConfig } from "../model.ts";
import { wrong } from "./errors.ts";
import { isObject, type JsonObject } from "./json.ts";

export type RemovalConfig = Pick<NodeConfig, "network" | "bpffs" | "log">;

export const defaultBpffs = "/sys/fs/bpf/remora";
export const defaultLevel = "info";

/** `network` is checked already. Throws code 7 for a `bpffs` that is no absolute path. */
export function readConfigForRemoval(configuration: JsonObject, network: string): RemovalConfig {
  const { bpffs = defaultBpffs, log } = configuration;
  if (!isPath(bpffs)) throw wrong("bpffs", "an absolute path", bpffs);
  return { network, bpffs, log: readLog(log) };
}

function readLog(log: unknown): NodeConfig["log"] {
  const { level, file } = isObject(log) ? log : {};
  return { level: typeof level === "string" ? level : defaultLevel, ...(isPath(file) ? { file } : {}) };
}

function isPath(value: unknown): value is string {
  return typeof value === "string" && value.startsWith("/");
}
