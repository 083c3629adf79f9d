// SPDX-License-Identifier: Apache-2.0
/**
 * Executes a conflist the way libcni does (`libcni/api.go`): plugin after plugin, each with the list's name and version,
 * the capabilities it asked for, and the result of the one before it; a DEL in reverse, with the result of the ADD.
 */
import { spawnSync } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { join } from "node:path";

export type Json = Record<string, unknown>;
export interface Conflist {
  cniVersion: string;
  name: string;
  plugins: (Json & { type: string; capabilities?: Record<string, boolean> })[];
}
/** One container on one network. */
export interface Attachment {
  containerId: string;
  netns: string;
  ifname: string;
  /** CNI_ARGS. */
  args?: string;
  /** What the runtime offers, by capability. */
  capabilities?: Json;
}

/** A plugin said no. `answer` is the error object it printed. */
export class PluginError extends Error {
  readonly plugin: string;
  readonly answer: { code: number; msg: string; details?: string };
  constructor(plugin: string, answer: PluginError["answer"]) {
    super(`${plugin}: ${answer.msg}${answer.details ? `; ${answer.details}` : ""}`);
    this.plugin = plugin;
    this.answer = answer;
  }
}

export interface ChainRunner {
  /** The result of the last plugin. Throws PluginError; what came before the failing plugin stays until a DEL. */
  add(attachment: Attachment): Json;
  check(attachment: Attachment, result: Json): void;
  /** The result is that of the ADD, where the runtime still has it. */
  del(attachment: Attachment, result?: Json): void;
  gc(valid: { containerID: string; ifname: string }[]): void;
  status(): void;
}

/**
 * @param host the network namespace that stands for the node's: plugins make their bridges and routes there.
 * @param path the folders of CNI_PATH.
 */
export function chainRunner(list: Conflist, host: string, path: string[]): ChainRunner {
  const run = (verb: string, plugin: Conflist["plugins"][number], attachment: Attachment | undefined, more: Json) => {
    const offered = Object.entries(attachment?.capabilities ?? {}).filter(([name]) => plugin.capabilities?.[name]);
    const configuration = {
      ...plugin,
      name: list.name,
      cniVersion: list.cniVersion,
      ...(offered.length > 0 ? { runtimeConfig: Object.fromEntries(offered) } : {}),
      ...more,
    };
    const child = spawnSync("nsenter", [`--net=${host}`, find(plugin.type, path)], {
      input: JSON.stringify(configuration),
      encoding: "utf8",
      timeout: 60_000,
      env: {
        PATH: process.env.PATH,
        CNI_COMMAND: verb,
        CNI_PATH: path.join(":"),
        ...(attachment && {
          CNI_CONTAINERID: attachment.containerId,
          CNI_NETNS: attachment.netns,
          CNI_IFNAME: attachment.ifname,
          CNI_ARGS: attachment.args ?? "",
        }),
      },
    });
    if (child.error) throw child.error;
    if (child.status !== 0) throw new PluginError(plugin.type, answerOf(child.stdout, child.stderr));
    return child.stdout;
  };
  const silent = (
    verb: string,
    plugin: Conflist["plugins"][number],
    attachment: Attachment | undefined,
    more: Json,
  ) => {
    const stdout = run(verb, plugin, attachment, more);
    if (stdout !== "") throw new Error(`${plugin.type} answered ${verb} with ${stdout}`);
  };
  return {
    add(attachment) {
      let prevResult: Json | undefined;
      for (const plugin of list.plugins)
        prevResult = JSON.parse(run("ADD", plugin, attachment, prevResult ? { prevResult } : {})) as Json;
      return prevResult ?? {};
    },
    check(attachment, prevResult) {
      for (const plugin of list.plugins) silent("CHECK", plugin, attachment, { prevResult });
    },
    del(attachment, prevResult) {
      // Before 0.4.0 a DEL brought no result.
      const more = prevResult && list.cniVersion !== "0.3.1" ? { prevResult } : {};
      for (const plugin of list.plugins.toReversed()) silent("DEL", plugin, attachment, more);
    },
    gc(valid) {
      const more = { "cni.dev/valid-attachments": valid, "cni.dev/attachments": valid };
      for (const plugin of list.plugins) silent("GC", plugin, undefined, more);
    },
    status() {
      for (const plugin of list.plugins) silent("STATUS", plugin, undefined, {});
    },
  };
}

function find(type: string, path: string[]): string {
  for (const folder of path) {
    try {
      accessSync(join(folder, type), constants.X_OK);
      return join(folder, type);
    } catch {
      // The next folder.
    }
  }
  throw new Error(`no plugin ${type} in ${path.join(", ")}`);
}

function answerOf(stdout: string, stderr: string): PluginError["answer"] {
  try {
    return JSON.parse(stdout) as PluginError["answer"];
  } catch {
    return { code: 0, msg: `no error object on stdout: ${stdout}${stderr}` };
  }
}
