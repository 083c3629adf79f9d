// SPDX-License-Identifier: Apache-2.0
/** The matrix: which kernels, what each of them has, and what is run on each. */
import type { Architecture } from "../../scripts/make/target.ts";

export interface Row {
  /** The version as people name it, or `newest`. */
  name: string;
  /** Debian's suite that carries it. */
  suite: string;
  has: readonly Feature[];
}

/** What not every kernel here has, and since when Linux has it: `since` ends the sentence "needs ...". */
export const features = {
  mixed: "tail calls mixed with BPF-to-BPF calls, which came with Linux 5.10 on x86-64 and 6.0 on arm64",
  tcx: "TCX links, which came with Linux 6.6",
  netkit: "netkit devices, which came with Linux 6.7",
  callbacks: "functions that the kernel calls back (bpf_timer, bpf_loop), which came with Linux 5.15 and 5.17",
} as const;
export type Feature = keyof typeof features;

export const rows: readonly Row[] = [
  { name: "5.10", suite: "bullseye", has: ["mixed"] },
  { name: "6.1", suite: "bookworm", has: ["mixed", "callbacks"] },
  { name: "6.12", suite: "trixie", has: ["mixed", "callbacks", "tcx", "netkit"] },
  { name: "newest", suite: "sid", has: ["mixed", "callbacks", "tcx", "netkit"] },
];

/** The same kernels, of that architecture. */
export const rowsOf = (architecture: Architecture): readonly Row[] =>
  architecture === "arm64"
    ? rows.map((row) => (row.name === "5.10" ? { ...row, has: row.has.filter((name) => name !== "mixed") } : row))
    : rows;

/** A file that runs on a kernel: a test file of the repository, or one of this folder. */
export interface Check {
  /** The column's title. */
  title: string;
  file: string;
  /** Where the kernel lacks this, the whole file does not run. */
  needs?: Feature;
  /** Where the kernel has this, the whole file does not run. */
  without?: Feature;
  /** Single tests, by name, that must fail where the kernel lacks the feature, and pass elsewhere. */
  except?: Readonly<Record<string, Feature>>;
  /** Seconds, of an emulated x86-64 processor on a machine that may be busy; others have more (see architecture.ts). */
  limit: number;
}

export const checks: readonly Check[] = [
  {
    title: "library",
    file: "e2e/kernels/library.ts",
    limit: 300,
    except: {
      "all of them in one chain, but for the one that lets nothing through where it was told of no address": "mixed",
    },
  },
  { title: "shapes", file: "native/shapes.test.ts", limit: 300, needs: "callbacks" },
  {
    title: "fixtures",
    file: "e2e/kernels/fixtures.ts",
    needs: "mixed",
    limit: 300,
    except: { "shape-functions": "callbacks", "shape-lock": "callbacks" },
  },
  { title: "chain", file: "native/stage.test.ts", limit: 300, needs: "mixed" },
  {
    title: "in place",
    file: "native/inplace.test.ts",
    limit: 300,
    needs: "mixed",
    except: { "functions that the kernel calls back return to it": "callbacks" },
  },
  { title: "pod", file: "e2e/kernels/pod.ts", limit: 300 },
  { title: "clsact", file: "e2e/clsact/clsact.test.ts", limit: 300, needs: "mixed" },
  { title: "changes", file: "e2e/kernels/changes.ts", limit: 300, needs: "mixed" },
  { title: "interfaces", file: "e2e/interfaces/kinds-above.test.ts", limit: 300, needs: "tcx" },
  { title: "netkit", file: "e2e/interfaces/netkit.test.ts", limit: 300, needs: "netkit" },
  { title: "crash", file: "e2e/kernels/crash.ts", limit: 300, needs: "mixed" },
  { title: "no tcx", file: "e2e/kernels/too-old.ts", limit: 300, needs: "mixed", without: "tcx" },
  { title: "no chain", file: "e2e/kernels/unmixed.ts", limit: 300, without: "mixed" },
];

/** Seconds a kernel may take on that processor, its boot included. */
export const kernelLimit = 1080;
