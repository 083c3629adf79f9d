// SPDX-License-Identifier: Apache-2.0
/**
 * CHECK: whether what is attached is what the record says. The first difference is named.
 *
 * A program id stands for a program with its parameters and its object: the kernel gives no id twice, and neither
 * instructions nor parameters (`.rodata`, frozen) change after the load. So comparing ids, slot by slot, compares order,
 * parameters and digests with those recorded at ADD. The record is not compared with today's configuration or
 * programs: they may have moved on since this pod's ADD, and a running pod is not at fault for that.
 */

import { code, RemoraError } from "../errors.ts";
import { type Fd, KernelError, type KernelPort } from "../kernel/port.ts";
import type { AttachmentId } from "../model.ts";
import { u32 } from "./bytes.ts";
import { type Hook, hooks } from "./hook.ts";
import { noNamespace } from "./namespace.ts";
import { programsAhead, wordsFor } from "./order.ts";
import { type AttachmentPins, nodeMapPins, pinsOf } from "./pins.ts";
import { type ChainPlace, chainPlaces, hookAt, requireHostEnd } from "./places.ts";
import {
  type AttachmentRecord,
  isSameNamespace,
  type RecordedChain,
  type RecordedStage,
  readRecord,
  recordedNamespace,
  wordsForNamespace,
} from "./record.ts";
import { tracedHead } from "./trace.ts";
import { Handles } from "./undo.ts";

/**
 * Compares an attachment with its record.
 *
 * @param netns the path that the runtime names today.
 * @returns the record, or undefined where there is nothing at all: whether that is right, the caller knows.
 * @throws RemoraError attachmentDiffers with the first difference, invalidEnvironment where `netns` is no namespace; KernelError.
 */
export function check(
  kernel: KernelPort,
  bpffs: string,
  id: AttachmentId,
  netns: string,
): AttachmentRecord | undefined {
  const pins = pinsOf(bpffs, id);
  const record = readRecord(kernel, pins);
  if (!record) {
    if (kernel.modified(pins.directory) === undefined) return undefined;
    throw differs(`${pins.directory} has no record: an ADD or a DEL did not end, or the record was removed`);
  }
  checkInterface(kernel, record, id, netns);
  if (record.host) requireHostEnd(kernel, record, netns);
  for (const place of chainPlaces) {
    const chain = record.chains[place];
    if (chain) checkChain(kernel, pins, record, place, chain);
    else refuseExtraLink(kernel, pins, place);
  }
  return record;
}

function differs(message: string): RemoraError {
  return new RemoraError(code.attachmentDiffers, message);
}

function checkInterface(kernel: KernelPort, record: AttachmentRecord, id: AttachmentId, netns: string): void {
  let found: ReturnType<KernelPort["findInterface"]>;
  try {
    found = kernel.findInterface(netns, id.ifname);
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
    if (error.code === "ENODEV") throw differs(`interface ${id.ifname} is not in ${netns} any more`);
    // It was there at the ADD.
    if (error.code === "ENOENT") throw differs(`the network namespace ${netns} is not there any more`);
    throw noNamespace(netns, error) ?? error;
  }
  if (!isSameNamespace(record.namespace, found.namespace))
    throw differs(
      `${netns} is network namespace ${wordsForNamespace(recordedNamespace(found.namespace))}, the chain was attached in ` +
        `${wordsForNamespace(record.namespace)}, then ${record.netns}`,
    );
  if (found.ifindex !== record.ifindex)
    throw differs(
      `interface ${id.ifname} has index ${found.ifindex}, the chain was attached to index ${record.ifindex}: it was replaced`,
    );
}

function checkChain(
  kernel: KernelPort,
  pins: AttachmentPins,
  record: AttachmentRecord,
  place: ChainPlace,
  chain: RecordedChain,
): void {
  using handles = new Handles(kernel);
  const paths = pins.direction(record.generation, place);
  checkLink(kernel, pins, record, place, chain);
  const array = openMap(kernel, paths.chain, `the ${place} chain is`, chain.chainId, handles);
  chain.stages.forEach((stage, position) => {
    checkSlot(kernel, array, place, position, stage);
  });
  openMap(kernel, paths.counters, `the ${place} counters are`, chain.countersId, handles);
  if (chain.baseId) openMap(kernel, paths.base, `the base of the ${place} counters is`, chain.baseId, handles);
  chain.stages.forEach(({ entries: [entry], maps }, position) => {
    for (const { name, id, scope, pinned } of maps) {
      // The program id stands for the others: a program's maps are its own for good.
      if (!pinned) continue;
      const path = scope === "node" ? nodeMapPins(pins.root, entry?.program).map(name) : paths.map(position, name);
      openMap(kernel, path, `map ${name} of ${place} position ${position} is`, id, handles);
    }
  });
}

