// SPDX-License-Identifier: Apache-2.0
/** The one place where what the kernel said becomes what a person reads. */

import { machine, release } from "node:os";
import { code, RemoraError } from "../errors.ts";
import { KernelError } from "../kernel/port.ts";
import { EntryFailed } from "./generation.ts";

/** The RemoraError for anything that was thrown; what is neither ours nor the kernel's is a bug, and stays as it is. */
export function asRemoraError(error: unknown): unknown {
  if (error instanceof EntryFailed) return explainEntry(error);
  if (error instanceof KernelError) return explainKernel(error);
  if (error instanceof AggregateError) return joinErrors(error.errors);
  return error;
}

/** Several errors as one: the code of the first, all of the messages. */
export function joinErrors(errors: unknown[]): unknown {
  const explained = errors.map(asRemoraError);
  const [first] = explained;
  if (!(first instanceof RemoraError) || explained.length === 1) return first;
  const messages = explained.map((error) => (error instanceof Error ? error.message : String(error)));
  const details = explained.map((error) => (error instanceof RemoraError ? error.details : "")).filter((text) => text);
  return new RemoraError(first.code, messages.join("; "), { details: details.join("\n"), cause: first });
}

/** The message names the function and, of a verifier's log, the line that says why; the whole log goes into `details`. */
function explainEntry(failed: EntryFailed): RemoraError {
  const { cause, selected, direction } = failed;
  const where = `${selected.program.name} ${selected.program.version} in the ${direction} chain`;
  const options = { details: cause.log ?? "", cause: failed };
  if (cause.code === "EREFUSED") return new RemoraError(code.badObject, `${where}: ${said(cause)}`, options);
  if (cause.log?.includes(unmixed))
    return new RemoraError(
      code.kernelTooOld,
      `${where}: a program with functions before another one, one with tail calls of its own, and a trace of several mix tail calls with BPF-to-BPF calls, which needs the BPF JIT, on x86-64 since Linux 5.10 and on arm64 since 6.0; this node runs Linux ${release()} on ${machine()}`,
      options,
    );
  if (isVerifierLog(cause.log)) return new RemoraError(code.verifierRefused, `${where}: ${said(cause)}`, options);
  return new RemoraError(code.kernelFailure, `${where} could not be loaded: ${said(cause)}`, options);
}

/** What the verifier says, since 5.10, where the JIT is off or cannot do it; the errno would be that of any refusal. */
const unmixed = "tail_calls are not allowed in non-JITed programs with bpf-to-bpf calls";

/** The verifier ends each of its logs with statistics; without them it is libbpf who speaks. */
function isVerifierLog(log: string | undefined): boolean {
  return log !== undefined && /^processed \d+ insns/m.test(log);
}

function explainKernel(error: KernelError): RemoraError {
  const options = { details: error.log ?? "", cause: error };
  if (
    error.operation === "attachTcx" &&
    !hasTcx(release()) &&
    ["EINVAL", "EOPNOTSUPP", "ENOTSUPP"].includes(error.code)
  )
    return new RemoraError(
      code.kernelTooOld,
      `attaching needs TCX links, which came with Linux 6.6; this node runs Linux ${release()}`,
      options,
    );
  if (error.operation === "attachFilter" && error.code === "EOPNOTSUPP")
    return new RemoraError(code.kernelTooOld, said(error), options);
  if (error.code === "EREFUSED") return new RemoraError(code.badObject, error.message, options);
  return new RemoraError(code.kernelFailure, said(error), options);
}

/** Whether a kernel of that release (`6.1.0-18-amd64`) has TCX. Asked only to explain a failure. */
export function hasTcx(release: string): boolean {
  const [major = 0, minor = 0] = release.split(".").map((part) => Number.parseInt(part, 10));
  return major > 6 || (major === 6 && minor >= 6);
}

/** The port's messages say what was tried and what to do about it; the errno's name is for those who look it up. */
function said({ code: errno, message }: KernelError): string {
  return errno === "EREFUSED" || message.includes(errno) ? message : `${message} (${errno})`;
}
