// SPDX-License-Identifier: Apache-2.0
/**
 * Calls that must be refused before anything is done, with the answer. One table for two tests: of `dispatch`, and of
 * the executable (`e2e/protocol`).
 */

type Change = Record<string, unknown>;

export interface Refusal {
  name: string;
  /** On top of a good environment for the verb; undefined takes a variable away. */
  env: Record<string, string | undefined>;
  /** What stdin holds: text as it is, or a change to a good configuration (undefined takes a field away). */
  stdin: string | Change;
  code: number;
  /** What the message must say. */
  says: RegExp;
  cniVersion?: string;
}

export const goodEnvironment = {
  CNI_COMMAND: "ADD",
  CNI_CONTAINERID: "c0ffee",
  CNI_NETNS: "/run/netns/remora-there-is-none",
  CNI_IFNAME: "eth0",
  CNI_PATH: "/opt/cni/bin",
} as const;

export const goodConfiguration = {
  cniVersion: "1.1.0",
  name: "pods",
  type: "remora",
  prevResult: {
    cniVersion: "1.1.0",
    interfaces: [{ name: "eth0", sandbox: "/run/netns/remora-there-is-none" }],
    ips: [{ address: "10.0.0.2/24", interface: 0 }],
  },
};

/** Applies a change: fields that are undefined go away. */
export function changed(change: Change): string {
  return JSON.stringify({ ...goodConfiguration, ...change });
}

const annotations = (value: unknown): Change => ({
  runtimeConfig: { "io.kubernetes.cri.pod-annotations": value },
});
const previous = (change: Change): Change => ({ prevResult: { ...goodConfiguration.prevResult, ...change } });

const add = { CNI_COMMAND: "ADD" };
const check = { CNI_COMMAND: "CHECK" };
const del = { CNI_COMMAND: "DEL" };
const gc = { CNI_COMMAND: "GC" };
const status = { CNI_COMMAND: "STATUS" };

