// SPDX-License-Identifier: Apache-2.0
/**
 * One at a time: whoever changes an attachment locks its folder (flock on the bpffs directory itself: no file to leave
 * behind, and the kernel unlocks when the process ends, however it ends). Different attachments never wait for each other.
 *
 * Every wait has a deadline, which is part of the interface. Whose folder is removed while he waits starts over: the lock
 * counts only as long as the path still names the folder that was locked.
 */

import { code, RemoraError } from "../errors.ts";
import { type Fd, KernelError, type KernelPort } from "../kernel/port.ts";
import type { AttachmentId } from "../model.ts";
import { makeAttachmentFolder, removeIfEmpty } from "./folders.ts";
import type { AttachmentPins } from "./pins.ts";

/**
 * How long each verb waits for the others, in milliseconds. What they wait for takes milliseconds itself; a tenth of a
 * second where 64 programs are loaded.
 *
 * ADD, CHECK and a change fail then with "try again later" (11). DEL goes on without the lock: it must neither hang nor fail,
 * and an ADD that it overtakes finds its folder gone and takes back what it made. GC does the same, as the runtime has said
 * that the container is dead. `remora gc` waits for nobody: where somebody is at work, nothing is stale. Who gives up maps
 * that pods share (`release`) waits for those who open some, or give up others; the next one sees to what he leaves.
 */
export const lockDeadlines = {
  add: 10_000,
  check: 10_000,
  change: 10_000,
  del: 5_000,
  gc: 1_000,
  release: 100,
};

/** Milliseconds between two tries. */
const shortest = 2;
const longest = 50;

export class Lock implements Disposable {
  readonly #kernel: KernelPort;
  readonly #directory: string;
  readonly #fd: Fd;

  constructor(kernel: KernelPort, directory: string, fd: Fd) {
    this.#kernel = kernel;
    this.#directory = directory;
    this.#fd = fd;
  }

  /** False once a DEL that would not wait has removed the folder. */
  held(): boolean {
    return this.#kernel.names(this.#directory, this.#fd);
  }

  [Symbol.dispose](): void {
    try {
      this.#kernel.close(this.#fd);
    } catch {}
  }
}

/** `busy`: another has it, or has just removed it. `gone`: there is no such folder. */
export function tryLock(kernel: KernelPort, pins: Pick<AttachmentPins, "directory">): Lock | "busy" | "gone" {
  let fd: Fd | undefined;
  try {
    fd = kernel.tryLock(pins.directory);
  } catch (error) {
    if (error instanceof KernelError && error.code === "ENOENT") return "gone";
    throw error;
  }
  if (fd === undefined) return "busy";
  const lock = new Lock(kernel, pins.directory, fd);
  let held = false;
  try {
    held = lock.held();
  } finally {
    if (!held) lock[Symbol.dispose]();
  }
  // The folder was removed meanwhile. Whether there is a new one in its place, the next look will tell.
  return held ? lock : "busy";
}

/**
 * Locks an attachment's folder.
 *
 * @param deadline milliseconds.
 * @returns `gone` where there is none, `busy` where the deadline has passed.
 * @throws KernelError.
 */
export async function lock(
  kernel: KernelPort,
  pins: Pick<AttachmentPins, "directory">,
  deadline: number,
): Promise<Lock | "busy" | "gone"> {
  const end = performance.now() + deadline;
  for (let pause = shortest; ; pause = Math.min(2 * pause, longest)) {
    const got = tryLock(kernel, pins);
    if (got !== "busy" || performance.now() >= end) return got;
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

/**
 * Locks an attachment's folder and makes it where it is missing.
 *
 * @throws RemoraError tryAgainLater at the deadline; KernelError.
 */
export async function claim(kernel: KernelPort, pins: AttachmentPins, deadline: number): Promise<Lock> {
  const end = performance.now() + deadline;
  try {
    for (;;) {
      makeAttachmentFolder(kernel, pins);
      const got = await lock(kernel, pins, Math.max(0, end - performance.now()));
      if (got instanceof Lock) return got;
      if (got === "busy" || performance.now() >= end) throw busy(pins, deadline);
    }
  } catch (error) {
    // An empty folder is nobody's: whoever is about to lock it makes it again.
    if (error instanceof KernelError)
      for (const path of [pins.directory, pins.network, pins.root])
        try {
          removeIfEmpty(kernel, path);
        } catch {}
    throw error;
  }
}

/**
 * The lock for who must neither hang nor fail: null where it cannot be had by the deadline, and he goes on without.
 *
 * @returns `gone` where there is nothing to lock. Then there is nothing to remove either: a folder that appears from now
 *   on is an ADD's that has just begun.
 */
export async function lockOrGoOn(
  kernel: KernelPort,
  pins: AttachmentPins,
  deadline: number,
): Promise<Lock | "gone" | null> {
  try {
    const got = await lock(kernel, pins, deadline);
    return got === "busy" ? null : got;
  } catch (error) {
    if (error instanceof KernelError) return null;
    throw error;
  }
}

/** Our own folder has vanished below us: only a DEL, or a collector told that the container is dead, does that. */
export function overtaken({ containerId, ifname }: AttachmentId, cause?: unknown): RemoraError {
  return new RemoraError(
    code.unknownContainer,
    `container ${containerId} was deleted while its chain on ${ifname} was being made`,
    { cause },
  );
}

/** The same, where an error says it; undefined where it says something else. */
export function byOvertaking(error: unknown, id: AttachmentId): RemoraError | undefined {
  const vanished =
    error instanceof KernelError &&
    error.code === "ENOENT" &&
    ["pin", "makeDirectory", "renamePin", "tryLock"].includes(error.operation);
  if (vanished) return overtaken(id, error);
  // Into a folder that we have locked and emptied only he writes who was overtaken and does not know it yet; he takes it back.
  const crowded =
    error instanceof KernelError && error.code === "EEXIST" && ["pin", "makeDirectory"].includes(error.operation);
  if (!crowded) return undefined;
  return new RemoraError(
    code.tryAgainLater,
    `another ADD of container ${id.containerId}, which was deleted meanwhile, is still at work on ${id.ifname}`,
    { cause: error },
  );
}

/** What is said where the deadline has passed. */
export function busy(pins: AttachmentPins, deadline: number): RemoraError {
  return new RemoraError(
    code.tryAgainLater,
    `another process has been at work on this attachment for ${deadline / 1000} s: ${pins.directory} is locked`,
  );
}
