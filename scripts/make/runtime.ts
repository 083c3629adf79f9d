// SPDX-License-Identifier: Apache-2.0
/**
 * The runtime, dist/runtime: a Node single executable application that holds the bundled plugin, its code cache and
 * the addon, and beside it the dynamic loader and every shared library that it needs, so that it asks nothing of
 * the machine but its kernel.
 */

import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import { type BuildOptions, buildSync } from "esbuild";
import { command } from "./command.ts";
import { rehearse } from "./rehearsal.ts";
import { BuildError, refuseBuildPaths, type Step } from "./step.ts";
import type { Target } from "./target.ts";

export function runtimeStep(root: string, target: Target): Step {
  const addon = `${target.native}/Release/remora.node`;
  const dist = join(root, target.dist);
  return {
    name: "runtime",
    inputs: [
      ...["runtime.ts", "target.ts", "rehearsal.ts", "rehearse.cjs", "entry.cjs"].map((name) => `scripts/make/${name}`),
      ...["plugin", "package.json", "package-lock.json", addon, `${target.dist}/programs`],
      // Another architecture's is fetched where it is needed, and is what the lock file says.
      ...(target.runsHere ? [target.node()] : []),
    ],
    outputs: [`${target.dist}/runtime/remora-runtime`],
    run() {
      const node = target.node();
      const work = join(root, target.work, "runtime");
      const fresh = join(dist, "runtime.new");
      for (const folder of [work, fresh]) {
        rmSync(folder, { recursive: true, force: true });
        mkdirSync(folder, { recursive: true });
      }
      bundle(root, join(work, "bundle.cjs"));
      // A function of `require`, which is all that the bundle takes from its surroundings.
      const script = readFileSync(join(work, "bundle.cjs"), "utf8");
      writeFileSync(join(work, "main.js"), `(function(require){${script}\n})`);
      // V8 takes no cache of another architecture's making.
      if (target.runsHere) rehearse(root, work, join(work, "main.js"), join(work, "main.cache"));
      copyFileSync(join(root, "scripts/make/entry.cjs"), join(work, "entry.cjs"));
      copyFileSync(join(root, addon), join(work, "remora.node"));
      // Symbols and debug information are a fifth of Node. They must go before the application is put in: the
      // section that holds it does not survive a strip.
      command(target.tool("strip"), ["-s", "-o", join(work, "node"), node], root);
      // Relative names only: the executable keeps the main script's name.
      writeFileSync(
        join(work, "sea.json"),
        JSON.stringify({
          main: "entry.cjs",
          executable: "node",
          output: "remora-runtime",
          useCodeCache: target.runsHere,
          disableExperimentalSEAWarning: true,
          execArgvExtension: "none",
          assets: {
            "main.js": "main.js",
            ...(target.runsHere && { "main.cache": "main.cache" }),
            // The key is the name of the file that plugin/kernel/addon.ts writes.
            [`remora-${digest(join(root, addon))}.node`]: "remora.node",
          },
        }),
      );
      command(process.execPath, ["--build-sea", "sea.json"], work);
      renameSync(join(work, "remora-runtime"), join(fresh, "remora-runtime"));
      for (const library of target.libraries([node, addon])) {
        copyFileSync(library, join(fresh, basename(library)));
        chmodSync(join(fresh, basename(library)), 0o755);
      }
      refuseBuildPaths(root, fresh);
      // File by file: a runtime that is running keeps its old file, and the folder is never without one.
      const place = join(dist, "runtime");
      mkdirSync(place, { recursive: true });
      for (const name of readdirSync(place))
        if (!existsSync(join(fresh, name))) rmSync(join(place, name), { recursive: true });
      for (const name of readdirSync(fresh)) renameSync(join(fresh, name), join(place, name));
      rmSync(fresh, { recursive: true });
      rmSync(work, { recursive: true });
    },
  };
}

/** One file, in which what is imported lazily stays asleep until it is asked for. */
export function bundle(root: string, output: string): void {
  const options: BuildOptions = {
    absWorkingDir: root,
    entryPoints: ["plugin/main.ts"],
    outfile: output,
    bundle: true,
    platform: "node",
    target: `node${process.versions.node}`,
    // Starts 10 ms sooner than an ES module does. A bundled `import()` stays lazy; one of Node's own modules becomes
    // a require, since scripts with a code cache cannot import. Only code that runs from source asks where it lies.
    format: "cjs",
    supported: { "dynamic-import": false },
    define: { "import.meta.dirname": '""' },
    // Names stay, for stack traces that can be read.
    minifySyntax: true,
    minifyWhitespace: true,
    legalComments: "none",
    logLevel: "silent",
  };
  try {
    const { warnings } = buildSync(options);
    if (warnings.length > 0) throw new Error(warnings.map((warning) => warning.text).join("\n"));
  } catch (error) {
    throw new BuildError((error as Error).message);
  }
}

function digest(path: string): string {
  return createHash("sha256").update(readFileSync(path)).digest("hex").slice(0, 16);
}
