// SPDX-License-Identifier: Apache-2.0
/** What the machine's own files in /proc and /sys tell. Each check takes a file's text, undefined where there is none. */

import { mountCommand, remountCommand } from "../../chain/bpffs.ts";
import type { KernelPort } from "../../kernel/port.ts";
import { type Check, reasonOf } from "./check.ts";

/** `[6, 18]` of `6.18.44-generic`; [0, 0] of anything else. */
export function releaseNumbers(release: string | undefined): [number, number] {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(release ?? "") ?? [];
  return [Number(major ?? 0), Number(minor ?? 0)];
}

export function isAtLeast(release: string | undefined, major: number, minor: number): boolean {
  const [isMajor, isMinor] = releaseNumbers(release);
  return isMajor > major || (isMajor === major && isMinor >= minor);
}

/**
 * The release decides nothing by itself (distributions port features back); it explains what the other checks find.
 * @param architecture as `uname -m` prints it.
 */
export function checkRelease(release: string | undefined, architecture: string): Check {
  const check = "Linux release";
  const found = `${release?.trim() || "unknown"} on ${architecture}`;
  // Tail calls mixed with BPF-to-BPF calls: the JIT of x86-64 has them since 5.10, that of arm64 since 6.0.
  const [major, minor] = architecture === "aarch64" ? [6, 0] : [5, 10];
  if (!isAtLeast(release, major, minor)) {
    return {
      check,
      state: "missing",
      found,
      remedy: `chains of several programs need Linux ${major}.${minor} or later on ${architecture}; before, only the last may have functions, as the library's have`,
    };
  }
  if (!isAtLeast(release, 6, 6)) {
    return { check, state: "note", found, remedy: "TCX came with Linux 6.6; see the TCX check" };
  }
  return { check, state: "ok", found };
}

/** Bits of CapEff, include/uapi/linux/capability.h. CAP_SYS_ADMIN covers CAP_BPF and CAP_PERFMON, and setns needs it. */
const neededCapabilities = { CAP_NET_ADMIN: 12n, CAP_SYS_ADMIN: 21n };

/** @param status the text of /proc/self/status. */
export function checkCapabilities(status: string | undefined): Check {
  const check = "capabilities";
  const [, hex] = /^CapEff:\s*([0-9a-f]+)$/m.exec(status ?? "") ?? [];
  const effective = BigInt(`0x${hex ?? "0"}`);
  const lacking = Object.entries(neededCapabilities).filter(([, bit]) => ((effective >> bit) & 1n) === 0n);
  if (lacking.length === 0) return { check, state: "ok", found: Object.keys(neededCapabilities).join(", ") };
  return {
    check,
    state: "missing",
    found: `${lacking.map(([name]) => name).join(" and ")} lacking`,
    remedy: "run it as root; the container runtime does so when it runs CNI plugins",
  };
}

/** @param enabled the text of /proc/sys/net/core/bpf_jit_enable. */
export function checkJit(enabled: string | undefined): Check {
  const check = "BPF JIT";
  if (enabled === undefined) {
    return { check, state: "note", found: "unknown: /proc/sys/net/core/bpf_jit_enable is not there" };
  }
  if (enabled.trim() !== "0") return { check, state: "ok", found: "on" };
  return {
    check,
    state: "missing",
    found: "off; the interpreter cannot mix tail calls with BPF-to-BPF calls",
    remedy: "sysctl -w net.core.bpf_jit_enable=1, and keep it in /etc/sysctl.d/",
  };
}

/** @param present whether /sys/kernel/btf/vmlinux is there. */
export function checkBtf(present: boolean): Check {
  const check = "kernel BTF";
  if (present) return { check, state: "ok", found: "/sys/kernel/btf/vmlinux" };
  return {
    check,
    state: "note",
    found: "none: programs that use CO-RE or kernel functions cannot be loaded, others can",
    remedy: "a kernel built with CONFIG_DEBUG_INFO_BTF=y",
  };
}

/**
 * Before 5.11 the memory of maps and programs counts against RLIMIT_MEMLOCK.
 * @param limits the text of /proc/self/limits.
 * @returns undefined where the limit does not matter.
 */
export function checkMemlock(release: string | undefined, limits: string | undefined): Check | undefined {
  if (isAtLeast(release, 5, 11)) return undefined;
  const [, soft] = /^Max locked memory\s+(\S+)/m.exec(limits ?? "") ?? [];
  if (soft === "unlimited") return { check: "locked memory", state: "ok", found: "unlimited" };
  return {
    check: "locked memory",
    state: "note",
    found: `limited to ${soft ?? "an unknown number of"} bytes, and Linux before 5.11 counts maps against it`,
    remedy: "LimitMEMLOCK=infinity in the unit of the container runtime",
  };
}

export function checkBpffs(bpffs: string, kernel: Pick<KernelPort, "isBpffs" | "readOnlyMount">): Check {
  const check = "bpffs";
  try {
    if (!kernel.isBpffs(bpffs))
      return { check, state: "missing", found: `${bpffs} is not on a bpffs`, remedy: mountCommand(bpffs) };
    const mount = kernel.readOnlyMount(bpffs);
    if (mount === undefined) return { check, state: "ok", found: bpffs };
    return { check, state: "missing", found: `${mount} is mounted read-only`, remedy: remountCommand(mount) };
  } catch (error) {
    return { check, state: "missing", found: reasonOf(error), remedy: mountCommand(bpffs) };
  }
}