// biome-ignore format: a table reads by lines
export const refusals: Refusal[] = [
  // the environment
  { name: "everything missing, in one error", env: { CNI_CONTAINERID: undefined, CNI_NETNS: undefined, CNI_IFNAME: "", CNI_PATH: undefined }, stdin: {}, code: 4, says: /missing: CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH$/ },
  { name: "CHECK needs a namespace", env: { ...check, CNI_NETNS: undefined }, stdin: {}, code: 4, says: /: CNI_NETNS$/ },
  { name: "DEL needs an id", env: { ...del, CNI_CONTAINERID: undefined }, stdin: {}, code: 4, says: /: CNI_CONTAINERID$/ },
  { name: "GC needs CNI_PATH", env: { ...gc, CNI_PATH: undefined }, stdin: {}, code: 4, says: /: CNI_PATH$/ },
  { name: "STATUS needs CNI_PATH", env: { ...status, CNI_PATH: "" }, stdin: {}, code: 4, says: /: CNI_PATH$/ },
  { name: "an unknown verb", env: { CNI_COMMAND: "UPDATE" }, stdin: {}, code: 4, says: /unknown verb "UPDATE", expected one of ADD, DEL, CHECK, GC, STATUS, VERSION$/ },
  { name: "a verb in lower case", env: { CNI_COMMAND: "add" }, stdin: {}, code: 4, says: /unknown verb "add"/ },
  { name: "a container id with a slash", env: { CNI_CONTAINERID: "a/b" }, stdin: {}, code: 4, says: /CNI_CONTAINERID: "a\/b" must begin with/ },
  { name: "a container id that begins with a dot", env: { CNI_CONTAINERID: "..", ...del }, stdin: {}, code: 4, says: /CNI_CONTAINERID: "\.\."/ },
  { name: "a container id with a newline at its end", env: { CNI_CONTAINERID: "a\n" }, stdin: {}, code: 4, says: /CNI_CONTAINERID: "a\\n"/ },
  { name: "an interface name of 16 bytes", env: { CNI_IFNAME: "eth0123456789012" }, stdin: {}, code: 4, says: /at most 15 bytes/ },
  { name: "an interface name of 15 letters, 16 bytes", env: { CNI_IFNAME: "éth012345678901" }, stdin: {}, code: 4, says: /at most 15 bytes/ },
  { name: "an interface name with a colon", env: { CNI_IFNAME: "eth0:1" }, stdin: {}, code: 4, says: /CNI_IFNAME: "eth0:1" contains/ },
  { name: "an interface name with a space", env: { CNI_IFNAME: "eth 0" }, stdin: {}, code: 4, says: /contains/ },
  { name: "an interface named ..", env: { CNI_IFNAME: ".." }, stdin: {}, code: 4, says: /no device's name/ },
  { name: "the plugin's own namespace", env: { CNI_NETNS: "/proc/self/ns/net" }, stdin: {}, code: 8, says: /CNI_NETNS: "\/proc\/self\/ns\/net"/ },
  { name: "the plugin's own namespace in a DEL", env: { ...del, CNI_NETNS: "/proc/self/ns/net" }, stdin: {}, code: 8, says: /CNI_NETNS/ },
  { name: "CNI_ARGS with a key that nobody knows", env: { CNI_ARGS: "K8S_POD_NAME=a;COLOUR=blue;SIZE=1" }, stdin: {}, code: 4, says: /unknown keys COLOUR, SIZE; IgnoreUnknown=1/ },
  { name: "CNI_ARGS with IgnoreUnknown off", env: { CNI_ARGS: "IgnoreUnknown=0;COLOUR=blue" }, stdin: {}, code: 4, says: /unknown keys COLOUR/ },
  { name: "CNI_ARGS with a pair that is none", env: { CNI_ARGS: "IgnoreUnknown=1;COLOUR" }, stdin: {}, code: 4, says: /"COLOUR" is no pair/ },
  { name: "CNI_ARGS with two =", env: { ...check, CNI_ARGS: "K8S_POD_NAME=a=b" }, stdin: {}, code: 4, says: /"K8S_POD_NAME=a=b" is no pair/ },
  { name: "CNI_ARGS with a strange IgnoreUnknown", env: { CNI_ARGS: "IgnoreUnknown=yes" }, stdin: {}, code: 4, says: /IgnoreUnknown=yes, expected 0, 1/ },

  // stdin
  { name: "empty stdin", env: {}, stdin: "", code: 6, says: /^stdin is empty/ },
  { name: "blank stdin", env: gc, stdin: " \n\t", code: 6, says: /^stdin is empty/ },
  { name: "truncated JSON", env: {}, stdin: '{"cniVersion":"1.0.0","name"', code: 6, says: /^stdin: .*not valid JSON/ },
  { name: "not JSON at all", env: del, stdin: "cniVersion: 1.0.0", code: 6, says: /^stdin: .*not valid JSON/ },
  { name: "two documents", env: {}, stdin: "{}{}", code: 6, says: /^stdin: .*not valid JSON/ },
  { name: "a list", env: {}, stdin: "[]", code: 6, says: /a JSON object, got \[\]/ },
  { name: "null", env: status, stdin: "null", code: 6, says: /a JSON object, got null/ },
  { name: "a string", env: {}, stdin: '"remora"', code: 6, says: /a JSON object, got "remora"/ },
  { name: "lists nested beyond the stack", env: {}, stdin: `${"[".repeat(500_000)}${"]".repeat(500_000)}`, code: 6, says: /^stdin: / },
  { name: "no name", env: {}, stdin: { name: undefined }, code: 7, says: /^name is missing/ },
  { name: "an empty name, in a DEL too", env: del, stdin: { name: "" }, code: 7, says: /^name is missing/ },
  { name: "a name that is a number", env: {}, stdin: { name: 5 }, code: 6, says: /^name: expected text, got 5/ },
  { name: "a name with a slash", env: {}, stdin: { name: "../pods" }, code: 7, says: /^name: "\.\.\/pods" must begin/ },

  // versions
  { name: "a version that nobody knows", env: {}, stdin: { cniVersion: "9.9.9" }, code: 1, says: /"9\.9\.9"; Remora supports 0\.3\.1, 0\.4\.0, 1\.0\.0, 1\.1\.0/ },
  { name: "a version before ours", env: del, stdin: { cniVersion: "0.2.0" }, code: 1, says: /"0\.2\.0"/ },
  { name: "no version", env: {}, stdin: { cniVersion: undefined }, code: 1, says: /none, which means 0\.1\.0/ },
  { name: "a version that is a number", env: {}, stdin: { cniVersion: 1 }, code: 6, says: /^cniVersion: expected text/ },
  { name: "CHECK before 0.4.0", env: check, stdin: { cniVersion: "0.3.1" }, code: 1, says: /CHECK came with CNI 0\.4\.0/, cniVersion: "0.3.1" },
  { name: "GC before 1.1.0", env: gc, stdin: { cniVersion: "1.0.0" }, code: 1, says: /GC came with CNI 1\.1\.0/, cniVersion: "1.0.0" },
  { name: "STATUS before 1.1.0", env: status, stdin: { cniVersion: "0.4.0" }, code: 1, says: /STATUS came with CNI 1\.1\.0/, cniVersion: "0.4.0" },
  { name: "a prevResult of a version that nobody knows", env: {}, stdin: previous({ cniVersion: "0.2.0" }), code: 1, says: /prevResult\.cniVersion is "0\.2\.0"/ },

  // our own fields
  { name: "an unknown field", env: {}, stdin: { chian: [] }, code: 7, says: /^unknown field "chian"; known are programDirs, chain, allow/ },
  { name: "two unknown fields", env: check, stdin: { a: 1, "b.c": 2 }, code: 7, says: /^unknown fields "a", "b\.c"; known are/ },
  { name: "a field in the wrong case", env: status, stdin: { bpfFS: "/sys/fs/bpf" }, code: 7, says: /^unknown field "bpfFS"/ },
  { name: "an unknown field of an entry", env: {}, stdin: { chain: [{ program: "count" }, { program: "count", prio: 1 }] }, code: 7, says: /^unknown field "prio" in chain\[1\]; known are program, params, priority, directions, at$/ },
  { name: "an unknown field of log", env: {}, stdin: { log: { colour: true } }, code: 7, says: /^unknown field "colour" in log; known are level, file$/ },
  { name: "an unknown field of agent", env: {}, stdin: { agent: { socket: "/run/x", tcp: 1 } }, code: 7, says: /^unknown field "tcp" in agent; known are socket$/ },
  { name: "__proto__", env: {}, stdin: changed({ x: 0 }).replace('"x"', '"__proto__"'), code: 7, says: /^unknown field "__proto__"/ },
  { name: "an entry without a program", env: {}, stdin: { chain: [{}] }, code: 7, says: /^chain\[0\]\.program: expected a program's name, got nothing$/ },
  { name: "an entry that is only a name", env: {}, stdin: { chain: ["count"] }, code: 7, says: /^chain\[0\]: expected an object such as \{"program": "count"\}, got "count"$/ },
  { name: "a chain that is an object", env: {}, stdin: { chain: { program: "count" } }, code: 7, says: /^chain: expected a list of entries/ },
  { name: "a priority beyond 1000", env: {}, stdin: { chain: [{ program: "count", priority: 1001 }] }, code: 7, says: /^chain\[0\]\.priority: expected a whole number from 0 to 1000, got 1001$/ },
  { name: "a priority with a fraction", env: {}, stdin: { chain: [{ program: "count", priority: 0.5 }] }, code: 7, says: /^chain\[0\]\.priority: expected a whole number from 0 to 1000, got 0\.5$/ },
  { name: "a priority in quotes", env: {}, stdin: { chain: [{ program: "count", priority: "5" }] }, code: 7, says: /^chain\[0\]\.priority: .*, got "5"$/ },
  { name: "a direction that is none", env: {}, stdin: { chain: [{ program: "count", directions: ["in"] }] }, code: 7, says: /^chain\[0\]\.directions\[0\]: expected "ingress" or "egress", got "in"$/ },
  { name: "no direction", env: {}, stdin: { chain: [{ program: "count", directions: [] }] }, code: 7, says: /^chain\[0\]\.directions: expected a list of/ },
  { name: "a direction twice", env: {}, stdin: { chain: [{ program: "count", directions: ["egress", "egress"] }] }, code: 7, says: /each once/ },
  { name: "a place that is none", env: {}, stdin: { chain: [{ program: "count", at: "node" }] }, code: 7, says: /^chain\[0\]\.at: expected "pod" or "host", got "node"$/ },
  { name: "a parameter that is a list", env: {}, stdin: { chain: [{ program: "count", params: { rate: [1] } }] }, code: 7, says: /^chain\[0\]\.params\.rate: expected text, a number, true or false, got \[1\]$/ },
  { name: "a policy that is none", env: {}, stdin: { failurePolicy: "ajar" }, code: 7, says: /^failurePolicy: expected "closed" or "open", got "ajar"$/ },
  { name: "a hook that is none", env: {}, stdin: { hook: "xdp" }, code: 7, says: /^hook: expected "auto", "tcx" or "clsact", got "xdp"$/ },
  { name: "a relative bpffs, also in a DEL", env: del, stdin: { bpffs: "bpf" }, code: 7, says: /^bpffs: expected an absolute path, got "bpf"$/ },
  { name: "programDirs that is text", env: {}, stdin: { programDirs: "/etc" }, code: 7, says: /^programDirs: expected a list of absolute paths, got "\/etc"$/ },
  { name: "a relative program folder", env: {}, stdin: { programDirs: ["/a", "b"] }, code: 7, says: /^programDirs\[1\]: expected an absolute path, got "b"$/ },
  { name: "allow with a glob for a list", env: {}, stdin: { allow: { "kube-*": "*" } }, code: 7, says: /^allow\["kube-\*"\]: expected a list of program globs, got "\*"$/ },
  { name: "allow with a namespace that there cannot be", env: {}, stdin: { allow: { "*": ["*"], "Kube-System": [] } }, code: 7, says: /^allow: expected an object from namespace glob to .* \("Kube-System" cannot be one of its names\), got/ },
  { name: "allow with a program that there cannot be", env: {}, stdin: { allow: { shop: ["count", "a cl"] } }, code: 7, says: /^allow\.shop\[1\]: expected a program's name or glob, got "a cl"$/ },
  { name: "a parameter __proto__", env: {}, stdin: changed({ chain: [{ program: "count", params: { x: 1 } }] }).replace('"x"', '"__proto__"'), code: 7, says: /^chain\[0\]\.params: expected .* \("__proto__" cannot be one of its names\), got \{"__proto__":1\}$/ },
  { name: "a level that is none", env: {}, stdin: { log: { level: "loud" } }, code: 7, says: /^log\.level: expected one of .*, got "loud"$/ },
  { name: "everything that is wrong, in one error", env: {}, stdin: { hook: 1, bpffs: null, q: 1 }, code: 7, says: /hook: .*; bpffs: .*; unknown field "q"/ },
  { name: "kubeconfig, where it would be needed", env: {}, stdin: { kubeconfig: "/etc/kube/config" }, code: 2, says: /^kubeconfig: "\/etc\/kube\/config": .*not supported yet/ },

  // what the runtime and the other plugins say
  { name: "runtimeConfig that is a list", env: {}, stdin: { runtimeConfig: [] }, code: 7, says: /^runtimeConfig: expected an object, got \[\]$/ },
  { name: "annotations that are text", env: {}, stdin: annotations("a=b"), code: 7, says: /^runtimeConfig\["io\.kubernetes\.cri\.pod-annotations"\]: expected an object of texts, got "a=b"$/ },
  { name: "an annotation that is a number", env: {}, stdin: annotations({ "remora.io/programs": 5 }), code: 7, says: /\["remora\.io\/programs"\]: expected text, got 5$/ },
  { name: "ADD without prevResult", env: add, stdin: { prevResult: undefined }, code: 7, says: /^prevResult is missing: remora is a chained plugin/ },
  { name: "CHECK without prevResult", env: check, stdin: { prevResult: null }, code: 7, says: /^prevResult is missing/ },
  { name: "prevResult that is text", env: {}, stdin: { prevResult: "eth0" }, code: 7, says: /^prevResult: expected an object, got "eth0"$/ },
  { name: "interfaces that are an object", env: {}, stdin: previous({ interfaces: {} }), code: 7, says: /^prevResult\.interfaces: expected a list, got \{\}$/ },
  { name: "an interface without a name", env: {}, stdin: previous({ interfaces: [{ mac: "02:00:00:00:00:01" }] }), code: 7, says: /^prevResult\.interfaces\[0\]\.name: expected text, got nothing$/ },
  { name: "a sandbox that is a number", env: {}, stdin: previous({ interfaces: [{ name: "eth0", sandbox: 1 }] }), code: 7, says: /^prevResult\.interfaces\[0\]\.sandbox: expected text, got 1$/ },
  { name: "an address without a prefix length", env: {}, stdin: previous({ ips: [{ address: "10.0.0.2" }] }), code: 7, says: /^prevResult\.ips\[0\]\.address: expected an address with its prefix length/ },
  { name: "an address of no interface", env: {}, stdin: previous({ ips: [{ address: "10.0.0.2/8", interface: "eth0" }] }), code: 7, says: /^prevResult\.ips\[0\]\.interface: expected a whole number/ },
  { name: "a route without a destination", env: {}, stdin: previous({ routes: [{ gw: "10.0.0.1" }] }), code: 7, says: /^prevResult\.routes\[0\]\.dst: expected text, got nothing$/ },
  { name: "dns that is a list", env: {}, stdin: previous({ dns: [] }), code: 7, says: /^prevResult\.dns: expected an object, got \[\]$/ },
  { name: "GC with an object", env: gc, stdin: { "cni.dev/valid-attachments": {} }, code: 7, says: /^cni\.dev\/valid-attachments: expected a list/ },
  { name: "GC with an attachment that is none, in the old spelling", env: gc, stdin: { "cni.dev/attachments": [{ containerID: "a" }] }, code: 7, says: /^cni\.dev\/attachments\[0\]: expected an object/ },
];
