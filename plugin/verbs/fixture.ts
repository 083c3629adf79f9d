// SPDX-License-Identifier: Apache-2.0
/** For tests: requests as dispatch makes them, and a log that is kept. */

import type { AddRequest } from "../cni/request.ts";
import type { Log } from "../log.ts";
import type { NodeConfig } from "../model.ts";

export interface KeptLog extends Log {
  lines: string[];
}

/** A log that keeps `level: message`. */
export function keepLog(): KeptLog {
  const lines: string[] = [];
  const at = (level: string) => (message: string) => {
    lines.push(`${level}: ${message}`);
  };
  return { lines, debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}

export interface Sketch {
  config?: Partial<NodeConfig>;
  containerId?: string;
  netns: string;
  ifname?: string;
  annotations?: Record<string, string>;
}

/** A request that serves every verb about an attachment. */
export function request(programDir: string, bpffs: string, sketch: Sketch): AddRequest {
  const { netns, containerId = "c0ffee", ifname = "eth0", annotations } = sketch;
  return {
    config: {
      network: "podnet",
      programDirs: [programDir],
      chain: [],
      allow: { "*": ["*"] },
      failurePolicy: "closed",
      hook: "auto",
      bpffs,
      agent: { socket: "/run/remora/agent.sock" },
      log: { level: "info" },
      ...sketch.config,
    },
    cniVersion: "1.1.0",
    containerId,
    netns,
    ifname,
    pod: { namespace: "default", name: "web", uid: "u1" },
    annotations,
    prevResult: { interfaces: [{ name: ifname, mac: "", sandbox: netns }], ips: [] },
  };
}
