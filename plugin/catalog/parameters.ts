// SPDX-License-Identifier: Apache-2.0
/**
 * The parameters of a program: its `const volatile` globals, typed by BTF and described by its own tags, so that no
 * second schema exists. Text becomes bytes for `.rodata` here, and bytes text again for people to read.
 */

import { code, RemoraError } from "../errors.ts";
import type { ObjectInfo, ObjectParameter } from "../kernel/port.ts";
import type { ParameterText } from "../model.ts";
import { codecFor, type ParameterCodec, typeText } from "./codec.ts";
import { BadTag, type ParameterTags, parameterTags, type Source } from "./tags.ts";
import { BadValue, integerBytes, integerOf } from "./value.ts";
import { didYouMean, listed, quote } from "./words.ts";

/** What a person needs to know to set a parameter, each value written as a user would. */
export interface ParameterDescription {
  name: string;
  /** `u64`, `char[16]`, `struct remora_rule[32]`, ... */
  type: string;
  /** Null for a plain number, boolean, string or enum. */
  unit: string | null;
  /** Bounds that the program sets, null where only its type does. */
  min: string | null;
  max: string | null;
  /** The names that are accepted, where there is a fixed set. */
  choices: string[];
  /** What of the pod's interface it is filled from where nobody sets it; a pod's annotation must not. */
  from: Source | null;
  /** The value in the object. */
  default: ParameterText;
  help: string;
  /** `a bit rate such as 10Mbit`, `a list of at most 32, each ...`; or that it cannot be set. */
  expects: string;
}

/** A value that was accepted: bytes by global (a list also sets its counter), and the canonical value. */
export interface Setting {
  bytes: { name: string; bytes: Buffer }[];
  shown: ParameterText;
}

export interface Parameter extends ParameterDescription {
  /** Throws BadValue. */
  set(value: ParameterText): Setting;
}

export type Parameters = ReadonlyMap<string, Parameter>;

/** Reads what an object says of its parameters. Throws RemoraError badObject where its tags contradict themselves or its types. */
export function readParameters(path: string, info: Pick<ObjectInfo, "parameters">): Parameters {
  const globals = new Map(info.parameters.map((global) => [global.name, global]));
  const tagged = info.parameters.map((global) => ({
    global,
    tags: inObject(path, global, () => parameterTags(global.tags)),
  }));
  const counters = new Set<string>();
  for (const { global, tags } of tagged) {
    if (tags.count === undefined) continue;
    inObject(path, global, () => requireCounter(global, globals.get(tags.count ?? ""), counters));
    counters.add(tags.count);
  }
  const parameters = new Map<string, Parameter>();
  for (const { global, tags } of tagged) {
    if (counters.has(global.name)) continue;
    const codec = inObject(path, global, () => codecFor(global.type, tags));
    inObject(path, global, () => requireFit(tags, codec));
    const counter = tags.count === undefined ? undefined : globals.get(tags.count);
    parameters.set(global.name, {
      name: global.name,
      type: typeText(global.type),
      unit: tags.unit ?? null,
      min: codec?.min ?? null,
      max: codec?.max ?? null,
      choices: codec?.choices ?? [],
      from: tags.from ?? null,
      default: codec === undefined ? "" : render(codec, global.initial, counter),
      help: tags.help ?? "",
      expects: expectation(codec),
      set: (value) => set(global, codec, counter, value),
    });
  }
  return parameters;
}

/** Sets one parameter by name. Throws BadValue, also where there is no such parameter. */
export function setParameter(parameters: Parameters, name: string, value: ParameterText): Setting {
  const parameter = parameters.get(name);
  if (parameter) return parameter.set(value);
  const names = [...parameters.keys()];
  const has = names.length === 0 ? "it has none" : `it has ${listed(names)}`;
  throw new BadValue(`there is no parameter ${quote(name)}${didYouMean(name, names) || ":"} ${has}`);
}

function inObject<T>(path: string, global: ObjectParameter, act: () => T): T {
  try {
    return act();
  } catch (error) {
    if (!(error instanceof BadTag)) throw error;
    throw new RemoraError(code.badObject, `${path}: parameter ${global.name}: ${error.message}`);
  }
}

