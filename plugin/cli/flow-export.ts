// SPDX-License-Identifier: Apache-2.0
/** The IPFIX file of `remora flows`: an observation domain for each of the pod's attachments. */

import { createHash } from "node:crypto";
import { type Change, exported } from "../flows/changes.ts";
import { type Domain, encode, encodeNames } from "../flows/ipfix.ts";
import { type IpfixFile, openIpfixFile } from "../flows/ipfix-file.ts";
import type { Recorded } from "./records.ts";
import { ownerOf } from "./selector.ts";

export class FlowExport implements Disposable {
  /** Flow records that were added. */
  records = 0;
  readonly #file: IpfixFile;
  readonly #streams: Map<Recorded, { domain: Domain; sequence: number; opening: boolean }>;
  #pending: Buffer[];

  /**
   * @param now milliseconds since the epoch, as of `add`.
   * @throws RemoraError ioFailure, as `flush`.
   */
  constructor(path: string, all: Recorded[], now: number) {
    const domains = all.map(domainOf);
    this.#streams = new Map(
      all.map((one, index) => [one, { domain: domains[index] as Domain, sequence: 0, opening: true }]),
    );
    this.#pending = [encodeNames(domains, Math.floor(now / 1000))];
    this.#file = openIpfixFile(path);
  }

  add(recorded: Recorded, changes: Change[], now: number): void {
    const stream = this.#streams.get(recorded);
    if (stream === undefined) throw new Error("flows of an attachment that is not exported");
    const flows = changes.map((change) => exported(change, now));
    const { messages, sequence } = encode(flows, { ...stream, time: Math.floor(now / 1000) });
    this.#streams.set(recorded, { ...stream, sequence, opening: false });
    this.#pending.push(...messages);
    this.records += changes.length;
  }

  /** Writes what was added. The file has its name from the first time on. */
  flush(): void {
    if (this.#pending.length > 0) this.#file.append(this.#pending);
    this.#pending = [];
  }

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
  }
}

/** The same number for the same attachment in every file. */
function domainOf({ status, record }: Recorded): Domain {
  const { containerId, ifname } = record.id;
  const digest = createHash("sha256").update(`${containerId}/${ifname}`).digest();
  return { id: digest.readUInt32BE() || 1, name: `${ownerOf(status)} ${ifname}` }; // 0 is no domain's
}
