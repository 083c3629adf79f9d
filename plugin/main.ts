// SPDX-License-Identifier: Apache-2.0
/**
 * The process: the one file that touches the environment, stdin, stdout and the exit status. With CNI_COMMAND set it
 * is a CNI plugin, otherwise the command line tool. As a plugin, whatever happens inside, stdout gets one JSON object
 * at most, at the end.
 */
import { closeSync, constants, fstatSync, openSync, readSync, statSync } from "node:fs";
import { dispatch } from "./cni/dispatch.ts";
import { failure, type Outcome } from "./cni/errors.ts";
import { code, RemoraError } from "./errors.ts";
import type { ProcessLog } from "./log.ts";
import { writeWhole } from "./writing.ts";

/** A runtime writes the configuration and closes the pipe before Node has even started. */
const stdinDeadline = 10_000;
/** Within it a runtime reads the answer; and who watches packets gives the chain back when nobody reads any more. */
const stdoutDeadline = 10_000;
/** A configuration with every annotation a pod may carry (256 KiB), or a GC's list of a large node, is far below. */
const stdinLimit = 16 << 20;

if (process.env.CNI_COMMAND) beCniPlugin();
else beCommandLine();

// ---- the CNI plugin ----------------------------------------------------------------------------------------------

function beCniPlugin(): void {
  let log: ProcessLog | undefined;
  const end = async (outcome: Outcome): Promise<void> => {
    await log?.flush();
    finish(outcome);
  };
  // What nobody caught is an answer as well. With it printed the process is over, whatever is still under way.
  process.on("uncaughtException", (error) => finish(failure(error)));
  process.on("unhandledRejection", (error) => finish(failure(error)));
  void dispatch({ env: process.env, stdin: readStdin, isOwnNamespace }, async (config) => {
    const [{ openLog }, { createVerbs }, { createNativeKernel }] = await Promise.all([
      import("./log.ts"),
      import("./verbs/index.ts"),
      import("./kernel/native.ts"),
    ]);
    log = openLog(config.log);
    return createVerbs({ kernel: createNativeKernel, log });
  }).then(end);
}

/** Prints and ends the process. A result that cannot be delivered is a failure: then the runtime undoes the ADD. */
function finish({ stdout, exitCode }: Outcome): never {
  process.exit(print(stdout, stdoutDeadline) === undefined ? exitCode : 1);
}

/** @returns what the system said where it could not be written within so many milliseconds. */
function print(text: string, patience: number): NodeJS.ErrnoException | undefined {
  try {
    writeWhole(1, text, Date.now() + patience);
    return undefined;
  } catch (error) {
    return error as NodeJS.ErrnoException;
  }
}

function isOwnNamespace(netns: string): boolean {
  try {
    const [own, other] = ["/proc/self/ns/net", netns].map((path) => statSync(path, { bigint: true }));
    return own?.dev === other?.dev && own?.ino === other?.ino;
  } catch {
    return false;
  }
}

// ---- stdin -------------------------------------------------------------------------------------------------------

/** Reads stdin to its end. Throws code 5 where it fails or is not closed in time, code 6 where it is too long. */
async function readStdin(): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of stdinChunks(Date.now() + stdinDeadline)) {
      size += chunk.length;
      if (size > stdinLimit)
        throw new RemoraError(
          code.decodingFailure,
          `stdin: the network configuration is longer than ${stdinLimit >> 20} MiB`,
        );
      chunks.push(chunk);
    }
  } catch (error) {
    if (error instanceof RemoraError) throw error;
    throw new RemoraError(code.ioFailure, `stdin: ${(error as Error).message}`, { cause: error });
  }
  return Buffer.concat(chunks).toString("utf8");
}

/**
 * `process.stdin` would do, but costs 4 ms to build. A runtime's pipe is opened once more, without blocking (the flag
 * belongs to the open file, and the first one is shared with others), and a file is read as it is.
 */
async function* stdinChunks(deadline: number): AsyncGenerator<Buffer> {
  const fd = openStdin();
  if (fd === undefined) {
    yield* streamedStdin(deadline);
    return;
  }
  try {
    for (;;) {
      const chunk = Buffer.allocUnsafe(64 << 10);
      const length = readSome(fd, chunk);
      if (length === 0) return;
      if (length !== undefined) yield chunk.subarray(0, length);
      else if (Date.now() > deadline) throw late();
      else await new Promise((resolve) => setTimeout(resolve, 1));
    }
  } finally {
    if (fd !== 0) closeSync(fd);
  }
}

/** A descriptor whose reads do not block, or undefined where there is none: a socket, a terminal, no /proc. */
function openStdin(): number | undefined {
  const stdin = fstatSync(0);
  if (stdin.isFile()) return 0;
  if (!stdin.isFIFO()) return undefined;
  try {
    return openSync("/proc/self/fd/0", constants.O_RDONLY | constants.O_NONBLOCK);
  } catch {
    return undefined;
  }
}

/** Undefined where nothing is there yet, 0 at the end. */
function readSome(fd: number, chunk: Buffer): number | undefined {
  try {
    return readSync(fd, chunk);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EAGAIN") return undefined;
    throw error;
  }
}

async function* streamedStdin(deadline: number): AsyncGenerator<Buffer> {
  const timer = setTimeout(() => process.stdin.destroy(late()), deadline - Date.now());
  try {
    yield* process.stdin;
  } finally {
    clearTimeout(timer);
  }
}

function late(): RemoraError {
  return new RemoraError(
    code.ioFailure,
    `stdin: the network configuration did not end within ${stdinDeadline / 1000} s; is stdin still open?`,
  );
}

// ---- the command line --------------------------------------------------------------------------------------------

function beCommandLine(): void {
  let watched: { stop(): void } | undefined;
  let lost = false;
  // Without a listener, a stderr that nobody reads any more would end a trace before its chain is given back.
  process.stderr.on("error", () => {});
  void import("./cli/run.ts")
    .then(({ run }) =>
      run(process.argv.slice(2), {
        stdout: (text) => {
          // A pager's reader takes the time that he takes.
          const failure = print(text, watched ? stdoutDeadline : Number.POSITIVE_INFINITY);
          if (failure === undefined) return;
          // A reader that has seen enough (`| head`) is no failure to tell of.
          if (failure.code !== "EPIPE" && !lost) process.stderr.write(`remora: stdout: ${failure.message}\n`);
          lost = true;
          // Who watches has to put things back first.
          if (watched) watched.stop();
          else process.exit(1);
        },
        stderr: (text) => void process.stderr.write(text),
        isTerminal: process.stdout.isTTY === true,
        columns: process.stdout.columns ?? 0,
        watch: async () => {
          const { openWatch } = await import("./cli/watch.ts");
          const watch = openWatch(process.stdin, process.stdout);
          watched = watch;
          return watch;
        },
        env: process.env,
        executable: process.execPath,
      }),
    )
    .then((status) => {
      process.exitCode = status;
    });
}