/** Whether what it is filled from is a value of its kind. */
function requireFit({ from, unit }: ParameterTags, codec: ParameterCodec | undefined): void {
  if (from === undefined) return;
  const list = codec?.length !== undefined;
  const units: Record<Source, (string | undefined)[]> = {
    addresses: ["address", "prefix"],
    ipv4: ["address", "ipv4"],
    ipv6: ["address", "ipv6"],
    mac: ["mac"],
    mtu: [undefined],
    directions: [undefined],
  };
  if (codec && units[from].includes(unit) && list === (from === "addresses")) return;
  const shape = from === "addresses" ? "a list" : "one value";
  throw new BadTag(`its from ${from} is for ${shape} of unit ${units[from].map((one) => one ?? "none").join(" or ")}`);
}

function requireCounter(list: ObjectParameter, counter: ObjectParameter | undefined, taken: ReadonlySet<string>): void {
  if (list.type.kind !== "array") throw new BadTag("its count is for arrays");
  if (counter?.type.kind !== "int" || counter === list)
    throw new BadTag("its count names no integer global of the object");
  if (taken.has(counter.name)) throw new BadTag(`its count ${counter.name} is another list's already`);
  const most = (1n << BigInt(counter.type.size * 8 - (counter.type.signed ? 1 : 0))) - 1n;
  if (BigInt(list.type.length) > most)
    throw new BadTag(`its count ${counter.name} is too small for ${list.type.length}`);
}

function expectation(codec: ParameterCodec | undefined): string {
  if (codec === undefined) return "cannot be set: text cannot be turned into its type";
  return codec.length === undefined
    ? codec.element.expects
    : `a list of at most ${codec.length}, each ${codec.element.expects}`;
}

function set(
  global: ObjectParameter,
  codec: ParameterCodec | undefined,
  counter: ObjectParameter | undefined,
  value: ParameterText,
): Setting {
  if (codec === undefined) {
    throw new BadValue(`its type ${typeText(global.type)} cannot be set, since text cannot be turned into it`);
  }
  const text = textOf(value);
  if (codec.length === undefined) {
    const bytes = codec.element.encode(codec.element.verbatim ? text : text.trim());
    return { bytes: [{ name: global.name, bytes }], shown: codec.element.decode(bytes) };
  }
  const elements = text
    .split(/[;,\n]/)
    .map((element) => element.trim())
    .filter(Boolean);
  if (elements.length > codec.length) {
    throw new BadValue(`${quote(text)} has ${elements.length} elements, at most ${codec.length} are possible`);
  }
  const encoded = elements.map((element) => codec.element.encode(element));
  const bytes = Buffer.alloc(global.type.size);
  for (const [index, element] of encoded.entries()) bytes.set(element, index * codec.element.size);
  const changed: Setting["bytes"] = [{ name: global.name, bytes }];
  if (counter) changed.push({ name: counter.name, bytes: integerBytes(BigInt(elements.length), counter.type.size) });
  return { bytes: changed, shown: encoded.map((element) => codec.element.decode(element)).join("; ") };
}

/** A JSON or YAML number beyond 2^53 has already lost digits when it arrives here. */
function textOf(value: ParameterText): string {
  if (typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value)) {
    throw new BadValue(`${value} is beyond 2^53, where numbers lose digits: write it in quotes`);
  }
  return String(value);
}

/** Without a counter the elements behind the last one that is not zero are taken for unused. */
function render(codec: ParameterCodec, initial: Buffer, counter: ObjectParameter | undefined): ParameterText {
  const { element, length } = codec;
  if (length === undefined) return element.decode(initial);
  const values = Array.from({ length }, (_, index) =>
    initial.subarray(index * element.size, (index + 1) * element.size),
  );
  const used = counter
    ? Number(integerOf(counter.initial, false))
    : 1 + values.findLastIndex((value) => value.some((byte) => byte !== 0));
  return values
    .slice(0, used)
    .map((value) => element.decode(value))
    .join("; ");
}
