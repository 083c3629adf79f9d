// SPDX-License-Identifier: Apache-2.0
/** The matrix: which kernels, what each of them has, and what is run on each. */

export interface Row {
  /** The version as people name it, or `newest`. */
  name: string;
  /** Debian's suite that carries it. */
  suite: string;
  has: readonly Feature[];
}

/** What came to Linux after 5.10, and since when: `since` ends the sentence "needs ...". */
export const features = {
  tcx: "TCX links, which came with Linux 6.6",
  callbacks: "functions that the kernel calls back (bpf_timer, bpf_loop), which came with Linux 5.15 and 5.17",
} as const;
export type Feature = keyof typeof features;

export const rows: readonly Row[] = [
  { name: "5.10", suite: "bullseye", has: [] },
  { name: "6.1", suite: "bookworm", has: ["callbacks"] },
  { name: "6.12", suite: "trixie", has: ["callbacks", "tcx"] },
  { name: "newest", suite: "sid", has: ["callbacks", "tcx"] },
];

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
  /** Seconds, of an emulated processor on a machine that may be busy. */
  limit: number;
}

export const checks: readonly Check[] = [
  { title: "library", file: "e2e/kernels/library.ts", limit: 100 },
  { title: "shapes", file: "native/shapes.test.ts", limit: 100, needs: "callbacks" },
  {
    title: "fixtures",
    file: "e2e/kernels/fixtures.ts",
    limit: 100,
    except: { "shape-functions": "callbacks", "shape-lock": "callbacks" },
  },
  { title: "chain", file: "native/stage.test.ts", limit: 100 },
  { title: "pod", file: "e2e/kernels/pod.ts", limit: 90 },
  { title: "clsact", file: "e2e/clsact/clsact.test.ts", limit: 200 },
  { title: "changes", file: "e2e/kernels/changes.ts", limit: 200 },
  { title: "interfaces", file: "e2e/interfaces/kinds-above.test.ts", limit: 120, needs: "tcx" },
  { title: "refusal", file: "e2e/kernels/too-old.ts", limit: 100, without: "tcx" },
];

/** Seconds a kernel may take, its boot included. */
export const kernelLimit = 600;