function checkLink(
  kernel: KernelPort,
  pins: AttachmentPins,
  record: AttachmentRecord,
  place: ChainPlace,
  chain: RecordedChain,
): void {
  const { noun, pin, state }: Hook = hooks[record.hook];
  const path = pin(pins, place);
  const info = state(kernel, path);
  if (info.state === "missing") throw differs(`the ${place} ${noun} is missing: nothing is pinned at ${path}`);
  if (info.state === "foreign") throw differs(`${path} is a ${info.kind}, not the ${place} ${noun}`);
  if (info.state === "removed")
    throw differs(
      `the ${place} ${noun} is not on ${record.id.ifname} any more: no packet meets the chain; a process of the pod with ` +
        "CAP_NET_ADMIN can remove it; remora apply puts it back",
    );
  if (info.state === "unseen")
    throw differs(`the ${place} ${noun} cannot be looked at: ${record.netns} is not to be seen from here`);
  if (info.state === "detached") throw differs(`the ${place} ${noun} is detached: no packet meets the chain`);
  const hook = hookAt(place, { host: undefined, ...record });
  if (info.ifindex !== hook.ifindex)
    throw differs(
      `the ${place} ${noun} is attached to interface index ${info.ifindex}, the record says ${hook.ifindex}`,
    );
  if (info.direction !== null && info.direction !== hook.direction)
    throw differs(`the ${noun} at ${path} is attached to ${info.direction}`);
  const first = chain.stages[0];
  // While somebody traces, the same programs report what they do: another head, for as long as he is there.
  const heads = [first?.programId, tracedHead(kernel, pins, place)];
  if (first && !heads.includes(info.programId))
    throw differs(
      `the ${place} ${noun} runs program id ${info.programId}, the record says ${first.programId} (${words(first)})`,
    );
  if (place !== "host") return;
  const [ahead] = programsAhead(kernel, pins, record, place);
  if (ahead)
    throw differs(
      `the host link is not the first any more on ingress of ${record.host?.ifname}: ${wordsFor(ahead)} was attached before ` +
        "it, and packets that it ends never meet the chain; remora apply puts the chain first again",
    );
}

/** A slot's value is, for user space, the id of its program. */
function checkSlot(kernel: KernelPort, array: Fd, place: ChainPlace, position: number, stage: RecordedStage): void {
  const found = kernel.lookupMap(array, u32(position))?.readUInt32LE();
  if (found === stage.programId) return;
  throw differs(
    `position ${position} of the ${place} chain holds ${found === undefined ? "no program" : `program id ${found}`}, ` +
      `the record says ${stage.programId} (${words(stage)})`,
  );
}

function openMap(kernel: KernelPort, path: string, what: string, id: number, handles: Handles): Fd {
  const pinned = handles.openPin(path);
  if (!pinned) throw differs(`${what} missing: nothing is pinned at ${path}`);
  if (pinned.kind !== "map") throw differs(`${what} not a map: ${path} is a ${pinned.kind}`);
  const found = kernel.mapInfo(pinned.fd).id;
  if (found !== id) throw differs(`${what} map id ${found}, the record says ${id}`);
  return pinned.fd;
}

function refuseExtraLink(kernel: KernelPort, pins: AttachmentPins, place: ChainPlace): void {
  for (const { noun, pin, state } of Object.values(hooks))
    if (state(kernel, pin(pins, place)).state !== "missing")
      throw differs(`the record has no ${place} chain, yet a ${noun} is pinned at ${pin(pins, place)}`);
}

function words({ entries }: RecordedStage): string {
  return entries.map(({ program, version }) => `${program} ${version}`).join("+");
}
