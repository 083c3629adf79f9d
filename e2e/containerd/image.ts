// SPDX-License-Identifier: Apache-2.0
/**
 * An OCI image made by hand: one layer with static busybox, its links and `send`, in a tar of the OCI image layout
 * (image-spec: image-layout.md, config.md, manifest.md), as `ctr images import` reads it. The same image serves as
 * the pods' pause image and as the tool image of their containers: without a command it sleeps.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { run } from "../lib/scratch.ts";

export const imageName = "remora.test/tools:1";

const applets = ["sh", "cat", "echo", "ping", "nc", "wget", "httpd", "sleep", "ls", "ip", "kill"];

/** Compiles what is to be compiled below `dir` and returns the image as bytes of a tar. */
export function buildImage(dir: string): Buffer {
  const send = join(dir, "send");
  run("gcc", "-static", "-O1", "-Wall", "-Werror", "-o", send, join(import.meta.dirname, "send.c"));
  const layer = tar([
    { name: "bin/" },
    { name: "tmp/" },
    { name: "www/" },
    { name: "bin/busybox", data: readFileSync("/bin/busybox"), mode: 0o755 },
    { name: "bin/send", data: readFileSync(send), mode: 0o755 },
    { name: "www/index.html", data: Buffer.from("hello from the other pod\n") },
    ...applets.map((applet) => ({ name: `bin/${applet}`, link: "busybox" })),
  ]);
  const architecture = { x64: "amd64", arm64: "arm64" }[process.arch as string] ?? process.arch;
  const config = json({
    architecture,
    os: "linux",
    config: { Entrypoint: ["/bin/sleep", "2147483647"], Env: ["PATH=/bin"] },
    rootfs: { type: "layers", diff_ids: [digest(layer)] },
  });
  const manifest = json({
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: describe("application/vnd.oci.image.config.v1+json", config),
    layers: [describe("application/vnd.oci.image.layer.v1.tar", layer)],
  });
  const index = json({
    schemaVersion: 2,
    manifests: [
      {
        ...describe("application/vnd.oci.image.manifest.v1+json", manifest),
        annotations: { "io.containerd.image.name": imageName },
      },
    ],
  });
  return tar([
    { name: "oci-layout", data: json({ imageLayoutVersion: "1.0.0" }) },
    { name: "index.json", data: index },
    ...[layer, config, manifest].map((data) => ({ name: `blobs/sha256/${digest(data).slice(7)}`, data })),
  ]);
}

const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
const digest = (data: Buffer): string => `sha256:${createHash("sha256").update(data).digest("hex")}`;
const describe = (mediaType: string, data: Buffer): { mediaType: string; digest: string; size: number } => ({
  mediaType,
  digest: digest(data),
  size: data.length,
});

interface TarEntry {
  /** Ends in `/` for a directory. At most 100 bytes. */
  name: string;
  data?: Buffer;
  mode?: number;
  /** Target of a symbolic link. */
  link?: string;
}

/** A POSIX ustar archive; everything belongs to root and dates from 1970, so that the same input gives the same bytes. */
function tar(entries: TarEntry[]): Buffer {
  const blocks = entries.flatMap(({ name, data = Buffer.alloc(0), mode, link }) => {
    const directory = name.endsWith("/");
    const header = Buffer.alloc(512);
    const octal = (value: number, offset: number, width: number) =>
      header.write(`${value.toString(8).padStart(width - 1, "0")}\0`, offset);
    header.write(name, 0);
    octal(mode ?? (directory ? 0o755 : 0o644), 100, 8);
    octal(0, 108, 8);
    octal(0, 116, 8);
    octal(data.length, 124, 12);
    octal(0, 136, 12);
    header.write(" ".repeat(8), 148); // the checksum counts itself as spaces
    header.write(directory ? "5" : link === undefined ? "0" : "2", 156);
    header.write(link ?? "", 157);
    header.write("ustar\x0000", 257);
    octal(
      header.reduce((sum, byte) => sum + byte, 0),
      148,
      7,
    );
    return [header, data, Buffer.alloc((512 - (data.length % 512)) % 512)];
  });
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}
