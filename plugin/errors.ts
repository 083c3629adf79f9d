// SPDX-License-Identifier: Apache-2.0
/**
 * The one error that leaves Remora. Codes below 100 are CNI's own; from 100 on they are Remora's, and each is listed
 * in the README. Messages say what, where, and what would be right; `details` holds what is too long for a pod's event.
 */

export const code = {
  incompatibleVersion: 1,
  unsupportedField: 2,
  unknownContainer: 3,
  invalidEnvironment: 4,
  ioFailure: 5,
  decodingFailure: 6,
  invalidConfig: 7,
  ownNamespace: 8,
  tryAgainLater: 11,
  notAvailable: 50,
  limitedConnectivity: 51,
  unknownProgram: 100,
  programNotAllowed: 101,
  badParameter: 102,
  verifierRefused: 103,
  noInterface: 104,
  kernelTooOld: 105,
  badAnnotation: 106,
  badObject: 107,
  untrustedFile: 108,
  chainTooLong: 109,
  /** CHECK: what is attached differs from what was recorded. */
  attachmentDiffers: 110,
  kernelFailure: 111,
  badManifest: 112,
  /** Asked for, described, and not supported by this version. */
  unsupported: 113,
  internal: 199,
} as const;
export type ErrorCode = (typeof code)[keyof typeof code];

export class RemoraError extends Error {
  override readonly name = "RemoraError";
  readonly code: ErrorCode;
  readonly details: string;

  constructor(code: ErrorCode, message: string, options: { details?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? "";
  }
}
